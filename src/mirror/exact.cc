// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/exact.h"

#include "base/clock.h"
#include "mirror/inherit.h"

namespace utproxy {
namespace {

bool TargetIsOwn(const Packet& packet, const ExactAnswer& answer) {
  return answer.laddr == packet.dst && answer.lport == packet.dport;
}

// How often a packet is asked about whose answer says nothing.
constexpr int kAttempts = 4;

// sock_diag looks a socket up, and then writes down what it is by then: a listener can have closed,
// an unconnected UDP socket be connected to somebody else. What was looked up may not even be what
// the next lookup finds, so the answer says nothing.
bool IsOfAnotherFlow(const Packet& packet, const Socket& socket) {
  return socket.remote != packet.src || socket.remote_port != packet.sport;
}
bool HasChanged(const Packet& packet, const Socket& socket) {
  if (packet.is_tcp()) return !socket.listening() && IsOfAnotherFlow(packet, socket);
  return socket.connected() && IsOfAnotherFlow(packet, socket);
}

// A minisocket or request socket of which nothing tells whether it is transparent.
bool NeedsParent(const ExactAnswer& answer) {
  return answer.own && !answer.own->transparent_known();
}

}  // namespace

// The lookups of TPROXY's steps 2 and 6. A TCP listener is asked for with the unspecified remote
// 0.0.0.0:0, which no connection has, so that the established table cannot answer.
void ExactQuerier::Add(size_t index, const Packet& packet, Lookup lookup,
                       const ExactAnswer& answer) {
  FlowKey flow = packet.key();
  if (lookup == Lookup::kTarget) {
    flow.local = answer.laddr;
    flow.local_port = answer.lport;
  }
  if (packet.is_tcp() && lookup != Lookup::kOwn) {
    flow.remote = Address();
    flow.remote_port = 0;
  }
  client_.AddQuery(packet.family, flow, packet.iif);
  pending_.push_back({index, lookup});
}

void ExactQuerier::Run(absl::Span<const Packet> packets, absl::Span<ExactAnswer> answers) {
  const absl::Span<const ExactReply> replies = client_.Ask();
  for (size_t i = 0; i < pending_.size(); ++i) {
    const size_t at = pending_[i].packet;
    ExactAnswer& answer = answers[at];
    if (!replies[i].answered) answer.complete = false;
    std::optional<Socket> socket = replies[i].socket;
    if (socket && HasChanged(packets[at], *socket)) answer.complete = false;
    switch (pending_[i].lookup) {
      case Lookup::kOwn:
        // No connection of this tuple: the kernel went on to the listeners by itself.
        if (socket && socket->listening()) socket.reset();
        answer.own = socket;
        if (packets[at].is_tcp()) Remember(&answer.own);
        break;
      case Lookup::kTarget:
        answer.target = socket;
        break;
      case Lookup::kParent:
        parents_[at] = socket;
        break;
    }
  }
  pending_.clear();
}

// Notes how transparent a connection is, or what it was when that could last be told.
void ExactQuerier::Remember(std::optional<Socket>* own) {
  if (!*own) return;
  Socket& socket = **own;
  const int64_t now_ns = MonotonicCoarseNs();
  if (socket.transparent_known()) {
    last_seen_.Note(socket.cookie, socket.transparent(), now_ns);
  } else if (const std::optional<bool> last = last_seen_.Find(socket.cookie, now_ns)) {
    socket.flags |= Socket::kTransparentKnown;
    if (*last) socket.flags |= Socket::kTransparent;
  }
}

void ExactQuerier::Ask(absl::Span<const Packet> packets, const Policy& policy,
                       const InterfaceSnapshot& interfaces, absl::Span<ExactAnswer> answers) {
  AskOnce(packets, policy, interfaces, answers);
  for (size_t i = 0; i < packets.size(); ++i) {
    for (int attempt = 1; !answers[i].complete && attempt < kAttempts; ++attempt) {
      AskOnce(packets.subspan(i, 1), policy, interfaces, answers.subspan(i, 1));
    }
  }
}

void ExactQuerier::AskOnce(absl::Span<const Packet> packets, const Policy& policy,
                           const InterfaceSnapshot& interfaces, absl::Span<ExactAnswer> answers) {
  parents_.assign(packets.size(), std::nullopt);
  target_asked_.assign(packets.size(), false);
  for (size_t i = 0; i < packets.size(); ++i) {
    const Packet& packet = packets[i];
    ExactAnswer& answer = answers[i];
    answer = ExactAnswer{.complete = true};
    ExactLookup lookup(answer, interfaces);
    LaddrSource source;
    answer.laddr = ListenerAddress(packet, policy, lookup, &source);
    answer.lport = policy.on_port != 0 ? policy.on_port : packet.dport;
    Add(i, packet, Lookup::kOwn, answer);
    // A SYN and a datagram mostly need the listener too: asking at once saves a round.
    const bool both = packet.is_tcp() ? packet.is_pure_syn() : !TargetIsOwn(packet, answer);
    if (both) Add(i, packet, Lookup::kTarget, answer);
    target_asked_[i] = both;
  }
  Run(packets, answers);

  for (size_t i = 0; i < packets.size(); ++i) {
    ExactAnswer& answer = answers[i];
    if (answer.own) InheritTransparency(table_, interfaces, std::nullopt, &*answer.own);
    const bool wanted = packets[i].is_tcp() && (!answer.own || NeedsParent(answer));
    if (wanted && !target_asked_[i]) Add(i, packets[i], Lookup::kTarget, answer);
  }
  Run(packets, answers);

  // A connection that this rule takes came, as a rule, from the rule's listener; where there is
  // none, from the one at the connection's own address.
  for (size_t i = 0; i < packets.size(); ++i) {
    if (packets[i].is_tcp() && NeedsParent(answers[i]) && !answers[i].target) {
      Add(i, packets[i], Lookup::kParent, answers[i]);
    }
  }
  Run(packets, answers);
  for (size_t i = 0; i < packets.size(); ++i) {
    if (!NeedsParent(answers[i])) continue;
    const std::optional<Socket>& parent = answers[i].target ? answers[i].target : parents_[i];
    InheritTransparency(table_, interfaces, parent, &*answers[i].own);
  }
}

absl::Status ExactQuerier::EndTimeWait(const Packet& packet, uint64_t cookie) {
  Socket socket;
  socket.local = packet.dst;
  socket.remote = packet.src;
  socket.local_port = packet.dport;
  socket.remote_port = packet.sport;
  socket.proto = Proto::kTcp;
  socket.cookie = cookie;
  return client_.Destroy(socket, packet.family, packet.iif);
}

}  // namespace utproxy
