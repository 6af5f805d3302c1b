// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_QUEUE_OPTIONS_H_
#define UTPROXY_QUEUE_OPTIONS_H_

#include <cstdint>

namespace utproxy {

// The kernel copies no more than this of a packet (nfnetlink_queue.c, NFQNL_MAX_COPY_RANGE).
inline constexpr uint32_t kMaxCopyRange = 0xffff - 4;
// Kernels that find verdicts' packets by hash hold no more than this in one queue; the others take
// any length.
inline constexpr uint32_t kMaxQueueLength = 65536;

// How one NFQUEUE is bound. The defaults suit a router; a plain value.
struct QueueOptions {
  // Packets the kernel holds for verdicts before it drops (or passes, with fail_open) the next:
  // 40 ms of full load.
  uint32_t maxlen = 16384;
  // Bytes of each packet that are copied, from the IP header. IPv4 and TCP with all options take
  // 120; the rest is for IPv6 extension headers.
  uint32_t copy_range = 256;
  // Socket receive buffer in bytes, as asked of the kernel, which doubles it; 0: what `maxlen`
  // packets need.
  int rcvbuf = 0;
  // A full queue lets packets pass, unmarked, instead of dropping them.
  bool fail_open = false;
  // Take GSO packets whole. Without it the kernel segments each and queues the segments.
  bool gso = true;

  friend bool operator==(const QueueOptions&, const QueueOptions&) = default;
};

}  // namespace utproxy

#endif  // UTPROXY_QUEUE_OPTIONS_H_
