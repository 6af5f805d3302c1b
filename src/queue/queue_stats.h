// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_QUEUE_QUEUE_STATS_H_
#define UTPROXY_QUEUE_QUEUE_STATS_H_

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace utproxy {

// What the kernel tells of a bound queue (seq_show in nfnetlink_queue.c).
struct QueueStats {
  uint16_t number = 0;
  uint32_t port_id = 0;  // netlink port of the program that bound it; mostly its process id
  uint32_t depth = 0;    // packets that wait for a verdict
  uint32_t copy_mode = 0;
  uint32_t copy_range = 0;
  uint32_t dropped = 0;       // since binding: the queue was full
  uint32_t user_dropped = 0;  // since binding: the socket buffer was full
  uint32_t last_id = 0;       // id of the last packet queued
};

// Reads lines of /proc/net/netfilter/nfnetlink_queue; a line that is none of them is left out.
std::vector<QueueStats> ParseQueueStats(absl::string_view text);

// For a process that is to lose the right to open that file, which is root's: it stays open from
// now on, and all threads read it as the calling thread's network namespace has it.
absl::Status KeepQueueStatsOpen();

// All bound queues of the calling thread's network namespace. kNotFound where the kernel has no
// nfnetlink_queue (yet).
absl::StatusOr<std::vector<QueueStats>> ReadQueueStats();
// One queue's; nullopt where it is not bound.
absl::StatusOr<std::optional<QueueStats>> ReadQueueStats(uint16_t number);

}  // namespace utproxy

#endif  // UTPROXY_QUEUE_QUEUE_STATS_H_
