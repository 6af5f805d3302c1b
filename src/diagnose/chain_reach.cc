// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/chain_reach.h"

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <linux/netfilter.h>

#include <algorithm>

#include "diagnose/checks.h"
#include "diagnose/target_samples.h"

namespace utproxy {
namespace {

enum class End : uint8_t { kPass, kAccept, kDrop, kMoved, kReached };

// Leads one packet through the chains, as they come.
class Follower {
 public:
  Follower(const RulesetFacts& ruleset, const ProxyTarget& target, PacketPattern packet)
      : ruleset_(ruleset), target_(target), packet_(std::move(packet)) {
    arrival_.family = packet_.family;
    arrival_.iif = packet_.iif.value_or("");
  }

  // False where the packet ends in this base chain.
  bool Base(const ChainFacts& chain) {
    doubt_ = false;
    own_ = false;
    const bool before = !reached_;
    End end = Chain(chain, 0);
    if (end == End::kPass && chain.policy_drop) {
      Stop(chain, std::nullopt);
      end = End::kDrop;
    }
    // What may have been accepted is not surely dropped; it did miss the target's rule, though.
    const bool misses = before && !reached_ && HasGoal(chain);
    if (end == End::kDrop && doubt_ && !misses) end = End::kAccept;
    if (end == End::kDrop || end == End::kMoved) {
      arrival_.after = reached_;
      arrival_.behind_own = reached_ && own_;
      return false;
    }
    if (misses) missed_ = stop_;
    return true;
  }

  Arrival Ended() const {
    Arrival arrival = arrival_;
    arrival.reached = false;
    Place(stop_, &arrival);
    return arrival;
  }

  // The packet has passed all chains.
  Arrival Passed() const {
    Arrival arrival = arrival_;
    arrival.reached = reached_ || !missed_;
    // Nobody can be named: there are other marks and conditions than are known here.
    if (!reached_ && !missed_) arrival.mark_before = arrival.mark = std::nullopt;
    if (!reached_ && missed_) Place(missed_, &arrival);
    if (!reached_) return arrival;
    arrival.mark = packet_.mark;
    arrival.remarked = remarked_.has_value();
    arrival.after = arrival.remarked;
    arrival.behind_own = remarked_own_;
    if (remarked_) Place(remarked_, &arrival);
    return arrival;
  }

 private:
  struct At {
    size_t chain;
    std::optional<size_t> rule;
  };

  static void Place(const std::optional<At>& at, Arrival* arrival) {
    if (!at) return;
    arrival->chain = at->chain;
    arrival->rule = at->rule;
  }

  bool IsGoal(const ChainFacts& chain, const RuleFacts& rule) const {
    return std::any_of(target_.rules.begin(), target_.rules.end(), [&](const RuleRef& goal) {
      return goal.family == chain.family && goal.table == chain.table && goal.chain == chain.name &&
             goal.handle == rule.handle;
    });
  }

  // Whether a goal is in the chain or in one it leads to.
  bool HasGoal(const ChainFacts& base) const {
    bool has = false;
    ForEachRule(ruleset_, base, [&](const VisitedRule& at) { has |= IsGoal(at.chain, at.rule()); });
    return has;
  }

  At Here(const ChainFacts& chain, std::optional<size_t> rule) const {
    return {static_cast<size_t>(&chain - ruleset_.chains.data()), rule};
  }
  void Stop(const ChainFacts& chain, std::optional<size_t> rule) { stop_ = Here(chain, rule); }

  // The target's rule has the packet. nft's tproxy does nothing to it but to pin the socket, and
  // the rule, or those behind, go on.
  End Reached(const RuleFacts& rule) {
    if (!reached_) arrival_.mark_before = packet_.mark;
    reached_ = true;
    if (rule.tproxy && !rule.tproxy->xt) {
      own_ = true;
      Remark(rule, Fit::kYes);
      return rule.verdict == RuleVerdict::kNone || rule.verdict == RuleVerdict::kReturn
                 ? End::kPass
                 : End::kReached;
    }
    if (!target_.policy_known) packet_.mark.reset();
    if (packet_.mark) packet_.mark = target_.policy.Remark(*packet_.mark);
    return End::kReached;
  }

  void Remark(const RuleFacts& rule, Fit fit) {
    if (!rule.mark && !rule.mark_unknown) return;
    if (fit != Fit::kYes || rule.mark_unknown || !packet_.mark) {
      packet_.mark.reset();
    } else {
      packet_.mark = (*packet_.mark & ~rule.mark->mask) ^ rule.mark->value;
    }
  }

  // The same behind the target's rule, where it can undo that.
  void RemarkBehind(const ChainFacts& chain, size_t index, Fit fit) {
    const std::optional<uint32_t> before = packet_.mark;
    const RuleFacts& rule = chain.rules[index];
    Remark(rule, fit);
    // The marks of nft's tproxy may be set by any rule behind it.
    const bool first = own_ && before == arrival_.mark_before;
    if (fit != Fit::kYes || first || !target_.mark_set || !target_.policy_known) return;
    const uint32_t mask = target_.policy.mark_mask;
    const bool keeps = packet_.mark && before && ((*packet_.mark ^ *before) & mask) == 0;
    if (keeps || (!rule.mark && !rule.mark_unknown)) return;
    remarked_ = Here(chain, index);
    remarked_own_ = own_;
  }

