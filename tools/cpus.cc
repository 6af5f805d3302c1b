// SPDX-License-Identifier: GPL-3.0-or-later
#include "cpus.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <thread>

namespace utproxy::tools {

// Any other refusal than EINVAL is not about the CPU; it is said where the queue's thread meets it.
bool CanRunOn(int cpu) {
  if (cpu < 0 || cpu >= CPU_SETSIZE) return false;
  bool can = true;
  std::thread([cpu, &can] {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<unsigned>(cpu), &set);
    can = ::sched_setaffinity(0, sizeof set, &set) == 0 || errno != EINVAL;
  }).join();
  return can;
}

std::optional<int> CpuOutOfReach(const Target& target, const std::function<bool(int)>& can_run_on) {
  const size_t used = std::min(target.cpus.size(), target.QueueCount());
  for (size_t i = 0; i < used; ++i) {
    if (!can_run_on(target.cpus[i])) return target.cpus[i];
  }
  return std::nullopt;
}

}  // namespace utproxy::tools
