// SPDX-License-Identifier: GPL-3.0-or-later
// The targets that the ruleset has by itself.
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <linux/netfilter.h>

#include <algorithm>

#include "diagnose/chain_walk.h"

namespace utproxy {
namespace {

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
      (c.field == Field::kSrc ? target->srcs : target->dsts) = c.addresses;
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

  void Chain(const ChainFacts& base) {
    ForEachRule(ruleset_, base, [&](const VisitedRule& at) {
      if (at.rule().tproxy || at.rule().queue) Add(at);
    });
  }

  std::vector<ProxyTarget> Take() { return std::move(targets_); }

 private:
  void Add(const VisitedRule& at) {
    const ChainFacts& chain = at.chain;
    const RuleFacts& rule = at.rule();
    ProxyTarget target;
    target.v4 = SeesFamily(chain.family, Family::kIpv4);
    target.v6 = SeesFamily(chain.family, Family::kIpv6);
    for (const RuleCondition* c : at.conditions) Narrow(*c, &target);
    if (rule.queue) {
      target.kind = ProxyTarget::Kind::kQueue;
      target.policy_known = target.mark_set = false;
      target.queue_first = rule.queue->first;
      target.queue_last = rule.queue->last;
      target.bypass = rule.queue->bypass;
    } else {
      FromTproxy(chain, at.index, &target);
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

std::vector<ProxyTarget> FindTargets(const RulesetFacts& ruleset) {
  Finder finder(ruleset);
  for (const ChainFacts& chain : ruleset.chains) {
    const bool ip = chain.family == NFPROTO_INET || chain.family == NFPROTO_IPV4 ||
                    chain.family == NFPROTO_IPV6;
    if (ip && chain.hook == NF_INET_PRE_ROUTING) finder.Chain(chain);
  }
  return finder.Take();
}

}  // namespace utproxy
