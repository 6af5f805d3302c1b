// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_CHURN_TIMELINE_H_
#define UTPROXY_TESTS_CHURN_TIMELINE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

#include "churn/model.h"

namespace utproxy::churn {

// The states that a place has been in. All times are CLOCK_MONOTONIC, in ns. One thread.
class Timeline {
 public:
  // A state begins somewhere between the clock before the system call that brought it about and
  // the clock after it, and ends likewise with the next one.
  struct Entry {
    int64_t before_ns = 0;
    int64_t after_ns = 0;
    const char* what = "";  // the change that led here; of static storage
    PlaceState state;
  };

  Timeline() { entries_.push_back({.what = "start"}); }

  // Changes follow each other: before_ns is not less than the last one's after_ns.
  void Record(int64_t before_ns, int64_t after_ns, const char* what, PlaceState state) {
    entries_.push_back({before_ns, after_ns, what, std::move(state)});
  }
  const PlaceState& now() const { return entries_.back().state; }

  struct Allowed {
    Outcomes at_once;  // both lookups found the place in one state
    Outcomes apart;    // the second lookup found a later state than the first
  };
  // What the kernel could have made of the packet at any time from from_ns to to_ns.
  Allowed Within(const Probe& probe, int64_t from_ns, int64_t to_ns) const;

  // Whether the socket `mark` was there for the packet at some time from from_ns to to_ns, and at a
  // later time of these gone, connected or disconnected.
  bool Left(uint32_t mark, const Probe& probe, int64_t from_ns, int64_t to_ns) const;

  // Whether the socket `mark` was connected to the packet's sender within that time: it goes before
  // any listener that was decided for.
  bool Came(uint32_t mark, const Probe& probe, int64_t from_ns, int64_t to_ns) const;
  // Whether a listener of TCP closed within that time. A lookup that has found it then can find
  // it freed, and gives up, whoever else listens (refcount_inc_not_zero in inet_lookup_listener).
  bool ListenerClosed(int64_t from_ns, int64_t to_ns) const;
  // Whether the packet's own connection may have gone over to TIME_WAIT at that time.
  bool MayTurnTimeWait(const Probe& probe, int64_t from_ns, int64_t to_ns) const;

  // Drops what nobody asks about any more who asks about from_ns and later.
  void Forget(int64_t from_ns);

  // The states of that time, a line each, times relative to from_ns in µs.
  std::string Describe(int64_t from_ns, int64_t to_ns) const;

 private:
  // Positions [first, last] of the entries that may have held at that time.
  std::pair<size_t, size_t> Range(int64_t from_ns, int64_t to_ns) const;

  std::deque<Entry> entries_;  // never empty
};

}  // namespace utproxy::churn

#endif  // UTPROXY_TESTS_CHURN_TIMELINE_H_
