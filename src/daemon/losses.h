// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_LOSSES_H_
#define UTPROXY_DAEMON_LOSSES_H_

#include <absl/types/span.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/json.h"

namespace utproxy {

// Every way in which a packet is lost, or a decision fails to take effect, without a reason of its
// own. Counts since the start.
enum class Loss : uint8_t {
  kQueueFull,       // the kernel's queue was full
  kNetlinkOverrun,  // the socket's buffer was full
  kFlushed,         // the kernel dropped it while it was being decided (a hook unregistered)
  kVerdictError,    // the kernel refused the verdict
  kVerdictUnsent,   // the verdict could not be sent
  kReceiveError,    // reading the queue failed
  kMalformed,       // a message that was no packet
  kExactFailed,     // the kernel gave no answer about it
  kShed,            // beyond the budget of questions in a crowded queue (see Decider)
  kSteerFailed,     // its flow entry could not be made to stand
};
inline constexpr size_t kLossCount = 10;

struct Losses {
  std::array<uint64_t, kLossCount> counts{};

  uint64_t& operator[](Loss loss) { return counts[static_cast<size_t>(loss)]; }
  uint64_t operator[](Loss loss) const { return counts[static_cast<size_t>(loss)]; }
  void Add(const Losses& other) {
    for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
  }
};

// {"queue_full": 0, ...}.
Json ToJson(const Losses& losses);
// A sentence, with what to do, for each count that has grown.
std::vector<std::string> DescribeGrowth(const Losses& before, const Losses& now);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_LOSSES_H_
