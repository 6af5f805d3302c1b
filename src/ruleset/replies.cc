// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/replies.h"

#include <algorithm>

namespace utproxy {
namespace {

constexpr char kComment[] = "answers to the proxy";

bool Takes(const RulesetSpec& spec, Proto proto) {
  const std::vector<Proto>& protos = spec.match.protos;
  return spec.divert_replies &&
         (protos.empty() || std::find(protos.begin(), protos.end(), proto) != protos.end());
}

}  // namespace

std::optional<Chain> RepliesChain(absl::Span<const RulesetSpec> specs) {
  Chain chain{kRepliesChain};
  for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
    // Any target's mark leads to the local route; the first one's does it.
    const auto spec = std::find_if(specs.begin(), specs.end(),
                                   [&](const RulesetSpec& s) { return Takes(s, proto); });
    if (spec == specs.end()) continue;
    std::vector<Condition> conditions = {OfProtocol{{proto}}};
    if (proto == Proto::kTcp) conditions.push_back(NotPureSyn{});
    conditions.push_back(ForWildcard{});
    chain.rules.push_back(Rule{conditions, Return{}, "listeners"});
    conditions.back() = ForTransparent{};
    chain.rules.push_back(Rule{conditions, Divert{{spec->mark_value, spec->mark_mask}}, kComment});
  }
  if (chain.rules.empty()) return std::nullopt;
  return chain;
}

}  // namespace utproxy
