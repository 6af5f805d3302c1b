// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_CHAIN_WALK_H_
#define UTPROXY_DIAGNOSE_CHAIN_WALK_H_

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "diagnose/ruleset_facts.h"
#include "diagnose/system_view.h"

namespace utproxy {

// A packet of which some fields are known; what is nullopt may be anything.
struct PacketPattern {
  Family family = Family::kIpv4;
  std::optional<std::string> iif, oif;
  std::optional<Proto> proto;
  std::optional<Address> src, dst;
  std::optional<uint16_t> dport, sport;
  std::optional<uint32_t> mark;
  std::optional<uint8_t> dst_type;   // RTN_*
  std::optional<uint32_t> ct_state;  // one bit
  std::optional<uint32_t> uid;       // of the sender, where that is a process of this host
};

enum class Fit : uint8_t { kNo, kMaybe, kYes };
Fit Fits(const RuleCondition& condition, const PacketPattern& packet);
// The least of all conditions'.
Fit Fits(const RuleFacts& rule, const PacketPattern& packet);

// The kernel's own limit of jumps.
inline constexpr int kMaxJumps = 16;
// Rules that are looked at in one walk: chains that jump to each other in many ways would take for
// ever. What is behind counts as not there.
inline constexpr size_t kMaxVisits = 1'000'000;

// A rule, the chain it stands in at `index`, and its conditions with those of the rules that jump
// there.
struct VisitedRule {
  const ChainFacts& chain;
  size_t index;
  const std::vector<const RuleCondition*>& conditions;
  const RuleFacts& rule() const { return chain.rules[index]; }
};
// The rules of a chain and of all chains that it jumps to, in order. A chain that several rules
// jump to comes for each of them.
void ForEachRule(const RulesetFacts& ruleset, const ChainFacts& chain,
                 absl::FunctionRef<void(const VisitedRule&)> fn);

// Whether a base chain surely drops the packet: rules that may accept count as accepting, those
// that only may drop as passing.
bool SurelyDropped(const RulesetFacts& ruleset, const ChainFacts& chain,
                   const PacketPattern& packet);

// Whether the packet surely reaches one of the rules `goals` (by handle, of the chain's table):
// rules that may take it away before do.
bool SurelyReaches(const RulesetFacts& ruleset, const ChainFacts& chain,
                   const PacketPattern& packet, const std::vector<RuleRef>& goals);

// The targets of the ruleset's own TPROXY, tproxy and queue rules in prerouting chains, rules of
// the same effect for both families as one. Of queues, the policy is not known.
std::vector<ProxyTarget> FindTargets(const RulesetFacts& ruleset);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_CHAIN_WALK_H_
