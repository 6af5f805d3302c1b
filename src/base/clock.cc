// SPDX-License-Identifier: GPL-3.0-or-later
#include "base/clock.h"

#include <ctime>

namespace utproxy {
namespace {
int64_t Read(clockid_t id) {
  timespec ts{};
  clock_gettime(id, &ts);
  return static_cast<int64_t>(ts.tv_sec) * kNsPerSec + ts.tv_nsec;
}
}  // namespace

int64_t MonotonicNs() { return Read(CLOCK_MONOTONIC); }
int64_t MonotonicCoarseNs() { return Read(CLOCK_MONOTONIC_COARSE); }
int64_t ThreadCpuNs() { return Read(CLOCK_THREAD_CPUTIME_ID); }

}  // namespace utproxy
