// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/explainer.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "base/status.h"
#include "decide/list_lookup.h"
#include "engine/decider.h"
#include "mirror/table_lookup.h"

namespace utproxy {
namespace {

// Answers from the kernel's own lookups, candidates from a dump of the port's sockets.
class ExplainLookup {
 public:
  ExplainLookup(const ExactAnswer& answer, const InterfaceSnapshot& interfaces,
                std::vector<Socket> of_port)
      : exact_(answer, interfaces), list_(std::move(of_port), {}) {
    list_.CollectCandidates(true);
  }

  std::optional<Socket> TcpEstablished(const Packet& packet) {
    return exact_.TcpEstablished(packet);
  }
  std::optional<Socket> TcpListener(const Packet& packet, const Address& laddr, uint16_t lport) {
    (void)list_.TcpListener(packet, laddr, lport);
    return Settle(exact_.TcpListener(packet, laddr, lport));
  }
  std::optional<Socket> Udp(const Packet& packet, const Address& laddr, uint16_t lport) {
    (void)list_.Udp(packet, laddr, lport);
    return Settle(exact_.Udp(packet, laddr, lport));
  }
  std::optional<Address> PrimaryAddress(uint32_t ifindex, Family family) {
    return exact_.PrimaryAddress(ifindex, family);
  }
  const std::vector<Candidate>& candidates() const { return candidates_; }

 private:
  std::optional<Socket> Settle(std::optional<Socket> found) {
    candidates_ = list_.candidates();
    SettleCandidates(found, &candidates_);
    return found;
  }

