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
  const auto find = [&](const PlaceState& state) -> const SocketState* {
    const auto it = std::find_if(state.begin(), state.end(), [&](const SocketState& socket) {
      return socket.mark == mark && (socket.peer == 0 || socket.peer == probe.sport);
    });
    return it == state.end() ? nullptr : &*it;
  };
  const auto [first, last] = Range(from_ns, to_ns);
  const SocketState* before = nullptr;
  for (size_t i = first; i <= last; ++i) {
    const SocketState* now = find(entries_[i].state);
    if (before != nullptr && (now == nullptr || now->peer != before->peer)) return true;
    before = now;
  }
  return false;
}

bool Timeline::Came(uint32_t mark, const Probe& probe, int64_t from_ns, int64_t to_ns) const {
  const auto [first, last] = Range(from_ns, to_ns);
  const auto is_there = [&](const Entry& entry) {
    return std::any_of(entry.state.begin(), entry.state.end(), [&](const SocketState& socket) {
      return socket.mark == mark && socket.bound == Bound::kAsked && socket.peer == probe.sport;
    });
  };
  return !is_there(entries_[first]) &&
         std::any_of(entries_.begin() + static_cast<ptrdiff_t>(first) + 1,
                     entries_.begin() + static_cast<ptrdiff_t>(last) + 1, is_there);
}

bool Timeline::ListenerClosed(int64_t from_ns, int64_t to_ns) const {
  const auto [first, last] = Range(from_ns, to_ns);
  for (size_t i = first; i < last; ++i) {
    for (const SocketState& socket : entries_[i].state) {
      const PlaceState& next = entries_[i + 1].state;
      const bool there = std::any_of(next.begin(), next.end(), [&](const SocketState& other) {
        return other.mark == socket.mark;
      });
      if (socket.peer == 0 && !there) return true;
    }
  }
  return false;
}

bool Timeline::MayTurnTimeWait(const Probe& probe, int64_t from_ns, int64_t to_ns) const {
  const auto [first, last] = Range(from_ns, to_ns);
  for (size_t i = first; i <= last; ++i) {
    for (const SocketState& socket : entries_[i].state) {
      const bool own = socket.peer == probe.sport && socket.serves_family(probe.family);
      if (own && socket.may_be & kFull && socket.may_be & kTimeWait) return true;
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
