// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_PROC_READER_H_
#define UTPROXY_DIAGNOSE_PROC_READER_H_

#include <absl/strings/string_view.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "diagnose/system_view.h"

namespace utproxy {

// What /proc tells: sysctls of the namespace and of view->interfaces, counters, conntrack. A file
// that is not there leaves its default.
void ReadSysctls(SystemView* view);

// One process; nullopt where it has gone.
std::optional<ProcessFacts> ReadProcess(int pid);

// The sockets' owners, and of UDP sockets at a wildcard address also SO_REUSEADDR, by duplicating
// the descriptor for a moment (pidfd_getfd), which needs the right to ptrace the owner.
void ReadOwners(SystemView* view);

// Parts of it, as text, for tests. 0 where there is no such thing.
// A counter of /proc/net/netstat or /proc/net/snmp: a line of names and one of numbers.
uint64_t CounterOf(absl::string_view text, absl::string_view group, absl::string_view name);
// The soft or the hard limit of "Max open files" in /proc/PID/limits.
uint64_t OpenFilesLimit(absl::string_view limits, bool hard = false);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_PROC_READER_H_