  ExactLookup exact_;
  ListLookup list_;
  std::vector<Candidate> candidates_;
};
static_assert(SocketLookup<ExplainLookup>);

std::string DeliveryCommands(const Packet& packet, uint32_t mark) {
  const char* ip = packet.family == Family::kIpv6 ? "ip -6" : "ip";
  return absl::StrCat("No rule and local route deliver this mark: '", ip, " rule add fwmark ",
                      MarkText(mark), " lookup 100', '", ip,
                      " route add local default dev lo table 100'.");
}

std::string RefusalText(const RouteAnswer& route, const Packet& packet, uint32_t mark) {
  const std::string error = std::generic_category().message(route.error);
  const bool martian = route.error == EINVAL || route.error == EXDEV;
  return absl::StrCat(" the kernel refuses to route the packet: ", error, ". ",
                      martian ? "That is a martian source: rp_filter, or src_valid_mark=1 with the "
                                "mark's local default route."
                              : DeliveryCommands(packet, mark));
}

std::string RouteText(const RouteAnswer& route, const Packet& packet, uint32_t mark,
                      const InterfaceSnapshot& interfaces) {
  const std::string marked = absl::StrCat("With mark ", MarkText(mark));
  switch (route.kind) {
    case RouteAnswer::Kind::kLocal:
      return absl::StrCat(marked, " the packet is routed to this host by table ", route.table, ".");
    case RouteAnswer::Kind::kForward:
      return absl::StrCat(marked, " the packet is forwarded by ", interfaces.NameOf(route.oif),
                          " (table ", route.table, "). ", DeliveryCommands(packet, mark));
    case RouteAnswer::Kind::kMany:
      return "The destination is a broadcast or multicast address, which is delivered here "
             "whatever "
             "the mark.";
    case RouteAnswer::Kind::kOther:
      return absl::StrCat(marked, " the packet meets a route of type ",
                          static_cast<unsigned>(route.type), " in table ", route.table,
                          ", which delivers nothing.");
    case RouteAnswer::Kind::kRefused:
      break;
  }
  return absl::StrCat(marked, RefusalText(route, packet, mark));
}

const char* RouteResult(RouteAnswer::Kind kind) {
  switch (kind) {
    case RouteAnswer::Kind::kLocal:
      return "local";
    case RouteAnswer::Kind::kForward:
      return "forward";
    case RouteAnswer::Kind::kMany:
      return "broadcast";
    case RouteAnswer::Kind::kOther:
      return "other";
    case RouteAnswer::Kind::kRefused:
      return "refused";
  }
  return "refused";
}

ExplainStep DeliveryStep(const Packet& packet, const Decision& decision, RouteAnswer::Kind route) {
  ExplainStep step{.kind = StepKind::kDelivery};
  if (route == RouteAnswer::Kind::kMany) {
    step.result = "members";
    step.why =
        "Every socket bound to the packet's own port that takes broadcast or multicast gets a "
        "copy. The kernel's TPROXY gives it to the chosen socket; utproxy cannot, so with another "
        "on-port it is lost.";
  } else if (route != RouteAnswer::Kind::kLocal) {
    step.result = "none";
    step.why = "The packet never reaches a local socket, whatever was decided.";
  } else if (!decision.by_listener()) {
    step.result = "established";
    step.why = "The socket is found by the packet's own addresses and ports, before any other.";
  } else if (NeedsSteering(packet, decision) && decision.socket->in_no_map()) {
    step.result = "failed";
    step.why = absl::StrCat(
        "The kernel's TPROXY pins the socket to the packet. utproxy cannot: the listener has a "
        "protocol above TCP, such as MPTCP, and the kernel lets no sk_lookup program lead to such "
        "a socket, so the packet is dropped. Have the proxy listen with plain TCP (one written in "
        "Go: GODEBUG=multipathtcp=0), or at the packet's own port and address.");
  } else if (NeedsSteering(packet, decision)) {
    step.result = "sk_lookup";
    step.why = absl::StrCat(
        "The listener's address or port is not the packet's, so the mark alone would not lead to "
        "it: the kernel's TPROXY pins the socket to the packet, utproxy writes an entry for the "
        "flow that its sk_lookup program reads.");
  } else {
    step.result = "listener";
    step.why = "The packet's own address and port lead to the listener.";
  }
  return step;
}

Json CandidateJson(const Candidate& candidate, const OwnersByInode& owners) {
  Json json;
  const Socket& socket = candidate.socket;
  json["local"] = EndpointToString(socket.local, socket.local_port, socket.family());
  json["score"] = candidate.score;
  json["transparent"] = socket.transparent();
  json["chosen"] = candidate.chosen;
  json["why"] = candidate.why;
  json["inode"] = socket.inode;
  if (const std::optional<SocketOwner> owner = OwnerOf(socket, owners)) {
    json["pid"] = owner->pid;
    json["comm"] = owner->comm;
    if (!owner->cgroup.empty()) json["cgroup"] = owner->cgroup;
  }
  return json;
}

bool HasSeveralPorts(const std::vector<ExplainStep>& steps) {
  return std::any_of(steps.begin(), steps.end(),
                     [](const ExplainStep& step) { return !step.ports.empty(); });
}

const char* StateName(PortState state) {
  static constexpr const char* kNames[] = {"takes", "nobody", "not_transparent", "shadowed"};
  return kNames[static_cast<int>(state)];
}

Json PortsJson(const std::vector<PortCandidate>& ports) {
  Json json = Json::array();
  for (const PortCandidate& port : ports) {
    json.push_back({{"port", port.port},
                    {"backup", port.backup},
                    {"state", StateName(port.state)},
                    {"chosen", port.chosen},
                    {"why", port.why}});
  }
  return json;
}

Json StepJson(const ExplainStep& step, const OwnersByInode& owners) {
  Json json;
  json["step"] = StepName(step.kind);
  json["result"] = step.result;
  json["why"] = step.why;
  if (!step.ports.empty()) json["ports"] = PortsJson(step.ports);
  if (step.kind != StepKind::kListener) return json;
  json["candidates"] = Json::array();
  for (const Candidate& candidate : step.candidates) {
    json["candidates"].push_back(CandidateJson(candidate, owners));
  }
  return json;
}

}  // namespace

std::optional<SocketOwner> OwnerOf(const Socket& socket, const OwnersByInode& owners) {
  const auto it = owners.find(socket.inode);
  if (it == owners.end() || it->first == 0) return std::nullopt;
  return it->second;
}

Json StepsJson(const std::vector<ExplainStep>& steps, const OwnersByInode& owners) {
  Json json = Json::array();
  for (const ExplainStep& step : steps) json.push_back(StepJson(step, owners));
  return json;
}

absl::StatusOr<std::unique_ptr<Explainer>> Explainer::Open(uint32_t own_program) {
  ASSIGN_OR_RETURN(auto interfaces, Interfaces::Open());
  ASSIGN_OR_RETURN(DiagClient queries, DiagClient::Open());
  ASSIGN_OR_RETURN(DiagClient dumps, DiagClient::Open());
  ASSIGN_OR_RETURN(NetlinkSocket routes, NetlinkSocket::Open(NETLINK_ROUTE));
  ASSIGN_OR_RETURN(ExplainContext context, ExplainContext::Load(own_program));
  return std::unique_ptr<Explainer>(
      new Explainer(std::move(interfaces), ExactQuerier(std::move(queries), nullptr),
                    std::move(dumps), std::move(routes), std::move(context)));
}

absl::StatusOr<std::vector<Socket>> Explainer::SocketsOfPort(Proto proto, uint16_t port) {
  std::vector<Socket> sockets;
  const uint32_t states = proto == Proto::kTcp ? kListenStates : kAllStates;
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    RETURN_IF_ERROR(dumps_.Dump(family, proto, states, [&](const Socket& socket) {
      if (socket.local_port == port) sockets.push_back(socket);
    }));
  }
  return sockets;
}

