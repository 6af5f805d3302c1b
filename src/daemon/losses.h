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
  kFlushed,         // the kernel dropped it while it was being decided (a hook was unregistered)
  kInterfaceDown,   // the same, as the interface it came in by went down
  kVerdictError,    // the kernel refused the verdict
  kVerdictUnsent,   // the verdict could not be sent
  kReceiveError,    // reading the queue failed
  kMalformed,       // a message that was no packet
  kExactFailed,     // the kernel gave no answer about it
  kShed,            // beyond the budget of questions in a crowded queue (see Decider)
  kSteerFailed,     // its flow entry could not be made to stand
};
inline constexpr size_t kLossCount = 11;

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

// What the log says of losses: at a bounded rate, however fast they grow and however long that
// goes on, and in the end all of them. One thread.
class LossLog {
 public:
  static constexpr int64_t kEveryNs = 10'000'000'000;

  // A sentence, with what to do, for each count that has grown since it was told of: at once, but
  // no more than one of a kind within kEveryNs. `now_ns`: CLOCK_MONOTONIC.
  std::vector<std::string> Tell(const Losses& now, int64_t now_ns);

 private:
  Losses told_;
  std::array<int64_t, kLossCount> told_ns_{};  // 0: never
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_LOSSES_H_
