// SPDX-License-Identifier: GPL-3.0-or-later
// What keeps packets from a target's listener, over made-up views.
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>
#include <linux/fib_rules.h>
#include <linux/netfilter.h>

#include <algorithm>
#include <cerrno>

#include "diagnose/chain_reach.h"
#include "findings.h"

namespace utproxy {
namespace {

TEST(Delivered, NothingToLookAtIsAnError) {
  SystemView view;
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  EXPECT_EQ(CauseOf(view, "not_delivered").find("iptables-legacy"), std::string::npos);
  view.legacy_unread = true;
  EXPECT_NE(CauseOf(view, "not_delivered").find("iptables-legacy"), std::string::npos);
}

TEST(Delivered, NoRuleForTheTarget) {
  SystemView view = HealthyView();
  view.targets[0].kind = ProxyTarget::Kind::kNone;
  view.targets[0].rules.clear();
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  SystemView legacy = view;
  legacy.legacy_unread = true;
  EXPECT_EQ(Ids(legacy), Set{});
  EXPECT_EQ(Ids(legacy, Severity::kWarning), Set{"not_delivered"});
  view.queues = {{.number = 0, .port_id = 42, .packets = 5}};  // some rule is there
  EXPECT_EQ(Ids(view), Set{});
}

TEST(Delivered, RuleThatRefusesBefore) {
  for (const uint8_t action : {FR_ACT_BLACKHOLE, FR_ACT_UNREACHABLE, FR_ACT_PROHIBIT}) {
    SystemView view = HealthyView();
    PolicyRule rule;
    rule.priority = 50;
    rule.to_table = false;
    rule.action = action;
    view.rules.insert(view.rules.begin(), rule);
    // The kernel says the same of martians.
    view.rp_filter_all = 1;
    view.src_valid_mark_all = 0;
    Refuse(&view, Family::kIpv4, EINVAL);
    EXPECT_EQ(Ids(view), Set{"not_delivered"});
    EXPECT_NE(CauseOf(view, "not_delivered").find("`ip rule` 50"), std::string::npos);
    EXPECT_EQ(FixOf(view, "not_delivered").substr(0, 23), "ip rule del priority 50");
    view.rules[0].iif = "lan0";
    EXPECT_EQ(FixOf(view, "not_delivered"), "ip rule add fwmark 0x1/0x1 lookup 100 priority 49");
    view.rules[0].iif = "wan0";
    view.probes = HealthyView().probes;
    EXPECT_EQ(Ids(view), Set{});
  }
}

TEST(Delivered, MainBeforeTheMarksRule) {
  SystemView view = HealthyView();
  PolicyRule main;
  main.priority = 32766;
  main.table = RT_TABLE_MAIN;
  view.rules.insert(view.rules.begin(), main);
  view.rules[1].priority = 32800;
  view.routes.push_back({Family::kIpv4, RT_TABLE_MAIN, RTN_UNICAST, 2});
  Forward(&view, Family::kIpv4);
  EXPECT_EQ(Ids(view), Set{"mark_overlap"});
  const std::string cause = CauseOf(view, "mark_overlap");
  EXPECT_NE(cause.find("is looked at after"), std::string::npos) << cause;
  EXPECT_NE(cause.find("lookup main"), std::string::npos) << cause;
  EXPECT_EQ(FixOf(view, "mark_overlap"), "ip rule add fwmark 0x1/0x1 lookup 100 priority 32765");
}

TEST(Delivered, RuleForTheSenderBefore) {
  SystemView view = HealthyView();
  for (ProbeFacts& probe : view.probes) probe.src = *Address::Parse("10.77.1.9");
  PolicyRule rule;
  rule.priority = 10;
  rule.table = 200;
  rule.from = Cidr{*Address::Parse("10.77.1.0"), Family::kIpv4, 24};
  view.rules.insert(view.rules.begin(), rule);
  Forward(&view, Family::kIpv4, 200);
  EXPECT_EQ(Ids(view), Set{"mark_overlap"});
  view.rules[0].from = Cidr{*Address::Parse("10.77.2.0"), Family::kIpv4, 24};
  view.probes = HealthyView().probes;
  for (ProbeFacts& probe : view.probes) probe.src = *Address::Parse("10.77.1.9");
  EXPECT_EQ(Ids(view), Set{});
}

TEST(Delivered, NoMark) {
  SystemView view = HealthyView();
  view.targets[0].mark_set = false;
  view.targets[0].policy.mark_value = view.targets[0].policy.mark_mask = 0;
  for (ProbeFacts& probe : view.probes) probe.mark = 0;
  EXPECT_EQ(Ids(view), Set{});  // a rule for the interface delivers
  Forward(&view, Family::kIpv4);
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  EXPECT_NE(CauseOf(view, "not_delivered").find("sets no mark"), std::string::npos);
  EXPECT_EQ(FixOf(view, "not_delivered"),
            "iptables-save -t mangle | sed '/-j TPROXY --on-port 12345 /s,--tproxy-mark [^ "
            "]*,--tproxy-mark 0x1/0x1,' | iptables-restore");
}

TEST(Delivered, WhateverElseRoutingDoes) {
  SystemView view = HealthyView();
  Refuse(&view, Family::kIpv4, EHOSTUNREACH);
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
}

TEST(Delivered, RulesInFront) {
  EXPECT_EQ(Ids(Behind({})), Set{});
  for (const RuleVerdict verdict :
       {RuleVerdict::kAccept, RuleVerdict::kDrop, RuleVerdict::kReturn}) {
    const SystemView view = Behind({Rule(verdict)});
    EXPECT_EQ(Ids(view), Set{"not_delivered"});
    EXPECT_NE(CauseOf(view, "not_delivered").find("Rule 1 of chain PREROUTING"), std::string::npos);
    EXPECT_EQ(FixOf(view, "not_delivered"), "nft delete rule ip mangle PREROUTING handle 9");
  }
  const auto accept = [](std::vector<RuleCondition> conditions) {
    return Ids(Behind({Rule(RuleVerdict::kAccept, std::move(conditions))}));
  };
  EXPECT_EQ(accept({Numbers(Field::kDport, 8000, 9000)}), Set{"not_delivered"});
  EXPECT_EQ(accept({Numbers(Field::kDport, 80, 80)}), Set{});
  SystemView range = Behind({Rule(RuleVerdict::kAccept, {Numbers(Field::kDport, 1, 1023)}),
                             Rule(RuleVerdict::kAccept, {Numbers(Field::kDport, 60000, 65535)})});
  range.targets[0].dports = {{1, 65535}};
  range.ruleset.chains[0].rules[2].conditions[1] = Numbers(Field::kDport, 1, 65535);
  EXPECT_EQ(Ids(range), Set{});
  EXPECT_EQ(accept({Numbers(Field::kDstType, RTN_LOCAL, RTN_LOCAL)}), Set{});
  EXPECT_EQ(accept({Numbers(Field::kMark, 0xff, 0xff)}), Set{});
  EXPECT_EQ(accept({RuleCondition()}), Set{});  // not understood: it may well not fit
}

TEST(Delivered, JumpsAndOtherChains) {
  SystemView view = Behind({});
  ChainFacts inner{.family = NFPROTO_IPV4, .table = "mangle", .name = "inner", .hook = kNoHook};
  inner.rules = {Rule(RuleVerdict::kDrop)};
  view.ruleset.chains.push_back(inner);
  RuleFacts jump = Rule(RuleVerdict::kJump);
  jump.jump_to = "inner";
  auto& rules = view.ruleset.chains[0].rules;
  rules.insert(rules.begin(), jump);
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  view.ruleset.chains.back().rules[0].conditions = {RuleCondition()};
  EXPECT_EQ(Ids(view), Set{});

  view = Behind({});
  ChainFacts raw{.family = NFPROTO_IPV4,
                 .table = "raw",
                 .name = "PREROUTING",
                 .hook = NF_INET_PRE_ROUTING,
                 .priority = -300,
                 .type = "filter",
                 .policy_drop = true};
  view.ruleset.chains.push_back(raw);
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  view.ruleset.chains.back().rules = {Rule(RuleVerdict::kAccept)};
  EXPECT_EQ(Ids(view), Set{});
  // Behind the target's rule the packets carry its mark.
  view.ruleset.chains.back().priority = 0;
  view.ruleset.chains.back().rules[0].conditions = {Numbers(Field::kMark, 0, 0)};
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  view.ruleset.chains.back().rules[0].conditions = {Numbers(Field::kMark, 1, 1)};
  EXPECT_EQ(Ids(view), Set{});
}

// A rule behind the target's that changes the mark.
SystemView Remarked(MarkChange change) {
  SystemView view = Behind({});
  ChainFacts late = BaseChain("late", 0);
  late.rules = {Rule(RuleVerdict::kNone)};
  late.rules[0].mark = change;
  view.ruleset.chains.push_back(late);
  FollowTargets(&view);
  return view;
}

TEST(Delivered, MarkChangedBehind) {
  SystemView view = Remarked({0, 0xffffffff});
  ASSERT_EQ(view.targets[0].arrivals.size(), 2u);
  EXPECT_EQ(view.targets[0].arrivals[0].mark, 0u);
  view.probes[0].mark = 0;  // IPv4's
  Forward(&view, Family::kIpv4);
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  EXPECT_NE(CauseOf(view, "not_delivered").find("rule 1 of chain PREROUTING of table late"),
            std::string::npos);
  // Another mark that is delivered, too, and bits that nobody asks about.
  view.probes[0].answer.kind = RouteAnswer::Kind::kLocal;
  EXPECT_EQ(Ids(view), Set{});
  view = Remarked({0x100, 0x100});
  EXPECT_EQ(view.targets[0].arrivals[0].mark, 0x101u);
  EXPECT_FALSE(view.targets[0].arrivals[0].remarked);
  // What it becomes is not known: a warning.
  view = Remarked({});
  view.ruleset.chains.back().rules[0].mark.reset();
  view.ruleset.chains.back().rules[0].mark_unknown = true;
  EXPECT_EQ(Ids(view), Set{});
  EXPECT_EQ(Ids(view, Severity::kWarning), Set{"not_delivered"});
}

TEST(Delivered, PolicyWithExceptionsIsNoCause) {
  SystemView view = Behind({});
  ChainFacts early = BaseChain("early", -300);
  early.policy_drop = true;
  RuleCondition lan;
  lan.field = Field::kSrc;
  lan.addresses = {{*Address::Parse("10.77.0.0"), *Address::Parse("10.77.255.255")}};
  early.rules = {Rule(RuleVerdict::kAccept, {lan})};
  view.ruleset.chains.push_back(early);
  EXPECT_EQ(Ids(view), Set{});
  // With the client named there is no doubt.
  view.targets[0].sources = {*ParseCidr("192.0.2.7")};
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
}

TEST(Delivered, TheLastMadeOfAPriorityComesFirst) {
  SystemView view = Behind({});  // its chain has priority -150
  ChainFacts late = BaseChain("late", -150);
  late.rules = {Rule(RuleVerdict::kNone)};
  late.rules[0].mark = MarkChange{2, 0xffffffff};
  view.ruleset.chains.push_back(late);
  FollowTargets(&view);
  EXPECT_EQ(view.targets[0].arrivals[0].mark, 3u);  // marked by it, then by the target
  std::rotate(view.ruleset.chains.begin(), view.ruleset.chains.end() - 1,
              view.ruleset.chains.end());
  FollowTargets(&view);
  EXPECT_EQ(view.targets[0].arrivals[0].mark, 2u);
}

// Two jumps from each chain to the next one: more ways than anybody can go.
TEST(Delivered, ChainsWithoutEnd) {
  SystemView view = Behind({});
  for (int level = 0; level < 16; ++level) {
    ChainFacts chain = BaseChain("deep", -300);
    if (level > 0) chain.hook = kNoHook;
    chain.name = absl::StrCat("c", level);
    RuleFacts jump = Rule(RuleVerdict::kJump);
    jump.jump_to = absl::StrCat("c", level + 1);
    chain.rules.assign(8, jump);
    view.ruleset.chains.push_back(chain);
  }
  EXPECT_EQ(Ids(view), Set{});
}

TEST(Delivered, DestinationChanged) {
  SystemView view = Behind({});
  ChainFacts nat = BaseChain("nat", -100, "nat");
  nat.rules = {Rule(RuleVerdict::kNone, {Numbers(Field::kDstType, RTN_LOCAL, RTN_LOCAL)})};
  nat.rules[0].dnat = true;
  view.ruleset.chains.push_back(nat);
  EXPECT_EQ(Ids(view), Set{"own_services_matched"});  // for the host's own addresses only
  view.ruleset.chains.back().rules[0].conditions.clear();
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  EXPECT_EQ(FixOf(view, "not_delivered"),
            "iptables -t nat -I PREROUTING -m mark --mark 0x1/0x1 -j ACCEPT");
  view.ruleset.chains.back().priority = -160;
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
}

TEST(Delivered, InterfacesLeftOutAreNotLookedAt) {
  RuleCondition lan;
  lan.field = Field::kIif;
  lan.names = {"lan0"};
  lan.negated = true;
  SystemView view = Behind({Rule(RuleVerdict::kReturn, {lan})});
  view.targets[0].iifs.clear();
  InterfaceFacts wan = view.interfaces[0];
  wan.index = 3;
  wan.name = "wan0";
  view.interfaces.push_back(wan);
  FollowTargets(&view);
  EXPECT_EQ(view.targets[0].bypassed.size(), 1u);
  EXPECT_EQ(Ids(view), Set{});
}

TEST(Delivered, MarkOfARuleBefore) {
  RuleFacts mark;
  mark.mark = MarkChange{.value = 1, .mask = 0xffffffffu};
  SystemView view = Behind({mark});
  view.targets[0].mark_set = false;
  view.targets[0].policy.mark_value = view.targets[0].policy.mark_mask = 0;
  FollowTargets(&view);
  EXPECT_TRUE(view.targets[0].mark_set);
  EXPECT_EQ(Ids(view), Set{});
  view.ruleset.chains[0].rules[0].mark.reset();
  view.ruleset.chains[0].rules[0].mark_unknown = true;
  view.targets[0].mark_set = false;
  view.targets[0].policy.mark_value = view.targets[0].policy.mark_mask = 0;
  FollowTargets(&view);
  EXPECT_FALSE(view.targets[0].mark_known);
  Forward(&view, Family::kIpv4);
  EXPECT_EQ(Ids(view), Set{});
}

TEST(Delivered, Interfaces) {
  SystemView view = HealthyView();
  view.targets[0].iifs = {"lan9"};
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  EXPECT_NE(CauseOf(view, "not_delivered").find("lan9, which does not exist"), std::string::npos);
  view.targets[0].iifs = {"lan0", "lan9"};
  EXPECT_EQ(Ids(view), Set{});
  EXPECT_EQ(Ids(view, Severity::kWarning), Set{"not_delivered"});
  view = HealthyView();
  view.interfaces[0].up = false;
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  EXPECT_EQ(FixOf(view, "not_delivered"), "ip link set lan0 up");
  view = HealthyView();
  InterfaceFacts bridge = view.interfaces[0];
  bridge.index = 5;
  bridge.name = "br0";
  bridge.kind = "bridge";
  view.interfaces.push_back(bridge);
  view.interfaces[0].master = 5;
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  view = HealthyView();
  view.interfaces[0].addresses.clear();
  EXPECT_EQ(Ids(view), Set{"not_delivered"});
  view.targets[0].v4 = false;  // it stands ready for IPv6
  EXPECT_EQ(Ids(view), Set{});
}

}  // namespace
}  // namespace utproxy
