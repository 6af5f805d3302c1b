// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_DOCTOR_VIEW_H_
#define UTPROXY_DAEMON_DOCTOR_VIEW_H_

#include <absl/status/statusor.h>

#include <optional>
#include <vector>

#include "daemon/json.h"
#include "daemon/target.h"
#include "diagnose/doctor.h"
#include "diagnose/system_view.h"

namespace utproxy {

// A target as the user or a running utproxy states it. `options` are the words for `utproxy run`.
ProxyTarget ProxyTargetOf(const Target& target, std::string options);

// Joins what was stated with what the ruleset says: a stated target takes over the rules that lead
// to it; where nothing was found for it, it stands alone. `only_asked` leaves the others out.
std::vector<ProxyTarget> JoinTargets(std::vector<ProxyTarget> found,
                                     const std::vector<ProxyTarget>& asked, bool only_asked);

// The system of the calling thread's network namespace. Changes nothing. Without CAP_NET_ADMIN the
// ruleset stays unread (view.ruleset_read). Errors: the kernel does not answer.
absl::StatusOr<SystemView> LoadSystemView(const std::vector<ProxyTarget>& asked, bool only_asked);

// The part of it that `route`, a socket of NETLINK_ROUTE, and the ruleset tell. `*ruleset`: why
// that could not be read, which is no error here.
absl::Status LoadRoutingAndRuleset(NetlinkSocket* route, SystemView* view, absl::Status* ruleset);

// The queues that are bound and the processes that read them, alone: for finding a daemon.
void LoadQueues(SystemView* view);

// What `utproxy stats -j` tells doctor.
DaemonFacts DaemonFactsOf(const Json& stats);

Json ToJson(const Finding& finding);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_DOCTOR_VIEW_H_
