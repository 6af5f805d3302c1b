// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_ROUTING_READER_H_
#define UTPROXY_DIAGNOSE_ROUTING_READER_H_

#include <absl/status/status.h>
#include <linux/netlink.h>

#include "diagnose/system_view.h"
#include "netlink/socket.h"

namespace utproxy {

// Interfaces with their addresses, policy rules and default routes of both families, from
// `route`, a socket of NETLINK_ROUTE, into `view`. No privilege needed.
absl::Status ReadRouting(NetlinkSocket* route, SystemView* view);

// One message each, for the reader above and for tests: messages of another type, or too short,
// leave the view as it is.
void TakeLink(const nlmsghdr& message, SystemView* view);
void TakeAddress(const nlmsghdr& message, SystemView* view);
void TakePolicyRule(const nlmsghdr& message, SystemView* view);
void TakeRoute(const nlmsghdr& message, SystemView* view);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_ROUTING_READER_H_
