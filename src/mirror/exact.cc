// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/exact.h"

#include "base/clock.h"
#include "mirror/inherit.h"

namespace utproxy {
namespace {

bool TargetIsOwn(const Packet& packet, const ExactAnswer& answer) {
  return answer.laddr == packet.dst && answer.lport == packet.dport;
}

// How often a packet is asked about whose answer says nothing. Against a program that does nothing
// but connect and disconnect one in ten does.
constexpr int kAttempts = 16;

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

// The lookups of TPROXY's steps 2 and 6. A TCP listener is asked for with the packet's own remote,
// as TPROXY does: an SO_REUSEPORT group and sk_lookup programs choose by it. Where that leads to a
// connection of laddr:lport with the same peer, it is asked for once more with the unspecified
// remote 0.0.0.0:0, which no connection has.
void ExactQuerier::Add(size_t index, const Packet& packet, Lookup lookup,
                       const ExactAnswer& answer) {
  FlowKey flow = packet.key();
  if (lookup == Lookup::kTarget || lookup == Lookup::kTargetOfNobody) {
    flow.local = answer.laddr;
    flow.local_port = answer.lport;
  }
  if (lookup == Lookup::kTargetOfNobody || lookup == Lookup::kParent) {
    flow.remote = Address();
    flow.remote_port = 0;
  }
  // A request socket tells the device its listener is bound to, or that it is to none.
  const uint32_t dif = lookup == Lookup::kParent ? answer.own->ifindex : packet.iif;
  client_.AddQuery(packet.family, flow, dif);
  pending_.push_back({index, lookup});
}

void ExactQuerier::Run(absl::Span<const Packet> packets, absl::Span<ExactAnswer> answers) {
  std::vector<size_t> again;
  RunOnce(packets, answers, &again);
  for (const size_t at : again) Add(at, packets[at], Lookup::kTargetOfNobody, answers[at]);
  if (!again.empty()) RunOnce(packets, answers, &again);
}

// Appends to *again the packets whose listener lookup found a connection.
void ExactQuerier::RunOnce(absl::Span<const Packet> packets, absl::Span<ExactAnswer> answers,
                           std::vector<size_t>* again) {
  const absl::Span<const ExactReply> replies = client_.Ask();
  for (size_t i = 0; i < pending_.size(); ++i) {
    const size_t at = pending_[i].packet;
    ExactAnswer& answer = answers[at];
    if (!replies[i].answered) answer.complete = false;
    std::optional<Socket> socket = replies[i].socket;
    if (socket && HasChanged(packets[at], *socket)) answer.complete = false;
    const bool connection = packets[at].is_tcp() && socket && !socket->listening();
    switch (pending_[i].lookup) {
      case Lookup::kOwn:
        // No connection of this tuple: the kernel went on to the listeners by itself.
        if (socket && socket->listening()) socket.reset();
        answer.own = socket;
        if (packets[at].is_tcp()) Remember(&answer.own);
        break;
      case Lookup::kTarget:
        if (connection) again->push_back(at);
        [[fallthrough]];
      case Lookup::kTargetOfNobody:
        answer.target = connection ? std::nullopt : socket;
        break;
      case Lookup::kParent:
        parents_[at] = connection ? std::nullopt : socket;
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
                       const InterfaceSnapshot& interfaces, absl::Span<ExactAnswer> answers,
                       absl::Span<const uint16_t> ports) {
  AskOnce(packets, policy, interfaces, answers, ports);
  for (size_t i = 0; i < packets.size(); ++i) {
    for (int attempt = 1; !answers[i].complete && attempt < kAttempts; ++attempt) {
      AskOnce(packets.subspan(i, 1), policy, interfaces, answers.subspan(i, 1),
              ports.empty() ? ports : ports.subspan(i, 1));
    }
  }
}

void ExactQuerier::AskOnce(absl::Span<const Packet> packets, const Policy& policy,
                           const InterfaceSnapshot& interfaces, absl::Span<ExactAnswer> answers,
                           absl::Span<const uint16_t> ports) {
  target_asked_.assign(packets.size(), false);
  for (size_t i = 0; i < packets.size(); ++i) {
    const Packet& packet = packets[i];
    ExactAnswer& answer = answers[i];
    answer = ExactAnswer{.complete = true};
    ExactLookup lookup(answer, interfaces);
    LaddrSource source;
    answer.laddr = ListenerAddress(packet, policy, lookup, &source);
    answer.lport = !ports.empty() ? ports[i] : policy.on_port != 0 ? policy.on_port : packet.dport;
    // By its flow's entry the packet would lead to an earlier answer of ours, not to the kernel's.
    if (TargetIsOwn(packet, answer) && steered_ && steered_(packet) != 0) release_(packet);
    Add(i, packet, Lookup::kOwn, answer);
    // A SYN and a datagram mostly need the listener too: asking at once saves a round.
    const bool both = packet.is_tcp() ? packet.is_pure_syn() : !TargetIsOwn(packet, answer);
    if (both) Add(i, packet, Lookup::kTarget, answer);
    target_asked_[i] = both;
  }
  Run(packets, answers);

  bool parents = false;
  for (size_t i = 0; i < packets.size(); ++i) {
    ExactAnswer& answer = answers[i];
    if (answer.own) InheritTransparency(table_, interfaces, std::nullopt, &*answer.own);
    parents = parents || (packets[i].is_tcp() && NeedsParent(answer));
    const bool wanted = packets[i].is_tcp() && (!answer.own || NeedsParent(answer));
    if (wanted && !target_asked_[i]) Add(i, packets[i], Lookup::kTarget, answer);
  }
  Run(packets, answers);
  if (!parents) return;
  AskParents(packets, answers);
  for (size_t i = 0; i < packets.size(); ++i) {
    if (!NeedsParent(answers[i])) continue;
    InheritTransparency(table_, interfaces, ParentOf(packets[i], answers[i], parents_[i]),
                        &*answers[i].own);
    Remember(&answers[i].own);
  }
}

// The listeners at the connections' own addresses, which the rule's need not be.
void ExactQuerier::AskParents(absl::Span<const Packet> packets, absl::Span<ExactAnswer> answers) {
  parents_.assign(packets.size(), std::nullopt);
  for (size_t i = 0; i < packets.size(); ++i) {
    const bool wanted = packets[i].is_tcp() && NeedsParent(answers[i]);
    // Else the rule's listener is the one that would be asked for.
    const bool other =
        !TargetIsOwn(packets[i], answers[i]) || answers[i].own->ifindex != packets[i].iif;
    if (wanted && other) {
      Add(i, packets[i], Lookup::kParent, answers[i]);
    }
  }
  Run(packets, answers);
}

// Which listener a connection of unknown transparency came from: the rule's where its SYN was led
// there, else the one that ordinary delivery leads to.
const std::optional<Socket>& ExactQuerier::ParentOf(
    const Packet& packet, const ExactAnswer& answer,
    const std::optional<Socket>& at_own_address) const {
  if (TargetIsOwn(packet, answer)) return at_own_address ? at_own_address : answer.target;
  const bool by_rule = !steered_ || (answer.target && steered_(packet) == answer.target->cookie);
  const std::optional<Socket>& first = by_rule ? answer.target : at_own_address;
  return first ? first : by_rule ? at_own_address : answer.target;
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
