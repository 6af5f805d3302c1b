// SPDX-License-Identifier: GPL-3.0-or-later
// Rules in front of a target's and behind that keep its packets from the local sockets, and those
// that keep the answers from the client.
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <linux/netfilter.h>

#include <algorithm>
#include <cstring>

#include "diagnose/checks.h"
#include "diagnose/fixes.h"
#include "diagnose/marked_route.h"

namespace utproxy {
namespace {

constexpr const char* kId = "not_delivered";

// Where packets were stopped or marked.
struct Spot {
  const ChainFacts& chain;
  const RuleFacts* rule;  // null: the chain's policy
  size_t number = 0;      // of the rule in its chain, from 1

  RuleRef ref() const {
    return {chain.family, chain.table, chain.name, rule != nullptr ? rule->handle : 0, false};
  }
  std::string place() const {
    return absl::StrCat("chain ", chain.name, " of table ", chain.table);
  }
  std::string text() const {
    return rule != nullptr ? absl::StrCat("rule ", number, " of ", place())
                           : absl::StrCat("the policy of ", place());
  }
};

Spot SpotOf(const SystemView& view, const Arrival& arrival) {
  const ChainFacts& chain = view.ruleset.chains[*arrival.chain];
  if (!arrival.rule) return {.chain = chain, .rule = nullptr};
  size_t number = 1;  // a verdict map is several here, but one rule
  for (size_t i = 1; i <= *arrival.rule; ++i) {
    if (chain.rules[i].handle != chain.rules[i - 1].handle) ++number;
  }
  return {.chain = chain, .rule = &chain.rules[*arrival.rule], .number = number};
}

Finding About(size_t target, const Arrival& arrival, std::string cause, std::string fix) {
  Finding f;
  f.id = kId;
  f.target = target;
  f.where = absl::StrCat(FamilyText(arrival.family), ", ", arrival.iif);
  f.cause = std::move(cause);
  f.fix = std::move(fix);
  return f;
}

bool AsksForFamily(const RuleFacts& rule) {
  return std::any_of(rule.conditions.begin(), rule.conditions.end(),
                     [](const RuleCondition& c) { return c.field == Field::kNfProto; });
}

const char* DoneBy(const RuleFacts& rule) {
  if (rule.queue) return "queues";
  if (rule.tproxy) return "TPROXYs";
  if (rule.dnat) return "changes the destination of";
  switch (rule.verdict) {
    case RuleVerdict::kDrop:
      return "drops";
    case RuleVerdict::kAccept:
      return "accepts";
    default:
      return "takes away";
  }
}

// Lets the target's packets pass the place behind its rule.
std::string LetPass(const ProxyTarget& target, const Arrival& arrival, const Spot& spot) {
  const uint32_t mask = target.policy.mark_mask;
  const std::string nft =
      absl::StrCat("meta mark and ", mask, " == ", MarkOf(target) & mask, " accept");
  if (!arrival.behind_own) {
    return InsertRule(spot.ref(),
                      absl::StrCat("-m mark --mark ", MarkMaskText(target), " -j ACCEPT"), nft);
  }
  for (const RuleRef& rule : target.rules) {
    if (SeesFamily(rule.family, arrival.family)) return AddBehind(rule, nft);
  }
  return "";
}

Finding StoppedBehind(const ProxyTarget& target, size_t index, const Arrival& arrival,
                      const Spot& spot) {
  const bool moved = spot.rule != nullptr && spot.rule->dnat;
  return About(index, arrival,
               absl::StrCat("The target's rule takes the packets, but behind it ", spot.text(),
                            moved ? " changes their destination." : " drops them.",
                            arrival.behind_own ? " nft's tproxy accepts nothing by itself." : ""),
               LetPass(target, arrival, spot));
}

Finding Stopped(const ProxyTarget& target, size_t index, const Arrival& arrival, const Spot& spot) {
  if (arrival.after) return StoppedBehind(target, index, arrival, spot);
  if (spot.rule == nullptr) {
    return About(index, arrival,
                 absl::StrCat("The policy of ", spot.place(),
                              " drops the packets before the target's rule."),
                 OpenPolicy(spot.ref()));
  }
  Finding f =
      About(index, arrival,
            absl::StrCat("Rule ", spot.number, " of ", spot.place(), " ", DoneBy(*spot.rule),
                         " the packets before the target's rule sees them."),
            DeleteRule(spot.ref()));
  // Proxied they are, by another one; or a family is left out on purpose.
  if (spot.rule->queue || spot.rule->tproxy || AsksForFamily(*spot.rule)) {
    f.severity = Severity::kWarning;
  }
  return f;
}

// The mark that the target gave is not what routing sees.
void TellRemarked(const SystemView& view, const Entry& entry, Findings* findings) {
  const Arrival* arrival = ArrivalAt(entry);
  if (arrival == nullptr || !arrival->reached || !arrival->remarked) return;
  const Delivery d = Inspect(view, entry);
  if (arrival->mark && (d.probe == nullptr || d.delivered())) return;
  const Spot spot = SpotOf(view, *arrival);
  const ProxyTarget& target = entry.target;
  Finding f = About(entry.index, *arrival, "", LetPass(target, *arrival, spot));
  f.family = entry.family;
  const std::string start = absl::StrCat("The target's rule marks the packets ",
                                         MarkMaskText(target), ", but behind it ", spot.text());
  if (arrival->mark) {
    f.cause = absl::StrFormat("%s makes that 0x%x, so routing %s.", start, *arrival->mark,
                              AnswerText(view, *d.probe));
  } else {
    f.severity = Severity::kWarning;
    f.cause = absl::StrCat(start,
                           " gives them another one, which is not known beforehand: one "
                           "of the connection's, perhaps. Routing goes by that.");
  }
  findings->push_back(std::move(f));
}

// What the proxy answers, from the address and port that the client asked.
PacketPattern Answer(const Entry& entry, Proto proto) {
  PacketPattern packet;
  packet.family = entry.family;
  packet.oif = entry.iif.name;
  packet.proto = proto;
  packet.src = SampleDestination(entry.target, entry.family);
  packet.sport = SamplePort(entry.target);
  packet.ct_state = kCtEstablished;
  return packet;
}

}  // namespace

std::string AnswerText(const SystemView& view, const RouteAnswer& answer) {
  if (answer.kind == RouteAnswer::Kind::kRefused) {
    return absl::StrCat("refuses them (", std::strerror(answer.error), ")");
  }
  std::string out = "?";
  for (const InterfaceFacts& each : view.interfaces) {
    if (each.index == answer.oif) out = each.name;
  }
  return absl::StrCat("forwards them by ", out, " (table ", answer.table, ")");
}

void CheckArrivals(const SystemView& view, size_t index, Findings* findings) {
  const ProxyTarget& target = view.targets[index];
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    const Arrival* first = nullptr;
    bool reached = false;
    for (const Arrival& arrival : target.arrivals) {
      if (arrival.family != family) continue;
      reached |= arrival.reached;
      if (!arrival.reached && first == nullptr) first = &arrival;
    }
    // Some interfaces may well be left out.
    if (reached || first == nullptr) continue;
    findings->push_back(Stopped(target, index, *first, SpotOf(view, *first)));
  }
  ForEachEntry(view, [&](const Entry& entry) {
    if (entry.index == index) TellRemarked(view, entry, findings);
  });
}

void CheckAnswers(const SystemView& view, Findings* findings) {
  ForEachEntry(view, [&](const Entry& entry) {
    if (entry.target.rules.empty()) return;
    for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
      if (!entry.target.Covers(proto)) continue;
      for (const ChainFacts& chain : view.ruleset.chains) {
        const bool out = chain.hook == NF_INET_LOCAL_OUT || chain.hook == NF_INET_POST_ROUTING;
        if (!out || !SeesFamily(chain.family, entry.family) ||
            !SurelyDropped(view.ruleset, chain, Answer(entry, proto))) {
          continue;
        }
        Finding f = FindingAt(entry, kId);
        f.cause = absl::StrCat("What the proxy answers is dropped on its way out, in chain ",
                               chain.name, " of table ", chain.table,
                               chain.policy_drop ? ", whose policy that is" : "",
                               ": nothing there accepts packets of established connections.");
        f.fix = InsertRule({chain.family, chain.table, chain.name, 0, false},
                           "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
                           "ct state established,related accept");
        findings->push_back(std::move(f));
      }
    }
  });
}

}  // namespace utproxy
