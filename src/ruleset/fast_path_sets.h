// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_FAST_PATH_SETS_H_
#define UTPROXY_RULESET_FAST_PATH_SETS_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <compare>
#include <cstdint>
#include <optional>

#include "netlink/socket.h"
#include "utproxy/address.h"
#include "utproxy/flow.h"

// What a daemon does with the sets of the fast path's rules (see plan.h) in the table
// `inet utproxy` of the calling thread's network namespace. All functions take a socket of
// OpenNftSocket(): the owner's, where the table has one. NotFound where there are no such sets.
namespace utproxy {

// Of a listener bound to one address. The port in host byte order.
struct ListenerPlace {
  Address address;
  uint16_t port = 0;
  friend auto operator<=>(const ListenerPlace&, const ListenerPlace&) = default;
};

// Empties the sets of decided flows of both families: their next datagrams are queued.
absl::Status ForgetDecidedFlows(NetlinkSocket& socket);

// Makes the sets of listeners hold these, each once. An IPv4 address goes into both families' sets:
// an IPv6 packet to ::ffff:a.b.c.d finds an IPv6 socket that is bound to it. In one transaction.
absl::Status ReplaceListeners(NetlinkSocket& socket, absl::Span<const ListenerPlace> places);

// Counts what is changed in nftables in this network namespace, by anybody, but for what packets
// add to sets (NFT_MSG_GETGEN). It is one more after a transaction of one's own.
absl::StatusOr<uint32_t> RulesetGeneration(NetlinkSocket& socket);

// Packets that the rules have carried; nullopt where the table has no such rules.
struct FastPathCounters {
  uint64_t tcp = 0;
  uint64_t udp = 0;
};
absl::StatusOr<std::optional<FastPathCounters>> ReadFastPathCounters(NetlinkSocket& socket);

}  // namespace utproxy

#endif  // UTPROXY_RULESET_FAST_PATH_SETS_H_
