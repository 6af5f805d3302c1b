// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/chain_reach.h"

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <linux/netfilter.h>

#include <algorithm>

#include "diagnose/checks.h"

namespace utproxy {
namespace {

constexpr size_t kMaxIntervals = 8;  // of a target, each tried

enum class End : uint8_t { kPass, kAccept, kDrop, kMoved, kReached };

class Follower {
 public:
  Follower(const RulesetFacts& ruleset, PacketPattern packet, std::vector<RuleRef> goals)
      : ruleset_(ruleset), packet_(std::move(packet)), goals_(std::move(goals)) {}

  // A base chain.
  End Base(const ChainFacts& chain) {
    const End end = Chain(chain, 0);
    if (end == End::kPass && chain.policy_drop) {
      reach_.chain = &chain;
      reach_.rule = nullptr;
      return End::kDrop;
    }
    return end;
  }

  // Whether a goal is in the chain or in one it leads to.
  bool HasGoal(const ChainFacts& base) const {
    bool has = false;
    ForEachRule(ruleset_, base, [&](const VisitedRule& at) { has |= IsGoal(at.chain, at.rule()); });
    return has;
  }
  void Forget() { reach_ = Reach{}; }
  Reach Stopped() const {
    Reach reach = reach_;
    reach.reached = false;
    return reach;
  }
  const std::optional<uint32_t>& mark() const { return packet_.mark; }

 private:
  bool IsGoal(const ChainFacts& chain, const RuleFacts& rule) const {
    return std::any_of(goals_.begin(), goals_.end(), [&](const RuleRef& goal) {
      return goal.family == chain.family && goal.table == chain.table && goal.chain == chain.name &&
             goal.handle == rule.handle;
    });
  }

  void Stop(const ChainFacts& chain, size_t index) {
    reach_.chain = &chain;
    reach_.rule = &chain.rules[index];
    reach_.number = 1;  // a verdict map is several here, but one rule
    for (size_t i = 1; i <= index; ++i) {
      if (chain.rules[i].handle != chain.rules[i - 1].handle) ++reach_.number;
    }
  }

  void Remark(const RuleFacts& rule, Fit fit) {
    if (!rule.mark && !rule.mark_unknown) return;
    if (fit != Fit::kYes || rule.mark_unknown || !packet_.mark) {
      packet_.mark.reset();
    } else {
      packet_.mark = (*packet_.mark & ~rule.mark->mask) ^ rule.mark->value;
    }
  }

  End Chain(const ChainFacts& chain, int depth) {
    for (size_t i = 0; i < chain.rules.size(); ++i) {
      const RuleFacts& rule = chain.rules[i];
      const Fit fit = Fits(rule, packet_);
      if (fit == Fit::kNo) continue;
      if (IsGoal(chain, rule)) return End::kReached;
      Remark(rule, fit);
      const bool jumps = rule.verdict == RuleVerdict::kJump || rule.verdict == RuleVerdict::kGoto;
      if (jumps) {
        const ChainFacts* next = ruleset_.FindChain(chain.family, chain.table, rule.jump_to);
        const End end = next != nullptr && depth < kMaxJumps ? Chain(*next, depth + 1) : End::kPass;
        if (end == End::kReached || (fit == Fit::kYes && end != End::kPass)) return end;
        if (rule.verdict == RuleVerdict::kJump || fit != Fit::kYes) continue;
        Stop(chain, i);
        return End::kPass;
      }
      if (fit != Fit::kYes) continue;
      const bool takes = rule.queue || (rule.tproxy && rule.tproxy->xt);
      if (!takes && !rule.dnat && rule.verdict == RuleVerdict::kNone) continue;
      Stop(chain, i);
      if (rule.dnat) return End::kMoved;
      if (rule.verdict == RuleVerdict::kReturn) return End::kPass;
      return rule.verdict == RuleVerdict::kDrop ? End::kDrop : End::kAccept;
    }
    return End::kPass;
  }

