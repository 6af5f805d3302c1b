// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_CPUS_H_
#define UTPROXY_TOOLS_CPUS_H_

#include <functional>
#include <optional>

#include "daemon/target.h"

namespace utproxy::tools {

// Behind "cpu N" or "--cpu N".
inline constexpr char kNoSuchCpu[] = ": must be online, and in this process's cpuset";

// Whether the kernel lets a thread of this process run on the CPU: one that is online, and in its
// cpuset. Asks by doing it, in a thread that ends with that.
bool CanRunOn(int cpu);

// The first CPU that a worker of the target is for and `can_run_on` says no of. Those of a list
// that is longer than there are workers are not asked about.
std::optional<int> CpuOutOfReach(const Target& target,
                                 const std::function<bool(int)>& can_run_on = CanRunOn);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_CPUS_H_