absl::StatusOr<ExactAnswer> Explainer::Ask(const Packet& packet, const Policy& policy,
                                           const InterfaceSnapshot& interfaces) {
  ExactAnswer answer;
  if (packet.outcome != ParseOutcome::kOk) return answer;
  querier_.Ask({&packet, 1}, policy, interfaces, {&answer, 1});
  if (!answer.complete) return absl::InternalError("ask sock_diag: no answer");
  return answer;
}

// A SYN in the packet's place, as the kernel's answer about a connection has no listener.
absl::StatusOr<std::vector<PortCandidate>> Explainer::PortsByKernel(
    const Packet& packet, const Policy& policy, const SpreadSpec& spread,
    const InterfaceSnapshot& interfaces) {
  if (packet.outcome != ParseOutcome::kOk) return std::vector<PortCandidate>();
  Packet opening = packet;
  if (packet.is_tcp()) opening.tcp_flags = kTcpSyn;
  absl::Status status;
  const auto state_of = [&](uint16_t port) {
    Policy at_port = policy;
    at_port.on_port = port;
    const absl::StatusOr<ExactAnswer> answer = Ask(opening, at_port, interfaces);
    status.Update(answer.status());
    if (!answer.ok()) return PortState::kNobody;
    ExactLookup lookup(*answer, interfaces);
    return StateOf(packet.is_tcp() ? lookup.TcpListener(packet, answer->laddr, port)
                                   : lookup.Udp(packet, answer->laddr, port));
  };
  std::vector<PortCandidate> ranked = RankPorts(Spread(spread), packet, state_of);
  RETURN_IF_ERROR(status);
  return ranked;
}

