// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DECIDE_H_
#define UTPROXY_DECIDE_H_

#include <concepts>
#include <cstdint>
#include <optional>

#include "utproxy/decision.h"
#include "utproxy/packet.h"
#include "utproxy/policy.h"

namespace utproxy {

// What a decision asks of the host's sockets and interfaces. Implemented over the mirror's table,
// over exact sock_diag queries, over a snapshot read from a file, and over a list in tests.
template <typename T>
concept SocketLookup = requires(T lookup, const Packet& packet, const Address& laddr,
                                uint16_t lport) {
  // The TCP socket of the packet's own addresses and ports in the established hash: a full
  // socket, a request socket or a TIME_WAIT minisocket. Never a listener.
  { lookup.TcpEstablished(packet) } -> std::same_as<std::optional<Socket>>;
  // The TCP listener that laddr:lport leads to for this packet's sender and interface.
  { lookup.TcpListener(packet, laddr, lport) } -> std::same_as<std::optional<Socket>>;
  // The ordinary full UDP lookup with laddr:lport as the destination; connected or not.
  { lookup.Udp(packet, laddr, lport) } -> std::same_as<std::optional<Socket>>;
  // The address TPROXY takes for an interface where the rule names none (nf_tproxy_laddr4/6);
  // nullopt where it has none that qualifies.
  { lookup.PrimaryAddress(packet.iif, packet.family) } -> std::same_as<std::optional<Address>>;
};

// Records nothing, at no cost. A recorder that explains has the same members (see
// src/decide/explain.h).
struct NoRecorder {
  static constexpr bool kActive = false;
};

// Where the address of the listener lookup came from.
enum class LaddrSource : uint8_t { kOnIp, kPrimaryAddress, kPacket };

namespace decide_internal {

inline Decision Miss(const Packet& packet, const Policy& policy, Reason reason) {
  Decision d;
  d.verdict = policy.on_miss == OnMiss::kAccept ? Verdict::kAccept : Verdict::kDrop;
  d.reason = reason;
  d.mark = packet.mark;
  return d;
}

inline Reason ReasonOf(ParseOutcome outcome) {
  switch (outcome) {
    case ParseOutcome::kFragment:
      return Reason::kFragment;
    case ParseOutcome::kNotTcpOrUdp:
      return Reason::kNotTcpOrUdp;
    default:
      return Reason::kHeaderTruncated;
  }
}

}  // namespace decide_internal

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

// Decides one packet as the kernel's TPROXY would (tproxy_tg4, tproxy_tg6_v1): which socket, if
// any, is to have it, and which mark it leaves with. Pure: everything it knows of the host comes
// from `lookup`. `recorder` is told of each step, in order, where Recorder::kActive.
template <SocketLookup Lookup, typename Recorder = NoRecorder>
Decision Decide(const Packet& packet, const Policy& policy, Lookup& lookup,
                Recorder&& recorder = Recorder{}) {
  using R = std::remove_cvref_t<Recorder>;
  if (packet.outcome != ParseOutcome::kOk) {
    return decide_internal::Miss(packet, policy, decide_internal::ReasonOf(packet.outcome));
  }
  Decision d;
  std::optional<Socket> found;
  Reason reason = Reason::kEstablished;
  if (packet.is_tcp()) {
    found = lookup.TcpEstablished(packet);
  } else {
    // A UDP socket counts as established only where it is connected and bound to an address.
    found = lookup.Udp(packet, packet.dst, packet.dport);
    if (found && !(found->connected() && !found->local.IsUnspecified())) {
      if constexpr (R::kActive) recorder.UnconnectedIgnored(*found);
      found.reset();
    }
  }
  if constexpr (R::kActive) recorder.Established(found);

  const bool time_wait = found && found->time_wait();
  const bool wants_listener = !found || (time_wait && packet.is_pure_syn());
  if (time_wait) reason = Reason::kTimeWait;
  if (wants_listener) {
    LaddrSource source;
    d.laddr = ListenerAddress(packet, policy, lookup, &source);
    d.lport = policy.on_port != 0 ? policy.on_port : packet.dport;
    d.listener_looked_up = true;
    if constexpr (R::kActive) recorder.Laddr(d.laddr, d.lport, source);
    std::optional<Socket> listener = packet.is_tcp() ? lookup.TcpListener(packet, d.laddr, d.lport)
                                                     : lookup.Udp(packet, d.laddr, d.lport);
    // A connected UDP socket at laddr:lport shadows the listener there.
    bool shadowed = false;
    if (!packet.is_tcp() && listener && listener->connected()) {
      shadowed = true;
      listener.reset();
    }
    if constexpr (R::kActive) recorder.Listener(d.laddr, d.lport, listener, shadowed);
    if (listener) {
      d.kill_time_wait = time_wait;
      if (time_wait) d.time_wait_cookie = found->cookie;
      reason = time_wait ? Reason::kTimeWaitReopened : Reason::kListener;
      found = listener;
    }
  }
  if constexpr (R::kActive) recorder.TimeWait(time_wait, packet.is_pure_syn(), d.kill_time_wait);

  if (found) d.socket = found;
  if (found && found->transparent()) {
    d.verdict = Verdict::kAccept;
    d.reason = reason;
    d.mark = policy.Remark(packet.mark);
  } else {
    d.verdict = policy.on_miss == OnMiss::kAccept ? Verdict::kAccept : Verdict::kDrop;
    d.reason = found ? Reason::kNotTransparent : Reason::kNoSocket;
    d.mark = packet.mark;
    // The kernel ends the TIME_WAIT even so; utproxy leaves it, as the packet goes nowhere.
    d.kill_time_wait = false;
  }
  if constexpr (R::kActive) recorder.Verdict(d, policy);
  return d;
}

}  // namespace utproxy

#endif  // UTPROXY_DECIDE_H_
