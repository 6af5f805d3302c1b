// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_BASE_CLOCK_H_
#define UTPROXY_BASE_CLOCK_H_

#include <cstdint>

namespace utproxy {

// CLOCK_MONOTONIC in nanoseconds.
int64_t MonotonicNs();
// CLOCK_MONOTONIC_COARSE in nanoseconds: a read without a trip to the clock source, late by a
// tick (up to 10 ms).
int64_t MonotonicCoarseNs();
// Processor time that the calling thread has taken, in nanoseconds.
int64_t ThreadCpuNs();

inline constexpr int64_t kNsPerMs = 1'000'000;
inline constexpr int64_t kNsPerSec = 1'000'000'000;

}  // namespace utproxy

#endif  // UTPROXY_BASE_CLOCK_H_
