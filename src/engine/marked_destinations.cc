// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/marked_destinations.h"

#include <linux/netlink.h>

#include <cerrno>

#include "netlink/route_probe.h"

namespace utproxy {

bool MarkedDestinations::Has(const Packet& packet, int64_t now_ns) {
  const auto it = known_.find(packet.dst.bytes());
  if (it != known_.end() && now_ns - it->second.at_ns < kHoldsNs) return it->second.only_by_mark;
  questions_.Refill(now_ns);
  if (!questions_.Take()) return false;
  if (known_.size() >= kMostKnown) known_.clear();
  const bool only_by_mark = Ask(packet);
  known_[packet.dst.bytes()] = {only_by_mark, now_ns};
  return only_by_mark;
}

bool MarkedDestinations::Ask(const Packet& packet) {
  if (!socket_) {
    absl::StatusOr<NetlinkSocket> socket = NetlinkSocket::Open(NETLINK_ROUTE);
    if (!socket.ok()) return false;
    socket_ = *std::move(socket);
  }
  // Of the host's own, from no address: what it takes in must not depend on who sends.
  const Packet unmarked{.dst = packet.dst, .family = packet.family, .protocol = packet.protocol};
  const absl::StatusOr<RouteAnswer> route = ProbeRoute(&*socket_, unmarked);
  if (!route.ok()) return false;
  if (route->kind == RouteAnswer::Kind::kRefused) {
    return route->error == ENETUNREACH || route->error == EHOSTUNREACH;
  }
  return route->kind == RouteAnswer::Kind::kForward;
}

}  // namespace utproxy