  End Jump(const ChainFacts& chain, size_t index, Fit fit, int depth) {
    const RuleFacts& rule = chain.rules[index];
    const ChainFacts* next = ruleset_.FindChain(chain.family, chain.table, rule.jump_to);
    const End end = next != nullptr && depth < kMaxJumps ? Chain(*next, depth + 1) : End::kPass;
    if (end == End::kReached || (fit == Fit::kYes && end != End::kPass)) return end;
    doubt_ =
        doubt_ || end == End::kAccept || (rule.verdict == RuleVerdict::kGoto && fit != Fit::kYes);
    return End::kPass;
  }

  End Chain(const ChainFacts& chain, int depth) {
    for (size_t i = 0; i < chain.rules.size(); ++i) {
      if (left_ == 0) return End::kPass;
      --left_;
      const RuleFacts& rule = chain.rules[i];
      const Fit fit = Fits(rule, packet_);
      if (fit == Fit::kNo) continue;
      if (!reached_ && IsGoal(chain, rule)) {
        if (Reached(rule) == End::kReached) return End::kReached;
        if (rule.verdict == RuleVerdict::kReturn) return End::kPass;
        continue;
      }
      if (reached_) {
        RemarkBehind(chain, i, fit);
      } else {
        Remark(rule, fit);
      }
      if (rule.verdict == RuleVerdict::kJump || rule.verdict == RuleVerdict::kGoto) {
        const End end = Jump(chain, i, fit, depth);
        if (end != End::kPass) return end;
        if (rule.verdict == RuleVerdict::kJump || fit != Fit::kYes) continue;
        Stop(chain, i);
        return End::kPass;
      }
      const bool takes = rule.queue || (rule.tproxy && rule.tproxy->xt);
      if (!takes && !rule.dnat && rule.verdict == RuleVerdict::kNone) continue;
      if (fit != Fit::kYes) {
        doubt_ = doubt_ || rule.verdict != RuleVerdict::kDrop;
        continue;
      }
      Stop(chain, i);
      if (rule.dnat) return End::kMoved;
      if (rule.verdict == RuleVerdict::kReturn) return End::kPass;
      return rule.verdict == RuleVerdict::kDrop ? End::kDrop : End::kAccept;
    }
    return End::kPass;
  }

  const RulesetFacts& ruleset_;
  const ProxyTarget& target_;
  PacketPattern packet_;
  Arrival arrival_;
  size_t left_ = kMaxVisits;
  bool reached_ = false, doubt_ = false;
  bool own_ = false;  // in the base chain of nft's tproxy, behind it
  bool remarked_own_ = false;
  std::optional<At> stop_, missed_, remarked_;
};

bool IsFor(const ChainFacts& chain, const std::string& iif) {
  return std::any_of(chain.devices.begin(), chain.devices.end(),
                     [&](const std::string& device) { return device == iif; });
}

// In the order in which a packet meets them: a device's own come first, and of the same priority
// those that were made last (nf_hook_entries_grow()). When iptables-legacy made its own is not
// told; they count as the last.
std::vector<const ChainFacts*> ChainsBeforeRouting(const RulesetFacts& ruleset, Family family,
                                                   const std::string& iif) {
  const auto is_ingress = [](const ChainFacts& chain) {
    return (chain.family == NFPROTO_NETDEV && chain.hook == NF_NETDEV_INGRESS) ||
           (chain.family == NFPROTO_INET && chain.hook == NF_INET_INGRESS);
  };
  std::vector<const ChainFacts*> chains;
  for (const ChainFacts& chain : ruleset.chains) {
    const bool prerouting = chain.hook == NF_INET_PRE_ROUTING && SeesFamily(chain.family, family);
    if (prerouting || (is_ingress(chain) && IsFor(chain, iif))) chains.push_back(&chain);
  }
  std::reverse(chains.begin(), chains.end());
  std::stable_sort(chains.begin(), chains.end(), [&](const ChainFacts* a, const ChainFacts* b) {
    if (is_ingress(*a) != is_ingress(*b)) return is_ingress(*a);
    return a->priority < b->priority;
  });
  return chains;
}

Arrival Follow(const RulesetFacts& ruleset, const ProxyTarget& target,
               const PacketPattern& packet) {
  Follower follower(ruleset, target, packet);
  for (const ChainFacts* chain :
       ChainsBeforeRouting(ruleset, packet.family, packet.iif.value_or(""))) {
    if (!follower.Base(*chain)) return follower.Ended();
  }
  return follower.Passed();
}

}  // namespace

Arrival FollowToTarget(const RulesetFacts& ruleset, const ProxyTarget& target, Family family,
                       const std::string& iif) {
  Arrival arrival;
  ForEachSample(target, family, iif, [&](const PacketPattern& packet) {
    arrival = Follow(ruleset, target, packet);
    return !arrival.reached;
  });
  return arrival;
}

void FollowTargets(SystemView* view) {
  for (ProxyTarget& target : view->targets) {
    target.bypassed.clear();
    target.arrivals.clear();
    if (target.rules.empty()) continue;
    bool any = false, told = target.mark_set || !target.policy_known;
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
      if (!target.Covers(family)) continue;
      for (const InterfaceFacts* iif : view->Ingress(target, family)) {
        const Arrival arrival = FollowToTarget(view->ruleset, target, family, iif->name);
        target.arrivals.push_back(arrival);
        any |= arrival.reached;
        if (!arrival.reached) target.bypassed.emplace_back(family, iif->name);
        if (!arrival.reached || told) continue;
        told = true;
        target.mark_known = arrival.mark_before.has_value();
        target.mark_set = arrival.mark_before.value_or(0) != 0;
        if (target.mark_set) {
          target.policy.mark_value = target.policy.mark_mask = *arrival.mark_before;
        }
      }
    }
    if (!any) target.bypassed.clear();
  }
}

}  // namespace utproxy
