// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_DELIVERY_H_
#define UTPROXY_RULESET_DELIVERY_H_

#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "netlink/socket.h"
#include "ruleset/spec.h"

// How marked packets reach a local socket whatever their destination: a policy rule by mark leads
// to a table whose default route is local. In the calling thread's network namespace; all
// functions take a NETLINK_ROUTE socket and need CAP_NET_ADMIN to change anything.
namespace utproxy {

// Origin of our rules and routes (`proto` in `ip rule` and `ip route`): what has it, and the shape
// of ours, is ours to delete. Not assigned in iproute2's rt_protos.
inline constexpr uint8_t kRouteProtocol = 117;
// After table `local` (0), so that a marked packet to an address of this host behaves as any; and
// before what VPN, VRF and multi-WAN tools add (1000 and up) and table main (32766), any of which
// would lead the packet away. Below it there is room for a user's own exceptions.
inline constexpr uint32_t kRulePriority = 117;

// A policy rule `fwmark mark/mask lookup table`, or a route `local default dev lo table table`.
struct DeliveryItem {
  enum class Kind : uint8_t { kRoute, kRule };
  Family family = Family::kIpv4;
  Kind kind = Kind::kRoute;
  uint32_t table = 0;
  uint32_t mark = 0, mask = 0;  // of rules; no bits of the mark are outside of the mask
  friend auto operator<=>(const DeliveryItem&, const DeliveryItem&) = default;
};

// What the specs need, IPv4 first, routes before rules, without duplicates. A packet that hit
// leaves with (mark & ~mask) ^ value: of its mark only value & mask is known beforehand, so that
// is what the rule matches.
std::vector<DeliveryItem> WantedDelivery(absl::Span<const RulesetSpec> specs);

// "ip rule add priority 117 fwmark 0x1/0x1 lookup 100 protocol 117", without a line end.
std::string DeliveryCommand(const DeliveryItem& item);

// Items in the kernel that bear our protocol and shape.
absl::StatusOr<std::vector<DeliveryItem>> ListOwnDelivery(NetlinkSocket& socket);

struct DeliveryChange {
  std::vector<DeliveryItem> added;
  std::vector<std::string> warnings;  // "IPv6 is off here: ..."
};
// Adds what of `wanted` is not there yet. What a killed run left counts as there, and so does a
// user's own route of the same effect. All or nothing, except where IPv6 is off: then IPv4 alone,
// and a warning. FailedPrecondition where lo is down or the table has another default route.
absl::StatusOr<DeliveryChange> AddDelivery(NetlinkSocket& socket,
                                           absl::Span<const DeliveryItem> wanted);

// Adds again what of `wanted`, which AddDelivery() once added, is not there any more, and returns
// it. FailedPrecondition, and the rest not looked at, where another default route has a route's
// place. Some system calls for each item.
absl::StatusOr<std::vector<DeliveryItem>> RestoreDelivery(NetlinkSocket& socket,
                                                          absl::Span<const DeliveryItem> wanted);

// Deletes the items; fine where one is gone already. Goes on after an error, returns the first.
absl::Status DeleteDelivery(NetlinkSocket& socket, absl::Span<const DeliveryItem> items);

// Deletes our items other than `keep`.
absl::Status DeleteOtherDelivery(NetlinkSocket& socket, absl::Span<const DeliveryItem> keep);

}  // namespace utproxy

#endif  // UTPROXY_RULESET_DELIVERY_H_
