// SPDX-License-Identifier: GPL-3.0-or-later
#include "replay.h"

#include <absl/strings/strip.h>

#include <algorithm>

#include "daemon/explain_context.h"
#include "daemon/explainer.h"
#include "daemon/json_line.h"
#include "daemon/trace_json.h"
#include "decide/explain.h"
#include "utproxy/parse.h"

namespace utproxy::tools {
namespace {

// What `trace --write` put into NFLOG's prefix; an empty object where it is another's.
Json PrefixOf(absl::string_view text) {
  if (!absl::ConsumePrefix(&text, "utproxy ")) return Json::object();
  Json json = ParseLine(text);
  return json.is_object() ? json : Json::object();
}

}  // namespace

Replay::Replay(HostSnapshot snapshot, const Policy& policy, const std::string& iif,
               const SpreadSpec& spread)
    : snapshot_(std::move(snapshot)),
      policy_(policy),
      spread_(spread),
      lookup_(snapshot_.sockets(), snapshot_.addresses()),
      iif_(snapshot_.IndexOf(iif)) {}

Packet Replay::PacketOf(const CapturedPacket& captured, const Json& prefix) {
  if (prefix.contains("packet")) {
    const auto index = [this](absl::string_view name) -> absl::StatusOr<uint32_t> {
      return snapshot_.IndexOf(name);
    };
    if (const auto packet = PacketFromJson(prefix["packet"], index); packet.ok()) return *packet;
  }
  Packet packet;
  uint32_t true_length = captured.true_length;
  if (const auto it = prefix.find("length"); it != prefix.end() && it->is_number_unsigned()) {
    true_length = static_cast<uint32_t>(std::min<uint64_t>(it->get<uint64_t>(), UINT32_MAX));
  }
  ParsePacket(captured.bytes, true_length, &packet);
  packet.iif = captured.iif != 0 ? captured.iif : iif_;
  packet.mark = captured.mark;
  return packet;
}

// By this machine's hash, whichever the capture is from. Empty where the target has one port.
std::vector<PortCandidate> Replay::PortsFor(const Packet& packet) {
  if (!spread_.active() || packet.outcome != ParseOutcome::kOk) return {};
  LaddrSource source;
  const Address laddr = ListenerAddress(packet, policy_, lookup_, &source);
  return RankPorts(Spread(spread_), packet, [&](uint16_t port) {
    return StateOf(packet.is_tcp() ? lookup_.TcpListener(packet, laddr, port)
                                   : lookup_.Udp(packet, laddr, port));
  });
}

Json Replay::Decide(const CapturedPacket& captured, bool steps) {
  const Json prefix = PrefixOf(captured.prefix);
  const Packet packet = PacketOf(captured, prefix);
  Policy policy = policy_;
  std::vector<PortCandidate> ports = PortsFor(packet);
  if (!ports.empty()) policy.on_port = PortOf(ports);
  lookup_.Restart();
  Explanation explanation = Explain(packet, policy, lookup_);
  if (!ports.empty()) ExplainPorts(std::move(ports), spread_.by, &explanation);
  const Decision& decision = explanation.decision;
  if (!lookup_.certain()) ++uncertain_;
  if (decision.listener_looked_up && policy_.on_ip(packet.family).IsUnspecified() &&
      !lookup_.PrimaryAddress(packet.iif, packet.family)) {
    ++without_address_;
  }
  std::optional<SocketOwner> owner;
  if (decision.socket) owner = OwnerOf(*decision.socket, snapshot_.owners());
  Json json;
  json["time"] = TimeText(captured.time_ns);
  // The prefix is anybody's: only what a trace writes there is taken over.
  if (const auto target = prefix.find("target"); target != prefix.end() && target->is_string()) {
    json["target"] = *target;
  }
  for (const char* key : {"queue", "id", "wait_ns", "decide_ns"}) {
    const auto number = prefix.find(key);
    if (number != prefix.end() && number->is_number_unsigned()) json[key] = *number;
  }
  const InterfaceNames names = [this](uint32_t index) { return snapshot_.NameOf(index); };
  json.update(ToJson(decision, packet, names, owner));
  if (steps) {
    json["steps"] = StepsJson(explanation.steps, snapshot_.owners());
    json["kernel"] = KernelWould(packet, decision);
  }
  json["source"] = OriginName(Origin::kMirror);
  return json;
}

}  // namespace utproxy::tools
