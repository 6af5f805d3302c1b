// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ENGINE_TOKEN_BUCKET_H_
#define UTPROXY_ENGINE_TOKEN_BUCKET_H_

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace utproxy {

// So many tokens a second, at most `burst` at once; full at first. One thread.
//
// Once there are too few, none is given until there are enough for `together` such takings: where
// tokens are short, what they are for is done many at once, which is cheaper.
class TokenBucket {
 public:
  // None is negative.
  TokenBucket(int64_t per_second, int64_t burst, int64_t together = 1)
      : per_second_(per_second), burst_(burst), together_(together), tokens_(burst) {}

  // `now_ns` of any clock that does not go back; the first call starts it. Parts of a token are
  // kept for the next call.
  void Refill(int64_t now_ns) {
    if (per_second_ == 0) return;
    if (!started_ || tokens_ == burst_) {
      started_ = true;
      at_ns_ = now_ns;
      return;
    }
    // What has been earned in longer than this does not fit, and must not overflow.
    const int64_t full_ns = (burst_ - tokens_) * kNsPerSec / per_second_ + 1;
    if (now_ns - at_ns_ >= full_ns) {
      tokens_ = burst_;
      at_ns_ = now_ns;
      return;
    }
    const int64_t earned = (now_ns - at_ns_) * per_second_ / kNsPerSec;
    tokens_ = std::min(burst_, tokens_ + earned);
    at_ns_ += earned * kNsPerSec / per_second_;
  }

  // `tokens` or none. At least one.
  bool Take(int64_t tokens = 1) {
    const int64_t needed = short_ ? std::min(together_ * tokens, burst_) : tokens;
    short_ = tokens_ < std::max(needed, tokens);
    if (short_) return false;
    tokens_ -= tokens;
    return true;
  }

 private:
  const int64_t per_second_;
  const int64_t burst_;
  const int64_t together_;
  int64_t tokens_;
  bool short_ = false;
  int64_t at_ns_ = 0;  // up to when tokens have been given
  bool started_ = false;
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_TOKEN_BUCKET_H_
