// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DECIDE_LISTENER_H_
#define UTPROXY_DECIDE_LISTENER_H_

#include <absl/types/span.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "utproxy/packet.h"
#include "utproxy/socket.h"

// Which of several sockets a kernel lookup returns, from what sock_diag tells of them. The scores
// are those of Linux 5.15 and later (compute_score in net/ipv4/inet_hashtables.c, net/ipv4/udp.c
// and their IPv6 twins). Pure functions; thread-safe.
//
// Three things that the kernel weighs are not exported: SO_REUSEPORT (a group's member is picked
// by hash, and at once, whatever scores higher later), SO_INCOMING_CPU (one more point) and the
// order of UDP's chains. None of them matters where one socket alone passes the filters; hence
// `certain`.

namespace utproxy {

// One socket that a lookup considered, for people to read.
struct Candidate {
  Socket socket;
  int score = -1;  // as the kernel counts, without SO_INCOMING_CPU; -1: refused
  bool chosen = false;
  std::string why;  // one sentence
};

struct ListenerChoice {
  std::optional<Socket> socket;
  // The kernel is known to choose the same: one socket passed in the bucket that decided, or none
  // in any. Where false, `socket` is the likeliest, and the kernel has to be asked.
  bool certain = true;
};

// inet_sk_bound_dev_eq, udp_sk_bound_dev_eq with sdif 0, which is what TPROXY passes: an unbound
// socket takes packets of every interface, a bound one those of its own. `dif` is the ingress
// interface's index.
bool DeviceMatches(const Socket& socket, uint32_t dif);

// Whether the established hash's lookup for this packet returns `socket`: a TCP socket that is
// not listening, of the packet's addresses and ports, device rule kept (inet_match, inet6_match).
// An AF_INET6 socket of mapped addresses takes IPv4 packets; an AF_INET socket never IPv6 ones.
bool EstablishedMatches(const Packet& packet, const Socket& socket);

// The first of `sockets` that EstablishedMatches. More than one can: sockets bound to different
// devices may share addresses and ports.
ListenerChoice ChooseEstablished(const Packet& packet, absl::Span<const Socket> sockets);

// __inet_lookup_listener, inet6_lookup_listener. `exact`: the TCP sockets in LISTEN bound to
// laddr:lport; `wildcard`: those bound to the unspecified address and lport, of either family;
// both in chain order. Any match in `exact` beats all of `wildcard`. On equal scores the first in
// chain order wins. `candidates` may be null; else one is appended for every socket given.
ListenerChoice ChooseTcpListener(const Packet& packet, absl::Span<const Socket> exact,
                                 absl::Span<const Socket> wildcard,
                                 std::vector<Candidate>* candidates);

// __udp4_lib_lookup, __udp6_lib_lookup. `connected`: the UDP sockets connected to the packet's
// sender and bound to laddr:lport; `exact`: all others bound to laddr:lport; `wildcard`: those
// bound to the unspecified address and lport. Connected ones come first (since 6.13 by a hash of
// their own, before by score), but as an unconnected SO_REUSEPORT group in the same chain can
// overtake them before 6.13, the two together are not certain.
ListenerChoice ChooseUdp(const Packet& packet, absl::Span<const Socket> connected,
                         absl::Span<const Socket> exact, absl::Span<const Socket> wildcard,
                         std::vector<Candidate>* candidates);

}  // namespace utproxy

#endif  // UTPROXY_DECIDE_LISTENER_H_
