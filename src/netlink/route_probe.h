// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_NETLINK_ROUTE_PROBE_H_
#define UTPROXY_NETLINK_ROUTE_PROBE_H_

#include <absl/status/statusor.h>

#include <cstdint>
#include <optional>
#include <string>

#include "netlink/socket.h"
#include "utproxy/packet.h"

namespace utproxy {

// Where the kernel's routing sends a packet.
struct RouteAnswer {
  enum class Kind : uint8_t {
    kLocal,
    kForward,
    kMany,  // broadcast or multicast: to every member, on this host too
    kOther,
    kRefused,
  };
  Kind kind = Kind::kRefused;
  uint8_t type = 0;    // RTN_*, where not refused
  uint32_t table = 0;  // routing table that had the route; 0 where refused
  uint32_t oif = 0;    // egress interface
  std::optional<Address> gateway;
  int error = 0;  // errno, where refused: EINVAL and EXDEV for a martian source, EHOSTUNREACH, ...
};

// Asks the kernel (RTM_GETROUTE) where it would send a packet that came in by packet.iif with
// packet.mark; with iif 0, where it would send one of the host's own. Fails only where the question
// cannot be put.
absl::StatusOr<RouteAnswer> ProbeRoute(NetlinkSocket* route_socket, const Packet& packet);

}  // namespace utproxy

#endif  // UTPROXY_NETLINK_ROUTE_PROBE_H_
