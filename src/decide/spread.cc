// SPDX-License-Identifier: GPL-3.0-or-later
#include "decide/spread.h"

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <xxhash.h>

#include <algorithm>
#include <fstream>

namespace utproxy {
namespace {

const char* StateText(PortState state) {
  switch (state) {
    case PortState::kTakes:
      return "a transparent listener takes the packet there";
    case PortState::kNobody:
      return "nobody listens there for this packet";
    case PortState::kNotTransparent:
      return "the listener there is not transparent";
    case PortState::kShadowed:
      return "a connected UDP socket shadows the listener there";
  }
  return "";
}

std::string WhyOf(const PortCandidate& port, bool one_is_chosen) {
  std::string why = StateText(port.state);
  if (port.state == PortState::kTakes && !port.chosen) {
    absl::StrAppend(&why, port.backup ? "; a backup is for when no other is left"
                                      : "; another has a higher weight for this client");
  }
  if (port.chosen && port.backup) absl::StrAppend(&why, "; none but backups is left");
  if (!one_is_chosen) absl::StrAppend(&why, "; none of the target's ports takes it");
  why[0] = static_cast<char>(why[0] - 'a' + 'A');
  return why + ".";
}

}  // namespace

const char* SpreadByName(SpreadBy by) { return by == SpreadBy::kClient ? "client" : "flow"; }

std::vector<uint16_t> SpreadSpec::AllPorts() const {
  std::vector<uint16_t> all = ports;
  all.insert(all.end(), backups.begin(), backups.end());
  return all;
}

std::string SpreadSpec::ToString() const {
  const std::string text = absl::StrJoin(ports, ",");
  return backups.empty() ? text : absl::StrCat(text, " (backup ", absl::StrJoin(backups, ","), ")");
}

std::string OnPortWords(const Policy& policy, const SpreadSpec& spread) {
  if (!spread.active()) {
    return policy.on_port == 0 ? "" : absl::StrCat(" --on-port ", policy.on_port);
  }
  std::string words = absl::StrCat(" --on-port ", absl::StrJoin(spread.ports, ","));
  if (!spread.backups.empty()) {
    absl::StrAppend(&words, " --backup-port ", absl::StrJoin(spread.backups, ","));
  }
  if (spread.by == SpreadBy::kFlow) words += " --spread flow";
  return words;
}

PortState StateOf(const std::optional<Socket>& found) {
  if (!found) return PortState::kNobody;
  if (found->proto == Proto::kUdp && found->connected()) return PortState::kShadowed;
  return found->transparent() ? PortState::kTakes : PortState::kNotTransparent;
}

const std::string& Spread::HostSeed() {
  static const std::string seed = [] {
    std::ifstream file("/etc/machine-id");
    std::string id;
    std::getline(file, id);
    return absl::StrCat("utproxy spread ", id);
  }();
  return seed;
}

Spread::Spread(const SpreadSpec& spec, absl::string_view seed)
    : ports_(spec.AllPorts()), first_backup_(spec.ports.size()), by_(spec.by) {
  // Fails for secrets and seeds of no length only.
  (void)XXH3_generateSecret(secret_.data(), secret_.size(), seed.data(), seed.size());
}

std::optional<size_t> Spread::IndexOf(uint16_t port) const {
  const auto it = std::find(ports_.begin(), ports_.end(), port);
  if (it == ports_.end()) return std::nullopt;
  return static_cast<size_t>(it - ports_.begin());
}

uint64_t Spread::ClientHash(const Packet& packet) const {
  if (by_ == SpreadBy::kClient) {
    return XXH3_64bits_withSecret(&packet.src, sizeof packet.src, secret_.data(), secret_.size());
  }
  const FlowKey key = packet.key();
  return XXH3_64bits_withSecret(&key, sizeof key, secret_.data(), secret_.size());
}

uint64_t Spread::Weight(uint64_t client, size_t i) const {
  const std::array<uint64_t, 2> words = {client, ports_[i]};
  return XXH3_64bits_withSecret(&words, sizeof words, secret_.data(), secret_.size());
}

std::vector<PortCandidate> RankPorts(const Spread& spread, const Packet& packet,
                                     absl::FunctionRef<PortState(uint16_t)> state_of) {
  std::vector<PortCandidate> ranked;
  bool one_is_chosen = false;
  std::bitset<Spread::kMaxPorts> told;
  while (ranked.size() < spread.size()) {
    const size_t i = *spread.Choose(packet, [&](size_t each) { return !told[each]; });
    told.set(i);
    PortCandidate port{
        .port = spread.port(i), .backup = spread.backup(i), .state = state_of(spread.port(i))};
    port.chosen = port.state == PortState::kTakes && !one_is_chosen;
    one_is_chosen = one_is_chosen || port.chosen;
    ranked.push_back(std::move(port));
  }
  for (PortCandidate& port : ranked) port.why = WhyOf(port, one_is_chosen);
  return ranked;
}

uint16_t PortOf(const std::vector<PortCandidate>& ranked) {
  for (const PortCandidate& port : ranked) {
    if (port.chosen) return port.port;
  }
  return ranked.front().port;
}

void ExplainPorts(std::vector<PortCandidate> ranked, SpreadBy by, Explanation* explanation) {
  for (ExplainStep& step : explanation->steps) {
    if (step.kind != StepKind::kLaddr) continue;
    absl::StrAppend(&step.why, " The port is one of ", ranked.size(), ", chosen by a hash of ",
                    by == SpreadBy::kClient ? "the client's address" : "the flow",
                    " among those with a transparent listener.");
    step.ports = std::move(ranked);
    return;
  }
}

}  // namespace utproxy
