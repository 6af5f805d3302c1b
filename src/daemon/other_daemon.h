// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_OTHER_DAEMON_H_
#define UTPROXY_DAEMON_OTHER_DAEMON_H_

#include <absl/status/status.h>
#include <absl/types/span.h>

#include "daemon/target.h"

namespace utproxy {

// AlreadyExists where the table of rules belongs to another utproxy that runs in this network
// namespace. A table that is to outlive its process names no owner, as the kernel does for others:
// then somebody is there who has bound the queues that its rules lead to. `own`: the targets whose
// queues this process has bound itself.
absl::Status NoOtherDaemonHasTheTable(absl::Span<const Target> own);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_OTHER_DAEMON_H_
