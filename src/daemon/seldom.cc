// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/seldom.h"

#include <absl/strings/str_cat.h>

#include <utility>

namespace utproxy {

std::optional<std::string> Seldom::Due(int64_t now_ns) {
  ++untold_;
  if (told_ns_ != 0 && now_ns - told_ns_ < kEveryNs) return std::nullopt;
  const uint64_t untold = std::exchange(untold_, 0);
  told_ns_ = now_ns;
  return untold > 1 ? absl::StrCat(", ", untold, " times since the last word") : "";
}

}  // namespace utproxy
