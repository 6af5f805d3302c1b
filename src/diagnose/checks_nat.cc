// SPDX-License-Identifier: GPL-3.0-or-later
// Port forwards that a target takes the packets of.
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <absl/strings/str_cat.h>
#include <linux/netfilter.h>
#include <linux/rtnetlink.h>

#include <algorithm>

#include "diagnose/chain_walk.h"
#include "diagnose/checks.h"
#include "diagnose/fixes.h"

namespace utproxy {
namespace {

using Conditions = std::vector<const RuleCondition*>;

// A packet that the rule may be for and the target's rule, too: to this host's own address, where
// the forward does not name another. nullopt where there is none.
std::optional<PacketPattern> Forwarded(const SystemView& view, const Entry& entry, Proto proto,
                                       const Conditions& conditions) {
  PacketPattern packet = FirstPacket(entry, proto);
  packet.dst = entry.iif.Primary(entry.family);
  for (const RuleCondition* c : conditions) {
    if (c->negated) continue;
    if (c->field == Field::kDst && !c->addresses.empty()) packet.dst = c->addresses[0].first;
    if (c->field != Field::kDport) continue;
    for (const NumberRange& range : c->numbers) {
      for (const uint64_t port : {range.first, range.last}) {
        if (entry.target.CoversPort(static_cast<uint16_t>(port))) {
          packet.dport = static_cast<uint16_t>(port);
        }
      }
    }
  }
  if (!packet.dst) return std::nullopt;
  if (view.IsLocal(*packet.dst)) packet.dst_type = uint8_t{RTN_LOCAL};
  const bool fits = std::all_of(conditions.begin(), conditions.end(), [&](const RuleCondition* c) {
    return Fits(*c, packet) != Fit::kNo;
  });
  return fits ? std::optional(packet) : std::nullopt;
}

// The chain in front of `nat` where a rule of the target's surely takes the packet.
const ChainFacts* TakenBefore(const SystemView& view, const Entry& entry, const ChainFacts& nat,
                              const PacketPattern& packet) {
  for (const ChainFacts& chain : view.ruleset.chains) {
    if (chain.hook == NF_INET_PRE_ROUTING && SeesFamily(chain.family, entry.family) &&
        chain.priority < nat.priority &&
        SurelyReaches(view.ruleset, chain, packet, entry.target.rules)) {
      return &chain;
    }
  }
  return nullptr;
}

std::string LeaveForward(const SystemView& view, const Entry& entry, const ChainFacts& chain,
                         const PacketPattern& packet) {
  if (entry.target.rules.front().owned) {
    return LeaveAlone(view, entry.target, *packet.dst, entry.family);
  }
  const RuleRef where{chain.family, chain.table, chain.name, 0, false};
  if (packet.dst_type) {
    return InsertRule(where, "-m addrtype --dst-type LOCAL -j RETURN",
                      "fib daddr type local return");
  }
  const std::string dst = packet.dst->ToString(entry.family);
  return InsertRule(
      where, absl::StrCat("-d ", dst, " -j RETURN"),
      absl::StrCat(entry.family == Family::kIpv4 ? "ip" : "ip6", " daddr ", dst, " return"));
}

}  // namespace

void CheckForwardedPorts(const SystemView& view, Findings* findings) {
  ForEachEntry(view, [&](const Entry& entry) {
    if (entry.target.rules.empty()) return;
    for (const ChainFacts& nat : view.ruleset.chains) {
      const bool here = nat.hook == NF_INET_PRE_ROUTING && nat.type == "nat";
      if (!here || !SeesFamily(nat.family, entry.family)) continue;
      ForEachRule(view.ruleset, nat, [&](const VisitedRule& at) {
        for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
          if (!at.rule().dnat || !entry.target.Covers(proto)) continue;
          const auto packet = Forwarded(view, entry, proto, at.conditions);
          const ChainFacts* chain = packet ? TakenBefore(view, entry, nat, *packet) : nullptr;
          if (chain == nullptr) continue;
          Finding f;
          f.id = "own_services_matched";
          f.target = entry.index;
          f.where =
              absl::StrCat(WhereText(entry), ", ", ProtoName(proto), " port ", *packet->dport);
          f.cause = absl::StrCat("A port forward (DNAT) of chain ", nat.name, " of table ",
                                 nat.table, " is for ", ProtoName(proto), " ",
                                 EndpointToString(*packet->dst, *packet->dport, entry.family),
                                 ", but the target's rule comes first and takes its packets.");
          f.fix = LeaveForward(view, entry, *chain, *packet);
          findings->push_back(std::move(f));
        }
      });
    }
  });
}

}  // namespace utproxy
