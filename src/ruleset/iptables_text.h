// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_IPTABLES_TEXT_H_
#define UTPROXY_RULESET_IPTABLES_TEXT_H_

#include <string>

#include "ruleset/plan.h"

namespace utproxy {

// Chains of ours in the mangle tables of iptables-nft bear this name, or begin with it and a dash.
inline constexpr char kIptablesChain[] = "UTPROXY";

// A chain of queueing rules as iptables-nft (or ip6tables-nft) commands, one a line: for kernels
// without nft's queue expression, where nft itself cannot write NFQUEUE. Empty where no rule
// concerns `family`.
std::string ChainToIptables(const Chain& chain, Family family);

}  // namespace utproxy

#endif  // UTPROXY_RULESET_IPTABLES_TEXT_H_
