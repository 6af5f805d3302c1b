// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_NETLINK_DIAG_CODEC_H_
#define UTPROXY_NETLINK_DIAG_CODEC_H_

#include <linux/inet_diag.h>
#include <linux/netlink.h>

#include <cstdint>
#include <optional>

#include "utproxy/flow.h"
#include "utproxy/socket.h"

namespace utproxy {

// sock_diag messages as bytes: no I/O here.

constexpr uint32_t StateBit(SockState state) { return 1u << static_cast<unsigned>(state); }
// Not the pseudo-state of sockets that are only bound (TCP_BOUND_INACTIVE, Linux 6.8): no lookup
// finds them, and the kernel would walk the table of bound ports for them.
inline constexpr uint32_t kAllStates = (StateBit(SockState::kNewSynRecv) << 1) - 1;
// A TCP dump restricted to listeners walks the small listener table alone.
inline constexpr uint32_t kListenStates = StateBit(SockState::kListen);

// A whole request: one netlink message.
struct DiagRequest {
  nlmsghdr header;
  inet_diag_req_v2 body;
};
static_assert(sizeof(DiagRequest) == sizeof(nlmsghdr) + sizeof(inet_diag_req_v2));

// Asks for all sockets of one family and protocol in the given states. Only in answers about
// kListenStates alone Socket::in_no_map() tells anything.
DiagRequest DumpRequest(Family family, Proto proto, uint32_t states);

// Asks for the one socket that the kernel's own lookup finds for `flow` coming in by interface
// `dif` (0: none). For TCP: established, then listeners, sk_lookup programs included; for UDP the
// full lookup (inet_diag_find_one_icsk, udp_dump_one). `family` is the packet's; unspecified
// addresses and port 0 are asked as they are.
DiagRequest ExactRequest(Family family, const FlowKey& flow, uint32_t dif, uint32_t sequence);

// Asks for the socket's end (SOCK_DESTROY). `socket.cookie` must be set: without it the kernel
// would take the listener where the connection has gone.
DiagRequest DestroyRequest(const Socket& socket, Family family, uint32_t dif);

// Reads an answer or a destroy event. nullopt where the message is none, is malformed, or is of
// a family, protocol or state not known. `transparent_known()` tells whether INET_DIAG_SOCKOPT was
// there. `proto` is the one asked for; an event carries its own (INET_DIAG_PROTOCOL), which wins.
std::optional<Socket> ReadDiagMessage(const nlmsghdr& message, Proto proto);

}  // namespace utproxy

#endif  // UTPROXY_NETLINK_DIAG_CODEC_H_
