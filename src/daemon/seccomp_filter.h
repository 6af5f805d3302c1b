// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_SECCOMP_FILTER_H_
#define UTPROXY_DAEMON_SECCOMP_FILTER_H_

#include <absl/status/status.h>

#include <cstdint>

namespace utproxy {

// What a system call comes to that the daemon has no use for.
enum class SeccompMode : uint8_t {
  kKill,  // the end of the process (SIGSYS)
  kLog,   // a line of the kernel's audit log; it is done all the same
  kOff,   // there is no filter
};

// Loads the filter of what the daemon does after its start, of reloads and its end too: threads,
// memory, its own descriptors, netlink, reading files; no program is executed, no other process
// looked into, no file written, no socket opened but those of netlink and Unix ones for sd_notify.
// `takes_sockets`: sockets are taken from their owners (pidfd_getfd).
//
// For the process's only thread; all that are made later inherit it. no_new_privs must be set.
absl::Status LoadSeccompFilter(SeccompMode mode, bool takes_sockets);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_SECCOMP_FILTER_H_
