// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_EXPLAINER_H_
#define UTPROXY_DAEMON_EXPLAINER_H_

#include <absl/status/statusor.h>

#include <memory>
#include <vector>

#include "daemon/explain_context.h"
#include "daemon/json.h"
#include "decide/explain.h"
#include "decide/spread.h"
#include "diagnose/socket_owner.h"
#include "mirror/exact.h"
#include "mirror/interfaces.h"
#include "netlink/diag_client.h"
#include "netlink/route_probe.h"
#include "utproxy/policy.h"
#include "utproxy/socket_table.h"

namespace utproxy {

// Explains decisions about packets that need not exist, from the kernel's sockets, addresses and
// routes of the calling thread's network namespace. Needs no daemon and no privilege (without
// CAP_NET_ADMIN, so_mark is unknown). One thread.
class Explainer {
 public:
  // `own_program`: the id of the daemon's sk_lookup program, where the daemon asks.
  static absl::StatusOr<std::unique_ptr<Explainer>> Open(uint32_t own_program = 0);

  // By asking sock_diag for this packet, at each port of `spread`. An error where the kernel did
  // not answer.
  absl::StatusOr<Explanation> Exact(const Packet& packet, const Policy& policy,
                                    const SpreadSpec& spread = {});
  // By a mirror, as the daemon would where it does not ask.
  absl::StatusOr<Explanation> Mirror(const Packet& packet, const Policy& policy,
                                     const SpreadSpec& spread, const SocketTable& table,
                                     const InterfaceSnapshot& interfaces);

 private:
  Explainer(std::unique_ptr<Interfaces> interfaces, ExactQuerier querier, DiagClient dumps,
            NetlinkSocket routes, ExplainContext context)
      : interfaces_(std::move(interfaces)),
        querier_(std::move(querier)),
        dumps_(std::move(dumps)),
        routes_(std::move(routes)),
        context_(std::move(context)) {}

  absl::StatusOr<ExactAnswer> Ask(const Packet& packet, const Policy& policy,
                                  const InterfaceSnapshot& interfaces);
  absl::StatusOr<std::vector<PortCandidate>> PortsByKernel(const Packet& packet,
                                                           const Policy& policy,
                                                           const SpreadSpec& spread,
                                                           const InterfaceSnapshot& interfaces);
  absl::StatusOr<std::vector<Socket>> SocketsOfPort(Proto proto, uint16_t port);
  absl::Status AddDelivery(const Packet& packet, const InterfaceSnapshot& interfaces,
                           Explanation* explanation);

  std::unique_ptr<Interfaces> interfaces_;
  ExactQuerier querier_;
  DiagClient dumps_;
  NetlinkSocket routes_;
  const ExplainContext context_;  // of when it was opened
};

// The process that holds a socket; nullopt where it is not known, as of sockets without an inode.
std::optional<SocketOwner> OwnerOf(const Socket& socket, const OwnersByInode& owners);

// The objects of a decision's "steps".
Json StepsJson(const std::vector<ExplainStep>& steps, const OwnersByInode& owners);

// The JSON object of one decision, with its steps. `source`: "exact" or "mirror".
Json ToJson(const Explanation& explanation, const Packet& packet, const InterfaceNames& names,
            const OwnersByInode& owners, const char* source);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_EXPLAINER_H_
