// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/chain_walk.h"

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <absl/strings/match.h>
#include <absl/strings/strip.h>
#include <linux/netfilter.h>

#include <algorithm>

namespace utproxy {
namespace {

Fit Known(bool fits) { return fits ? Fit::kYes : Fit::kNo; }

template <typename T>
Fit FitNumber(const RuleCondition& condition, const std::optional<T>& value) {
  if (!value) return Fit::kMaybe;
  const uint64_t masked = static_cast<uint64_t>(*value) & condition.mask;
  if (condition.any_bit) return Known(masked != 0);
  return Known(
      std::any_of(condition.numbers.begin(), condition.numbers.end(),
                  [&](const NumberRange& r) { return r.first <= masked && masked <= r.last; }));
}

Fit FitName(const RuleCondition& condition, const std::optional<std::string>& value) {
  if (!value) return Fit::kMaybe;
  return Known(
      std::any_of(condition.names.begin(), condition.names.end(), [&](absl::string_view pattern) {
        return absl::ConsumeSuffix(&pattern, "*") ? absl::StartsWith(*value, pattern)
                                                  : *value == pattern;
      }));
}

Fit FitAddress(const RuleCondition& condition, const std::optional<Address>& value) {
  if (!value) return Fit::kMaybe;
  return Known(
      std::any_of(condition.addresses.begin(), condition.addresses.end(),
                  [&](const AddressInterval& i) { return i.first <= *value && *value <= i.last; }));
}

Fit FitField(const RuleCondition& c, const PacketPattern& packet) {
  switch (c.field) {
    case Field::kIif:
      return FitName(c, packet.iif);
    case Field::kOif:
      return FitName(c, packet.oif);
    case Field::kNfProto:
      return FitNumber(
          c, std::optional<uint8_t>(packet.family == Family::kIpv4 ? NFPROTO_IPV4 : NFPROTO_IPV6));
    case Field::kL4Proto:
      return FitNumber(c, packet.proto ? std::optional<uint8_t>(static_cast<uint8_t>(*packet.proto))
                                       : std::nullopt);
    case Field::kSrc:
      return FitAddress(c, packet.src);
    case Field::kDst:
      return FitAddress(c, packet.dst);
    case Field::kDport:
      return FitNumber(c, packet.dport);
    case Field::kSport:
      return FitNumber(c, packet.sport);
    case Field::kMark:
      return FitNumber(c, packet.mark);
    case Field::kUid:
      return FitNumber(c, packet.uid);
    case Field::kDstType:
      return FitNumber(c, packet.dst_type);
    case Field::kCtState:
      return FitNumber(c, packet.ct_state);
    default:
      return Fit::kMaybe;
  }
}

using Conditions = std::vector<const RuleCondition*>;

void Visit(const RulesetFacts& ruleset, const ChainFacts& chain, const Conditions& inherited,
           int depth, size_t* left, absl::FunctionRef<void(const VisitedRule&)> fn) {
  for (size_t i = 0; i < chain.rules.size() && *left > 0; ++i) {
    --*left;
    const RuleFacts& rule = chain.rules[i];
    Conditions conditions = inherited;
    for (const RuleCondition& c : rule.conditions) conditions.push_back(&c);
    fn({.chain = chain, .index = i, .conditions = conditions});
    if (rule.jump_to.empty() || depth >= kMaxJumps) continue;
    const ChainFacts* next = ruleset.FindChain(chain.family, chain.table, rule.jump_to);
    if (next != nullptr) Visit(ruleset, *next, conditions, depth + 1, left, fn);
  }
}

enum class End : uint8_t { kPass, kAccept, kDrop, kReached };

struct Walk {
  const RulesetFacts& ruleset;
  const PacketPattern& packet;
  const std::vector<RuleRef>* goals = nullptr;  // null: is it dropped?
  size_t left = kMaxVisits;

  bool IsGoal(const ChainFacts& chain, const RuleFacts& rule) const {
    return std::any_of(goals->begin(), goals->end(), [&](const RuleRef& goal) {
      return goal.family == chain.family && goal.table == chain.table && goal.chain == chain.name &&
             goal.handle == rule.handle;
    });
  }

  End Chain(const ChainFacts& chain, int depth) {
    for (const RuleFacts& rule : chain.rules) {
      if (left == 0) return End::kAccept;  // doubt
      --left;
      const Fit fit = Fits(rule, packet);
      if (fit == Fit::kNo) continue;
      if (goals != nullptr && fit == Fit::kYes && IsGoal(chain, rule)) return End::kReached;
      const End end = Rule(chain, rule, fit, depth);
      if (end != End::kPass) return end;
      const bool left = rule.verdict == RuleVerdict::kReturn || rule.verdict == RuleVerdict::kGoto;
      // Seeking a goal, whoever may leave does; seeking a drop, only who surely does.
      if (left && (fit == Fit::kYes || goals != nullptr)) return End::kPass;
    }
    return End::kPass;
  }

  End Rule(const ChainFacts& chain, const RuleFacts& rule, Fit fit, int depth) {
    switch (rule.verdict) {
      case RuleVerdict::kAccept:
        return End::kAccept;
      case RuleVerdict::kDrop:
        return fit == Fit::kYes || goals != nullptr ? End::kDrop : End::kPass;
      case RuleVerdict::kJump:
      case RuleVerdict::kGoto: {
        const ChainFacts* next = ruleset.FindChain(chain.family, chain.table, rule.jump_to);
        if (next == nullptr || depth >= kMaxJumps) return End::kPass;
        const End end = Chain(*next, depth + 1);
        if (fit == Fit::kYes) return end;
        return end == End::kAccept || (end == End::kDrop && goals != nullptr) ? end : End::kPass;
      }
      default:
        break;
    }
    if (rule.queue || (rule.tproxy && rule.tproxy->xt)) return End::kAccept;
    return End::kPass;
  }
};

}  // namespace

Fit Fits(const RuleCondition& condition, const PacketPattern& packet) {
  const Fit fit = FitField(condition, packet);
  if (!condition.negated || fit == Fit::kMaybe) return fit;
  return fit == Fit::kYes ? Fit::kNo : Fit::kYes;
}

Fit Fits(const RuleFacts& rule, const PacketPattern& packet) {
  Fit least = Fit::kYes;
  for (const RuleCondition& c : rule.conditions) least = std::min(least, Fits(c, packet));
  return least;
}

void ForEachRule(const RulesetFacts& ruleset, const ChainFacts& chain,
                 absl::FunctionRef<void(const VisitedRule&)> fn) {
  size_t left = kMaxVisits;
  Visit(ruleset, chain, {}, 0, &left, fn);
}

bool SurelyDropped(const RulesetFacts& ruleset, const ChainFacts& chain,
                   const PacketPattern& packet) {
  const End end = Walk{ruleset, packet}.Chain(chain, 0);
  return end == End::kDrop || (end == End::kPass && chain.policy_drop);
}

bool SurelyReaches(const RulesetFacts& ruleset, const ChainFacts& chain,
                   const PacketPattern& packet, const std::vector<RuleRef>& goals) {
  return Walk{ruleset, packet, &goals}.Chain(chain, 0) == End::kReached;
}

}  // namespace utproxy
