// SPDX-License-Identifier: GPL-3.0-or-later
// For LD_PRELOAD: this process's wall clock is stepped every three seconds, a day ahead, a day
// back, right. The machine's clock stays as it is. CLOCK_MONOTONIC is passed on unchanged: the
// kernel never steps it.
#include <dlfcn.h>
#include <sys/time.h>

#include <ctime>

namespace {

using ClockGettime = int (*)(clockid_t, timespec*);

constexpr time_t kEverySeconds = 3;
constexpr time_t kDaySeconds = 86400;

int Real(clockid_t clock, timespec* time) {
  static const auto next = reinterpret_cast<ClockGettime>(dlsym(RTLD_NEXT, "clock_gettime"));
  return next(clock, time);
}

int Stepped(clockid_t clock, timespec* time) {
  timespec steady{};
  if (Real(CLOCK_MONOTONIC, &steady) != 0 || Real(clock, time) != 0) return -1;
  constexpr time_t kOffsets[] = {0, kDaySeconds, -kDaySeconds};
  time->tv_sec += kOffsets[steady.tv_sec / kEverySeconds % 3];
  return 0;
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* time) {
  const bool wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
  return wall ? Stepped(clock, time) : Real(clock, time);
}

int gettimeofday(timeval* time, void*) {
  timespec now{};
  if (Stepped(CLOCK_REALTIME, &now) != 0) return -1;
  *time = {.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
  return 0;
}

time_t time(time_t* out) {
  timespec now{};
  if (Stepped(CLOCK_REALTIME, &now) != 0) return -1;
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}

}  // extern "C"