  const RulesetFacts& ruleset_;
  PacketPattern packet_;
  const std::vector<RuleRef> goals_;
  Reach reach_;
};

std::vector<const ChainFacts*> Prerouting(const RulesetFacts& ruleset, Family family) {
  std::vector<const ChainFacts*> chains;
  for (const ChainFacts& chain : ruleset.chains) {
    if (chain.hook == NF_INET_PRE_ROUTING && SeesFamily(chain.family, family)) {
      chains.push_back(&chain);
    }
  }
  std::stable_sort(chains.begin(), chains.end(), [](const ChainFacts* a, const ChainFacts* b) {
    return a->priority < b->priority;
  });
  return chains;
}

// Ports that stand for all of the target's; nullopt: any, also where they would be too many.
std::vector<std::optional<uint16_t>> PortSamples(const ProxyTarget& target) {
  if (target.dports.empty() || target.dports.size() > kMaxIntervals) return {std::nullopt};
  std::vector<std::optional<uint16_t>> ports;
  for (const NumberRange& range : target.dports) {
    for (const uint64_t port : {range.first, (range.first + range.last) / 2, range.last}) {
      ports.push_back(static_cast<uint16_t>(port));
    }
  }
  return ports;
}

std::vector<std::optional<Address>> AddressSamples(const std::vector<AddressInterval>& intervals,
                                                   Family family) {
  std::vector<std::optional<Address>> addresses;
  for (const AddressInterval& interval : intervals) {
    if (interval.last.IsV4Mapped() != (family == Family::kIpv4)) continue;
    addresses.push_back(interval.first);
    if (interval.last != interval.first) addresses.push_back(interval.last);
  }
  if (addresses.empty() || addresses.size() > kMaxIntervals) return {std::nullopt};
  return addresses;
}

}  // namespace

Reach FollowToTarget(const RulesetFacts& ruleset, PacketPattern packet,
                     const std::vector<RuleRef>& goals, std::optional<uint32_t> marked) {
  Follower follower(ruleset, packet, goals);
  Reach result;
  bool reached = false;
  for (const ChainFacts* chain : Prerouting(ruleset, packet.family)) {
    if (reached) {
      packet.mark = marked;
      if (SurelyDropped(ruleset, *chain, packet)) {
        return {.reached = false, .chain = chain, .after = true};
      }
      Follower behind(ruleset, packet, {});
      if (behind.Base(*chain) != End::kMoved) continue;
      result = behind.Stopped();
      result.after = true;
      return result;
    }
    follower.Forget();
    const End end = follower.Base(*chain);
    if (end == End::kDrop || end == End::kMoved) return follower.Stopped();
    if (end == End::kReached) {
      reached = true;
      result = Reach{.mark = follower.mark()};
    } else if (follower.HasGoal(*chain)) {
      result = follower.Stopped();
    }
  }
  // It passed all, and nobody can be named: other marks and conditions than are known here.
  if (!reached && result.chain == nullptr) return {.mark = std::nullopt};
  return result;
}

Reach FollowToTarget(const RulesetFacts& ruleset, const ProxyTarget& target, Family family,
                     const std::string& iif) {
  const std::optional<uint32_t> marked = target.policy_known && target.mark_set
                                             ? std::optional<uint32_t>(MarkOf(target))
                                             : std::nullopt;
  Reach reach;
  for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
    if (!target.Covers(proto)) continue;
    for (const auto& port : PortSamples(target)) {
      for (const auto& dst : AddressSamples(target.dsts, family)) {
        for (const auto& src : AddressSamples(target.srcs, family)) {
          const PacketPattern packet{.family = family,
                                     .iif = iif,
                                     .proto = proto,
                                     .src = src,
                                     .dst = dst,
                                     .dport = port,
                                     .mark = 0,
                                     .dst_type = std::nullopt,
                                     .ct_state = kCtNew};
          reach = FollowToTarget(ruleset, packet, target.rules, marked);
          if (reach.reached) return reach;
        }
      }
    }
  }
  return reach;
}

void FollowTargets(SystemView* view) {
  for (ProxyTarget& target : view->targets) {
    target.bypassed.clear();
    if (target.rules.empty()) continue;
    bool any = false, told = target.mark_set || !target.policy_known;
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
      if (!target.Covers(family)) continue;
      for (const InterfaceFacts* iif : view->Ingress(target, family)) {
        const Reach reach = FollowToTarget(view->ruleset, target, family, iif->name);
        any |= reach.reached;
        if (!reach.reached) target.bypassed.emplace_back(family, iif->name);
        if (!reach.reached || told) continue;
        told = true;
        target.mark_known = reach.mark.has_value();
        target.mark_set = reach.mark.value_or(0) != 0;
        if (target.mark_set) target.policy.mark_value = target.policy.mark_mask = *reach.mark;
      }
    }
    if (!any) target.bypassed.clear();
  }
}

}  // namespace utproxy
