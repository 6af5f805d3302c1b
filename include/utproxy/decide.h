// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DECIDE_H_
#define UTPROXY_DECIDE_H_

#include <concepts>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "utproxy/decision.h"
#include "utproxy/packet.h"
#include "utproxy/policy.h"
#include "utproxy/recorder.h"

namespace utproxy {

// What a decision asks of the host's sockets and interfaces. Implemented over the mirror's table,
// over exact sock_diag queries, over a snapshot read from a file, and over a list in tests.
// Every lookup is for the packet's sender and its ingress interface (dif); sdif is always 0.
template <typename T>
concept SocketLookup = requires(T lookup, const Packet& packet, const Address& laddr,
                                uint16_t lport) {
  // The TCP socket of the packet's own addresses and ports in the established hash: a full
  // socket, a request socket or a TIME_WAIT minisocket. Never a listener.
  { lookup.TcpEstablished(packet) } -> std::same_as<std::optional<Socket>>;
  // The TCP listener that laddr:lport leads to.
  { lookup.TcpListener(packet, laddr, lport) } -> std::same_as<std::optional<Socket>>;
  // The ordinary full UDP lookup with laddr:lport as the destination; connected or not.
  { lookup.Udp(packet, laddr, lport) } -> std::same_as<std::optional<Socket>>;
  // The address TPROXY takes for an interface where the rule names none (nf_tproxy_laddr4/6);
  // nullopt where it has none that qualifies.
  { lookup.PrimaryAddress(packet.iif, packet.family) } -> std::same_as<std::optional<Address>>;
};

// The address of the listener lookup: the rule's, else the ingress interface's primary address,
// else the packet's destination (nf_tproxy_laddr4, nf_tproxy_laddr6).
template <SocketLookup Lookup>
Address ListenerAddress(const Packet& packet, const Policy& policy, Lookup& lookup,
                        LaddrSource* source) {
  if (const Address& on_ip = policy.on_ip(packet.family); !on_ip.IsUnspecified()) {
    *source = LaddrSource::kOnIp;
    return on_ip;
  }
  if (const std::optional<Address> primary = lookup.PrimaryAddress(packet.iif, packet.family)) {
    *source = LaddrSource::kPrimaryAddress;
    return *primary;
  }
  *source = LaddrSource::kPacket;
  return packet.dst;
}

// The port of the listener lookup: the rule's, else the packet's own. A lookup for a rule with
// several ports says which by SpreadPort(packet, laddr), which is asked only here; 0: the rule has
// one.
template <SocketLookup Lookup>
uint16_t ListenerPort(const Packet& packet, const Policy& policy, const Address& laddr,
                      Lookup& lookup) {
  if constexpr (requires {
                  { lookup.SpreadPort(packet, laddr) } -> std::same_as<uint16_t>;
                }) {
    if (const uint16_t port = lookup.SpreadPort(packet, laddr); port != 0) return port;
  }
  return policy.on_port != 0 ? policy.on_port : packet.dport;
}

namespace decide_internal {

constexpr Reason ReasonOf(ParseOutcome outcome) {
  switch (outcome) {
    case ParseOutcome::kFragment:
      return Reason::kFragment;
    case ParseOutcome::kNotTcpOrUdp:
      return Reason::kNotTcpOrUdp;
    default:
      return Reason::kHeaderTruncated;
  }
}

inline void Miss(const Packet& packet, const Policy& policy, Reason reason, Decision* d) {
  d->verdict = policy.on_miss == OnMiss::kAccept ? Verdict::kAccept : Verdict::kDrop;
  d->reason = reason;
  d->mark = packet.mark;
}

// What the packet's own addresses and ports lead to. A UDP socket counts only where it is
// connected and bound to an address (nf_tproxy_get_sock_v4, NF_TPROXY_LOOKUP_ESTABLISHED).
template <SocketLookup Lookup, typename Recorder>
std::optional<Socket> FindEstablished(const Packet& packet, Lookup& lookup, Recorder& recorder) {
  std::optional<Socket> found, passed_over;
  if (packet.is_tcp()) {
    found = lookup.TcpEstablished(packet);
  } else {
    found = lookup.Udp(packet, packet.dst, packet.dport);
    if (found && (!found->connected() || found->local.IsUnspecified())) {
      if constexpr (Recorder::kActive) passed_over = found;
      found.reset();
    }
  }
  if constexpr (Recorder::kActive) recorder.Established(packet, found, passed_over);
  return found;
}

// What laddr:lport leads to; fills those two in `*d`. A connected UDP socket there shadows the
// listener: the lookup's best result is refused and no other is sought
// (nf_tproxy_get_sock_v4, NF_TPROXY_LOOKUP_LISTENER).
template <SocketLookup Lookup, typename Recorder>
std::optional<Socket> FindListener(const Packet& packet, const Policy& policy,
                                   const std::optional<Socket>& time_wait, Lookup& lookup,
                                   Recorder& recorder, Decision* d) {
  LaddrSource source = LaddrSource::kPacket;
  d->laddr = ListenerAddress(packet, policy, lookup, &source);
  d->lport = ListenerPort(packet, policy, d->laddr, lookup);
  d->listener_looked_up = true;
  if constexpr (Recorder::kActive) recorder.Laddr(packet, policy, d->laddr, d->lport, source);
  std::optional<Socket> listener = packet.is_tcp() ? lookup.TcpListener(packet, d->laddr, d->lport)
                                                   : lookup.Udp(packet, d->laddr, d->lport);
  std::optional<Socket> shadow;
  if (!packet.is_tcp() && listener && listener->connected()) {
    if constexpr (Recorder::kActive) shadow = listener;
    listener.reset();
  }
  if constexpr (Recorder::kActive) recorder.Listener(packet, listener, shadow, time_wait);
  return listener;
}

// Chooses the socket and sets `*reason` to what a hit on it is called. A TIME_WAIT minisocket
// gives way to a listener where the segment may open a connection, and stays otherwise
// (nf_tproxy_handle_time_wait4). Any other socket that was found is final, transparent or not.
template <SocketLookup Lookup, typename Recorder>
std::optional<Socket> ChooseSocket(const Packet& packet, const Policy& policy, Lookup& lookup,
                                   Recorder& recorder, Decision* d, Reason* reason) {
  std::optional<Socket> found = FindEstablished(packet, lookup, recorder);
  const bool time_wait = found && found->time_wait();
  *reason = time_wait ? Reason::kTimeWait : Reason::kEstablished;
  if constexpr (Recorder::kActive) {
    if (time_wait) recorder.TimeWait(packet, *found);
  }
  if (found && !(time_wait && packet.is_pure_syn())) {
    if constexpr (Recorder::kActive) recorder.ListenerSkipped(packet, *found);
    return found;
  }
  std::optional<Socket> listener = FindListener(packet, policy, found, lookup, recorder, d);
  if (!listener) return found;
  *reason = time_wait ? Reason::kTimeWaitReopened : Reason::kListener;
  if (time_wait) d->time_wait_cookie = found->cookie;
  return listener;
}

}  // namespace decide_internal

// Decides one packet as the kernel's TPROXY would (tproxy_tg4, tproxy_tg6_v1): which socket, if
// any, is to have it, and which mark it leaves with. Pure: everything it knows of the host comes
// from `lookup`. `recorder` is told of each step, in order, where Recorder::kActive.
//
// One deviation: the kernel ends a TIME_WAIT minisocket as soon as it has found a listener, and
// tests that listener's transparency only then. Here kill_time_wait is set only for a packet that
// is handed over.
template <SocketLookup Lookup, DecisionRecorder Recorder = NoRecorder>
Decision Decide(const Packet& packet, const Policy& policy, Lookup& lookup,
                Recorder&& recorder = Recorder{}) {
  constexpr bool kActive = std::remove_cvref_t<Recorder>::kActive;
  Decision d;
  if (packet.outcome != ParseOutcome::kOk) {
    decide_internal::Miss(packet, policy, decide_internal::ReasonOf(packet.outcome), &d);
    if constexpr (kActive) recorder.Unparsed(packet);
  } else {
    Reason reason = Reason::kNoSocket;
    d.socket = decide_internal::ChooseSocket(packet, policy, lookup, recorder, &d, &reason);
    if constexpr (kActive) {
      if (d.socket) recorder.Transparent(*d.socket);
    }
    if (d.socket && d.socket->transparent()) {
      d.verdict = Verdict::kAccept;
      d.reason = reason;
      d.mark = policy.Remark(packet.mark);
      d.kill_time_wait = reason == Reason::kTimeWaitReopened;
    } else {
      decide_internal::Miss(packet, policy, d.socket ? Reason::kNotTransparent : Reason::kNoSocket,
                            &d);
    }
  }
  if constexpr (kActive) recorder.Mark(packet, policy, d);
  return d;
}

}  // namespace utproxy

#endif  // UTPROXY_DECIDE_H_