absl::StatusOr<Explanation> Explainer::Exact(const Packet& packet, const Policy& rule,
                                             const SpreadSpec& spread) {
  RETURN_IF_ERROR(interfaces_->UpdateIfChanged());
  const std::shared_ptr<const InterfaceSnapshot> interfaces = interfaces_->Get();
  Policy policy = rule;
  std::vector<PortCandidate> ports;
  if (spread.active()) {
    ASSIGN_OR_RETURN(ports, PortsByKernel(packet, rule, spread, *interfaces));
    if (!ports.empty()) policy.on_port = PortOf(ports);
  }
  ASSIGN_OR_RETURN(ExactAnswer answer, Ask(packet, policy, *interfaces));
  ASSIGN_OR_RETURN(std::vector<Socket> of_port, SocketsOfPort(packet.proto(), answer.lport));
  for (const Socket& socket : of_port) {
    const bool target = answer.target && answer.target->cookie == socket.cookie;
    if (target && socket.in_no_map()) answer.target->flags |= Socket::kUpperLayer;
  }
  ExplainLookup lookup(answer, *interfaces, std::move(of_port));
  Explanation explanation = Explain(packet, policy, lookup);
  if (!ports.empty()) ExplainPorts(std::move(ports), spread.by, &explanation);
  RETURN_IF_ERROR(AddDelivery(packet, *interfaces, &explanation));
  return explanation;
}

absl::StatusOr<Explanation> Explainer::Mirror(const Packet& packet, const Policy& rule,
                                              const SpreadSpec& spread, const SocketTable& table,
                                              const InterfaceSnapshot& interfaces) {
  TableLookup lookup(table, interfaces);
  Policy policy = rule;
  std::vector<PortCandidate> ports;
  if (spread.active() && packet.outcome == ParseOutcome::kOk) {
    LaddrSource source;
    const Address laddr = ListenerAddress(packet, policy, lookup, &source);
    ports = RankPorts(Spread(spread), packet,
                      [&](uint16_t port) { return lookup.StateAt(packet, laddr, port); });
    policy.on_port = PortOf(ports);
  }
  lookup.collect_candidates();
  Explanation explanation = Explain(packet, policy, lookup);
  if (!ports.empty()) ExplainPorts(std::move(ports), spread.by, &explanation);
  RETURN_IF_ERROR(AddDelivery(packet, interfaces, &explanation));
  return explanation;
}

absl::Status Explainer::AddDelivery(const Packet& packet, const InterfaceSnapshot& interfaces,
                                    Explanation* explanation) {
  const Decision& decision = explanation->decision;
  for (ExplainStep& step : explanation->steps) {
    if (step.kind == StepKind::kListener) step.why += context_.ProgramSentence();
  }
  if (decision.verdict != Verdict::kAccept || !IsHit(decision.reason)) return absl::OkStatus();
  if (packet.iif == 0) {
    explanation->steps.push_back({.kind = StepKind::kRoute,
                                  .result = "unknown",
                                  .why = "Without the ingress interface (--iif) the route of the "
                                         "marked packet can't be told.",
                                  .candidates = {}});
    return absl::OkStatus();
  }
  Packet marked = packet;
  marked.mark = decision.mark;
  // The host's own packets come in on lo with the route that they left by.
  if (interfaces.IsLoopback(packet.iif) && interfaces.IsLocal(packet.src)) marked.iif = 0;
  ASSIGN_OR_RETURN(const RouteAnswer route, ProbeRoute(&routes_, marked));
  explanation->steps.push_back({.kind = StepKind::kRoute,
                                .result = RouteResult(route.kind),
                                .why = RouteText(route, packet, decision.mark, interfaces) +
                                       context_.RouteSentences(marked, decision.mark, route),
                                .candidates = {}});
  explanation->steps.push_back(DeliveryStep(packet, decision, route.kind));
  if (route.kind == RouteAnswer::Kind::kLocal) {
    explanation->steps.back().why += context_.InputSentence(packet, decision.mark);
  }
  return absl::OkStatus();
}

Json ToJson(const Explanation& explanation, const Packet& packet, const InterfaceNames& names,
            const OwnersByInode& owners, const char* source) {
  std::optional<SocketOwner> owner;
  if (explanation.decision.socket) owner = OwnerOf(*explanation.decision.socket, owners);
  Json json = ToJson(explanation.decision, packet, names, owner);
  json["steps"] = StepsJson(explanation.steps, owners);
  json["kernel"] = KernelWould(packet, explanation.decision, HasSeveralPorts(explanation.steps));
  json["source"] = source;
  return json;
}

}  // namespace utproxy
