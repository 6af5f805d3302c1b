// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_PRIVILEGES_H_
#define UTPROXY_DAEMON_PRIVILEGES_H_

#include <absl/status/status.h>

#include <optional>

#include "daemon/accounts.h"
#include "daemon/seccomp_filter.h"

namespace utproxy {

struct Privileges {
  std::optional<Account> account;  // nullopt: whoever it is
  SeccompMode seccomp = SeccompMode::kKill;
  // Sockets are taken from their owners (SocketOwners): keeps CAP_SYS_PTRACE and
  // CAP_DAC_READ_SEARCH, and pidfd_getfd in the filter.
  bool takes_sockets = false;
};

// Gives up for good all that the daemon needs no more once its sockets are bound and its BPF
// programs loaded: becomes the account, without supplementary groups; keeps of all capabilities
// CAP_NET_ADMIN only, and none in the bounding set where that can be changed (CAP_SETPCAP);
// no_new_privs; and, but with SeccompMode::kOff, which is for debuggers, neither core dumps nor
// other processes of the same user looking into it, and the system call filter.
//
// For the process's only thread: those made later inherit it. After an error the process may have
// given up a part, and should end.
absl::Status GiveUpPrivileges(const Privileges& privileges);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_PRIVILEGES_H_
