// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_PREDECESSOR_H_
#define UTPROXY_DAEMON_PREDECESSOR_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/fd.h"
#include "daemon/estate.h"

// How one daemon goes on for another that runs: a conversation over the control socket, for root
// and the daemon's own user.
//
//   next     {"command": "take_over"}
//   running  {"estate": ["queue-0", ...], "more": true}   with these descriptors; some such lines
//   next     {"go": true}        once all is ready but the queues
//   running  {"paused": true}    its queues' threads have answered their batches and ended
//   next     {"done": true}      nothing is left that can fail
//   running  {"end": true}       and ends, with its rules and queues as they are
//
// The queues go on under the same numbers by the very same sockets, so no rule need change, no
// packet changes queues, and those that wait in them in between are the next daemon's first. One of
// them reads a queue at a time: where the next one goes away, or says nothing for kPauseNs, before
// it is done, the running one goes on.
namespace utproxy {

inline constexpr int64_t kPrepareNs = 60 * kNsPerSec;  // from the descriptors to "go"
inline constexpr int64_t kPauseNs = 5 * kNsPerSec;     // from "paused" to "done"

// For one thread.
class Predecessor {
 public:
  // Asks the daemon at `path` for what it has. Errors with a remedy: none runs there, or it is of
  // another network namespace.
  static absl::StatusOr<std::unique_ptr<Predecessor>> Connect(const std::string& path);

  Estate& estate() { return estate_; }
  // When this returns the other reads its queues no more, and waits.
  absl::Status Pause();
  // When this returns the other is ending. After an error it goes on, and this process may not.
  absl::Status Finish();

 private:
  explicit Predecessor(UniqueFd fd) : fd_(std::move(fd)) {}
  absl::Status ReceiveEstate();
  absl::Status SayAndHear(const char* word, const char* answer);

  UniqueFd fd_;
  std::string rest_;
  Estate estate_;
};

// The number of the calling thread's network namespace; 0 where it can't be told.
uint64_t NetworkNamespace();

// Sends the descriptors as the running daemon does; false where the other has gone.
bool SendEstate(int fd, int stop, const Belongings& belongings);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_PREDECESSOR_H_
