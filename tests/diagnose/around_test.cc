// SPDX-License-Identifier: GPL-3.0-or-later
// What is around a target's way: senders, listeners, the daemon, port forwards.
#include <gtest/gtest.h>
#include <linux/rtnetlink.h>

#include <cerrno>

#include "findings.h"

namespace utproxy {
namespace {

TEST(RpFilter, TheCounterAloneIsNoEvidence) {
  SystemView view = HealthyView();
  view.interfaces[0].rp_filter = 1;
  view.martians = 7;
  EXPECT_EQ(Ids(view), Set{});
  ProbeFacts other = view.probes[0];
  other.likely = false;
  other.answer.kind = RouteAnswer::Kind::kRefused;
  other.answer.error = EINVAL;
  view.probes.push_back(other);
  EXPECT_EQ(Ids(view), Set{"rp_filter"});
  view.martians = 0;
  EXPECT_EQ(Ids(view), Set{});
}

TEST(Daemon, SilentIsAnError) {
  SystemView view = HealthyView();
  view.daemon_silence = "ask the daemon: no answer within 3 s";
  view.silent_pid = 42;
  EXPECT_EQ(Ids(view), Set{"daemon_silent"});
  view.processes[42].stopped = true;
  EXPECT_EQ(FixOf(view, "daemon_silent"), "kill -CONT 42");
}

TEST(Listener, OneProtocolOfTwo) {
  SystemView view = HealthyView();
  view.targets[0].udp = true;
  EXPECT_EQ(Ids(view), Set{"no_listener"});
  EXPECT_EQ(FixOf(view, "no_listener"),
            "iptables -t mangle -I PREROUTING -i lan0 -p udp -j RETURN");
  view.targets[0].policy.on_miss = OnMiss::kAccept;
  EXPECT_EQ(Ids(view), Set{});
  EXPECT_EQ(Ids(view, Severity::kWarning), Set{"no_listener"});
}

TEST(Listener, MovesTheRunningDaemon) {
  SystemView view = HealthyView();
  ProxyTarget& target = view.targets[0];
  target.kind = ProxyTarget::Kind::kQueue;
  target.rules = {{NFPROTO_INET, "utproxy", "prerouting", 4, true}};
  view.sockets[0].socket.local_port = 999;
  view.queues = {{.number = 0, .port_id = 77, .packets = 5}};
  view.processes[77] = {.pid = 77,
                        .command_line = {"utproxy", "run", "--install", "--on-port", "12345",
                                         "--tproxy-mark=0x1/0x1", "--iif", "lan0"}};
  const std::string stop = "kill 77; while [ -e /proc/77/exe ]; do sleep 0.1; done; ";
  EXPECT_EQ(FixOf(view, "no_listener"),
            stop + "utproxy run --install --tproxy-mark=0x1/0x1 --iif lan0 --on-port 999");
  target.udp = true;
  view.sockets[0].socket.local_port = 12345;
  EXPECT_EQ(FixOf(view, "no_listener"),
            stop +
                "utproxy run --install --on-port 12345 --tproxy-mark=0x1/0x1 --iif lan0 "
                "--proto tcp");
}

// A port forward of the router's: tcp port 8080 of its own address.
SystemView WithForward(std::vector<RuleCondition> more = {}) {
  SystemView view = Behind({});
  ChainFacts nat = BaseChain("nat", -100, "nat");
  RuleFacts jump = Rule(RuleVerdict::kJump, {Numbers(Field::kDstType, RTN_LOCAL, RTN_LOCAL)});
  jump.jump_to = "DOCKER";
  nat.rules = {jump};
  ChainFacts docker{.family = NFPROTO_IPV4, .table = "nat", .name = "DOCKER", .hook = kNoHook};
  RuleFacts dnat = Rule(RuleVerdict::kNone, {Numbers(Field::kL4Proto, IPPROTO_TCP, IPPROTO_TCP),
                                             Numbers(Field::kDport, 8080, 8080)});
  dnat.dnat = true;
  for (RuleCondition& c : more) dnat.conditions.push_back(c);
  docker.rules = {dnat};
  view.ruleset.chains.push_back(nat);
  view.ruleset.chains.push_back(docker);
  return view;
}

TEST(ForwardedPorts, AreTheHostsServicesToo) {
  SystemView view = WithForward();
  EXPECT_EQ(Ids(view), Set{"own_services_matched"});
  EXPECT_EQ(FixOf(view, "own_services_matched"),
            "iptables -t mangle -I PREROUTING -m addrtype --dst-type LOCAL -j RETURN");
  // Left alone already; for another port; from another interface; before the target's rule.
  auto& mangle = view.ruleset.chains[0].rules;
  mangle.insert(mangle.begin(),
                Rule(RuleVerdict::kReturn, {Numbers(Field::kDstType, RTN_LOCAL, RTN_LOCAL)}));
  EXPECT_EQ(Ids(view), Set{});
  EXPECT_EQ(Ids(WithForward({Numbers(Field::kDport, 2222, 2222)})), Set{});
  RuleCondition wan;
  wan.field = Field::kIif;
  wan.names = {"wan0"};
  EXPECT_EQ(Ids(WithForward({wan})), Set{});
  view = WithForward();
  view.ruleset.chains[2].priority = -160;
  EXPECT_EQ(Ids(view), Set{});
}

}  // namespace
}  // namespace utproxy
