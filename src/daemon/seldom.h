// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_SELDOM_H_
#define UTPROXY_DAEMON_SELDOM_H_

#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"

namespace utproxy {

// For what may come again and again, and is told of at once and then once a minute. One thread.
class Seldom {
 public:
  // It has come once more. Where that is to be told: how often it came since the last word, ", 7
  // times since the last word", or "" for once.
  std::optional<std::string> Due(int64_t now_ns);

 private:
  static constexpr int64_t kEveryNs = 60 * kNsPerSec;

  int64_t told_ns_ = 0;  // 0: never
  uint64_t untold_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_SELDOM_H_
