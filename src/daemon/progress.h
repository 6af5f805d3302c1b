// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_PROGRESS_H_
#define UTPROXY_DAEMON_PROGRESS_H_

#include <absl/types/span.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace utproxy {

// How often a thread has gone round its loop.
struct Beat {
  std::string name;
  uint64_t count = 0;
};

// Which of the daemon's threads make no progress. One thread.
class Progress {
 public:
  // Takes in the counts of `now_ns` (CLOCK_MONOTONIC). A thread that is not among them any more is
  // forgotten.
  void Look(absl::Span<const Beat> beats, int64_t now_ns);
  // The names of those whose count has been the same for longer than `limit_ns`.
  std::vector<std::string> Stuck(int64_t now_ns, int64_t limit_ns) const;

 private:
  struct Seen {
    uint64_t count = 0;
    int64_t since_ns = 0;
  };
  std::map<std::string, Seen> seen_;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_PROGRESS_H_
