// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/target_match.h"

#include <algorithm>

namespace utproxy {
namespace {

template <typename List, typename Fits>
bool AnyOf(const List& list, Fits fits) {
  return std::any_of(list.begin(), list.end(), fits);
}

bool AddressesFit(const Match& match, const Packet& packet) {
  const auto covers = [&](const Address& address) {
    return [&](const Cidr& cidr) { return cidr.family == packet.family && cidr.Contains(address); };
  };
  return (match.src.empty() || AnyOf(match.src, covers(packet.src))) &&
         (match.dst.empty() || AnyOf(match.dst, covers(packet.dst))) &&
         !AnyOf(match.not_src, covers(packet.src)) && !AnyOf(match.not_dst, covers(packet.dst));
}

// As AppendPrerouting() makes the rules.
bool InterfaceFits(const RulesetSpec& spec, const Packet& packet, absl::string_view iif) {
  const auto is = [&](absl::string_view name) { return name == iif; };
  const auto named = [&](const std::string& name) { return is(name); };
  if (AnyOf(spec.match.iifs, named)) return true;
  if (!spec.local_output) return spec.match.iifs.empty();
  if (!is("lo")) return spec.match.iifs.empty();
  return ((packet.mark ^ spec.mark_value) & spec.mark_mask) == 0;
}

}  // namespace

bool RulesTake(const Target& target, const Packet& packet, absl::string_view iif) {
  const Match& match = target.ruleset.match;
  const auto is_protocol = [&](Proto proto) { return proto == packet.proto(); };
  const auto has_port = [&](const PortRange& range) {
    return range.first <= packet.dport && packet.dport <= range.last;
  };
  return packet.outcome == ParseOutcome::kOk &&
         (match.protos.empty() || AnyOf(match.protos, is_protocol)) &&
         (match.dports.empty() || AnyOf(match.dports, has_port)) &&
         InterfaceFits(target.ruleset, packet, iif) && AddressesFit(match, packet);
}

const Target* FirstToTake(absl::Span<const Target> targets, const Packet& packet,
                          absl::string_view iif) {
  for (const Target& target : targets) {
    if (target.install && RulesTake(target, packet, iif)) return &target;
  }
  return nullptr;
}

}  // namespace utproxy
