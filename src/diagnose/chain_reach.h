// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_CHAIN_REACH_H_
#define UTPROXY_DIAGNOSE_CHAIN_REACH_H_

#include <optional>
#include <string>
#include <vector>

#include "diagnose/chain_walk.h"

namespace utproxy {

// How a packet fares on the prerouting hook on its way to a target's rules. Doubt counts for the
// packet: what rules of which a part is not understood do with it does not stop it.
struct Reach {
  bool reached = true;
  // Where not: the rule that surely takes it before, or drops it behind; null: a chain's policy.
  const ChainFacts* chain = nullptr;
  const RuleFacts* rule = nullptr;
  size_t number = 0;   // of the rule in its chain, from 1
  bool after = false;  // the target's rule had it, a later chain drops or changes it
  // Where reached, its mark there: nullopt where rules may have given it any.
  std::optional<uint32_t> mark = 0;
};

// `packet.mark` is what it comes with; `goals` are the target's rules; `marked` its mark behind
// them, where known.
Reach FollowToTarget(const RulesetFacts& ruleset, PacketPattern packet,
                     const std::vector<RuleRef>& goals, std::optional<uint32_t> marked);

// The same of the target's packets that come in by `iif`: of all that its rules can be for, one
// that gets there, or why none does.
Reach FollowToTarget(const RulesetFacts& ruleset, const ProxyTarget& target, Family family,
                     const std::string& iif);

// Fills in what the targets' fields say of the rules in front of theirs: `bypassed`, and the mark
// of those whose own rule sets none.
void FollowTargets(SystemView* view);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_CHAIN_REACH_H_
