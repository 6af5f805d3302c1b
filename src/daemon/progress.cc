// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/progress.h"

#include <utility>

namespace utproxy {

void Progress::Look(absl::Span<const Beat> beats, int64_t now_ns) {
  std::map<std::string, Seen> seen;
  for (const Beat& beat : beats) {
    const auto it = seen_.find(beat.name);
    const bool same = it != seen_.end() && it->second.count == beat.count;
    seen[beat.name] = {beat.count, same ? it->second.since_ns : now_ns};
  }
  seen_ = std::move(seen);
}

std::vector<std::string> Progress::Stuck(int64_t now_ns, int64_t limit_ns) const {
  std::vector<std::string> stuck;
  for (const auto& [name, seen] : seen_) {
    if (now_ns - seen.since_ns > limit_ns) stuck.push_back(name);
  }
  return stuck;
}

}  // namespace utproxy
