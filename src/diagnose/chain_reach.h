// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_CHAIN_REACH_H_
#define UTPROXY_DIAGNOSE_CHAIN_REACH_H_

#include <string>

#include "diagnose/chain_walk.h"

namespace utproxy {

// How a packet of the target's that comes in by `iif` fares on the ingress and prerouting hooks: of
// all that the target's rules can be for, one that gets through, or why none does. Doubt counts for
// the packet: what rules of which a part is not understood do with it does not stop it.
Arrival FollowToTarget(const RulesetFacts& ruleset, const ProxyTarget& target, Family family,
                       const std::string& iif);

// Fills in what the targets' fields say of the rules around theirs: `arrivals`, `bypassed`, and the
// mark of those whose own rule sets none.
void FollowTargets(SystemView* view);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_CHAIN_REACH_H_
