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

constexpr int kMaxDepth = 16;  // as the kernel's own limit of jumps

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

enum class End : uint8_t { kPass, kAccept, kDrop, kReached };

struct Walk {
  const RulesetFacts& ruleset;
  const PacketPattern& packet;
  const std::vector<RuleRef>* goals = nullptr;  // null: is it dropped?

  bool IsGoal(const ChainFacts& chain, const RuleFacts& rule) const {
    return std::any_of(goals->begin(), goals->end(), [&](const RuleRef& goal) {
      return goal.family == chain.family && goal.table == chain.table && goal.chain == chain.name &&
             goal.handle == rule.handle;
    });
  }

  End Chain(const ChainFacts& chain, int depth) const {
    for (const RuleFacts& rule : chain.rules) {
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

  End Rule(const ChainFacts& chain, const RuleFacts& rule, Fit fit, int depth) const {
    switch (rule.verdict) {
      case RuleVerdict::kAccept:
        return End::kAccept;
      case RuleVerdict::kDrop:
        return fit == Fit::kYes || goals != nullptr ? End::kDrop : End::kPass;
      case RuleVerdict::kJump:
      case RuleVerdict::kGoto: {
        const ChainFacts* next = ruleset.FindChain(chain.family, chain.table, rule.jump_to);
        if (next == nullptr || depth >= kMaxDepth) return End::kPass;
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

// Narrows a target by the conditions of its rule, and of those that jump to it.
void Narrow(const RuleCondition& c, ProxyTarget* target) {
  if (c.negated) return;
  const auto has = [&](uint64_t n) {
    return std::any_of(c.numbers.begin(), c.numbers.end(),
                       [&](const NumberRange& r) { return r.first <= n && n <= r.last; });
  };
  switch (c.field) {
    case Field::kL4Proto:
      target->tcp &= has(IPPROTO_TCP);
      target->udp &= has(IPPROTO_UDP);
      break;
    case Field::kNfProto:
      target->v4 &= has(NFPROTO_IPV4);
      target->v6 &= has(NFPROTO_IPV6);
      break;
    case Field::kSrc:
    case Field::kDst:
      for (const AddressInterval& i : c.addresses) {
        const bool v4 = i.last.IsV4Mapped();
        target->v4 &= v4;
        target->v6 &= !v4;
      }
      break;
    case Field::kDport:
      target->dports = c.numbers;
      break;
    case Field::kIif:
      target->iifs = c.names;
      break;
    default:
      break;
  }
}

class Finder {
 public:
  explicit Finder(const RulesetFacts& ruleset) : ruleset_(ruleset) {}

  void Chain(const ChainFacts& chain, std::vector<const RuleCondition*> inherited, int depth) {
    for (size_t i = 0; i < chain.rules.size(); ++i) {
      const RuleFacts& rule = chain.rules[i];
      std::vector<const RuleCondition*> conditions = inherited;
      for (const RuleCondition& c : rule.conditions) conditions.push_back(&c);
      if (rule.tproxy || rule.queue) Add(chain, i, conditions);
      if (rule.verdict != RuleVerdict::kJump && rule.verdict != RuleVerdict::kGoto) continue;
      const ChainFacts* next = ruleset_.FindChain(chain.family, chain.table, rule.jump_to);
      if (next != nullptr && depth < kMaxDepth) Chain(*next, conditions, depth + 1);
    }
  }

  std::vector<ProxyTarget> Take() { return std::move(targets_); }

 private:
  void Add(const ChainFacts& chain, size_t index,
           const std::vector<const RuleCondition*>& conditions) {
    const RuleFacts& rule = chain.rules[index];
    ProxyTarget target;
    target.v4 = SeesFamily(chain.family, Family::kIpv4);
    target.v6 = SeesFamily(chain.family, Family::kIpv6);
    for (const RuleCondition* c : conditions) Narrow(*c, &target);
    if (rule.queue) {
      target.kind = ProxyTarget::Kind::kQueue;
      target.policy_known = target.mark_set = false;
      target.queue_first = rule.queue->first;
      target.queue_last = rule.queue->last;
      target.bypass = rule.queue->bypass;
    } else {
      FromTproxy(chain, index, &target);
    }
    if ((!target.tcp && !target.udp) || (!target.v4 && !target.v6)) return;
    const TableFacts* table = ruleset_.FindTable(chain.family, chain.table);
    target.rules = {{.family = chain.family,
                     .table = chain.table,
                     .chain = chain.name,
                     .handle = rule.handle,
                     .owned = table != nullptr && table->owner != 0}};
    Merge(std::move(target));
  }

  // nft's tproxy leaves the mark to a statement in its own rule, or to the rules behind it.
  static void FromTproxy(const ChainFacts& chain, size_t index, ProxyTarget* target) {
    const TproxyStatement& tproxy = *chain.rules[index].tproxy;
    target->kind = tproxy.xt ? ProxyTarget::Kind::kXt : ProxyTarget::Kind::kNft;
    target->v4 &= tproxy.v4;
    target->v6 &= tproxy.v6;
    target->policy.on_port = tproxy.port;
    (tproxy.address.IsV4Mapped() ? target->policy.on_ip4 : target->policy.on_ip6) = tproxy.address;
    std::optional<MarkChange> mark;
    if (tproxy.xt) mark = tproxy.mark;
    for (size_t i = index; !mark && !tproxy.xt && i < chain.rules.size(); ++i) {
      mark = chain.rules[i].mark;
      if (chain.rules[i].verdict == RuleVerdict::kAccept) break;
    }
    target->mark_set = mark && (mark->mask != 0 || mark->value != 0);
    target->policy.mark_value = mark ? mark->value : 0;
    target->policy.mark_mask = mark ? mark->mask : 0;
  }

  void Merge(ProxyTarget target) {
    for (ProxyTarget& known : targets_) {
      const bool same = known.kind == target.kind && known.tcp == target.tcp &&
                        known.udp == target.udp && known.policy.on_port == target.policy.on_port &&
                        known.policy.mark_value == target.policy.mark_value &&
                        known.queue_first == target.queue_first &&
                        known.queue_last == target.queue_last && known.iifs == target.iifs &&
                        known.v4 != target.v4 && known.v6 != target.v6 &&
                        known.dports.size() == target.dports.size() &&
                        std::equal(known.dports.begin(), known.dports.end(), target.dports.begin(),
                                   [](const NumberRange& a, const NumberRange& b) {
                                     return a.first == b.first && a.last == b.last;
                                   });
      if (!same) continue;
      (target.v4 ? known.policy.on_ip4 : known.policy.on_ip6) =
          target.policy.on_ip(target.v4 ? Family::kIpv4 : Family::kIpv6);
      known.v4 = known.v6 = true;
      known.rules.insert(known.rules.end(), target.rules.begin(), target.rules.end());
      return;
    }
    targets_.push_back(std::move(target));
  }

  const RulesetFacts& ruleset_;
  std::vector<ProxyTarget> targets_;
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

bool SurelyDropped(const RulesetFacts& ruleset, const ChainFacts& chain,
                   const PacketPattern& packet) {
  const End end = Walk{ruleset, packet}.Chain(chain, 0);
  return end == End::kDrop || (end == End::kPass && chain.policy_drop);
}

bool SurelyReaches(const RulesetFacts& ruleset, const ChainFacts& chain,
                   const PacketPattern& packet, const std::vector<RuleRef>& goals) {
  return Walk{ruleset, packet, &goals}.Chain(chain, 0) == End::kReached;
}

std::vector<ProxyTarget> FindTargets(const RulesetFacts& ruleset) {
  Finder finder(ruleset);
  for (const ChainFacts& chain : ruleset.chains) {
    const bool ip = chain.family == NFPROTO_INET || chain.family == NFPROTO_IPV4 ||
                    chain.family == NFPROTO_IPV6;
    if (ip && chain.hook == NF_INET_PRE_ROUTING) finder.Chain(chain, {}, 0);
  }
  return finder.Take();
}

}  // namespace utproxy
