// SPDX-License-Identifier: GPL-3.0-or-later
#include "churn/timeline.h"

#include <absl/strings/str_format.h>

#include <algorithm>

namespace utproxy::churn {

std::pair<size_t, size_t> Timeline::Range(int64_t from_ns, int64_t to_ns) const {
  size_t last = entries_.size() - 1;
  while (last > 0 && entries_[last].before_ns > to_ns) --last;
  size_t first = last;
  // The state before an entry held until, at the latest, the entry's change had been made.
  while (first > 0 && entries_[first].after_ns >= from_ns) --first;
  return {first, last};
}

Timeline::Allowed Timeline::Within(const Probe& probe, int64_t from_ns, int64_t to_ns) const {
  Allowed allowed;
  const auto [first, last] = Range(from_ns, to_ns);
  for (size_t i = first; i <= last; ++i) {
    Decide(probe, entries_[i].state, entries_[i].state, &allowed.at_once);
    for (size_t j = i + 1; j <= last; ++j) {
      Decide(probe, entries_[i].state, entries_[j].state, &allowed.apart);
    }
  }
  return allowed;
}

bool Timeline::Left(uint32_t mark, const Probe& probe, int64_t from_ns, int64_t to_ns) const {
  const auto has = [&](const PlaceState& state) {
    return std::any_of(state.begin(), state.end(), [&](const SocketState& socket) {
      return socket.mark == mark && (socket.peer == 0 || socket.peer == probe.sport);
    });
  };
  const auto [first, last] = Range(from_ns, to_ns);
  bool was_there = false;
  for (size_t i = first; i <= last; ++i) {
    if (has(entries_[i].state)) {
      was_there = true;
    } else if (was_there) {
      return true;
    }
  }
  return false;
}

void Timeline::Forget(int64_t from_ns) {
  while (entries_.size() > 1 && entries_[1].after_ns < from_ns) entries_.pop_front();
}

std::string Timeline::Describe(int64_t from_ns, int64_t to_ns) const {
  std::string text;
  const auto [first, last] = Range(from_ns, to_ns);
  for (size_t i = first; i <= last; ++i) {
    const Entry& entry = entries_[i];
    absl::StrAppendFormat(&text, "    %+9d .. %+9d µs %-22s %s\n",
                          (entry.before_ns - from_ns) / 1000, (entry.after_ns - from_ns) / 1000,
                          entry.what, churn::Describe(entry.state));
  }
  return text;
}

}  // namespace utproxy::churn
