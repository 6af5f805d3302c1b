// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/doctor.h"

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <gtest/gtest.h>
#include <linux/netfilter.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "diagnose/checks.h"
#include "diagnose/fixes.h"
#include "views.h"

namespace utproxy {
namespace {

std::set<std::string> Ids(const SystemView& view, Severity severity = Severity::kError) {
  std::set<std::string> ids;
  for (const Finding& f : Diagnose(view)) {
    if (f.severity == severity) ids.insert(f.id);
  }
  return ids;
}
using Set = std::set<std::string>;

SystemView QueueView() {
  SystemView view = HealthyView();
  ProxyTarget& target = view.targets[0];
  target.kind = ProxyTarget::Kind::kQueue;
  target.tcp = false;
  target.udp = true;
  view.sockets[0].socket.proto = Proto::kUdp;
  view.sockets[0].socket.state = SockState::kClose;
  view.queues = {
      {.number = 0, .port_id = 42, .depth = 0, .dropped = 0, .user_dropped = 0, .packets = 10000}};
  ChainFacts defrag{.family = 1, .table = "t", .name = "c", .hook = kNoHook};
  defrag.rules.resize(1);
  defrag.rules[0].defrags = true;
  view.ruleset.chains = {defrag};
  return view;
}

TEST(Doctor, FindsNothingOnHealthyRouters) {
  EXPECT_TRUE(Diagnose(HealthyView()).empty());
  EXPECT_TRUE(Diagnose(QueueView()).empty());
  EXPECT_TRUE(Healthy({}));
}

TEST(Doctor, EveryIdOnce) {
  std::set<std::string> ids;
  for (const DoctorCheck& check : DoctorChecks()) EXPECT_TRUE(ids.insert(check.id).second);
  EXPECT_EQ(ids.size(), 28u);
}

TEST(Doctor, ConntrackFull) {
  SystemView view = HealthyView();
  view.conntrack_count = 899;
  EXPECT_TRUE(Diagnose(view).empty());
  view.conntrack_count = 900;
  EXPECT_EQ(Ids(view, Severity::kWarning), Set{"conntrack_full"});
  view.conntrack_count = 1000;
  const Findings findings = Diagnose(view);
  EXPECT_EQ(Ids(view), Set{"conntrack_full"});
  EXPECT_EQ(findings[0].fix, "sysctl -w net.netfilter.nf_conntrack_max=4000");
}

TEST(Doctor, UntrackedIsANote) {
  SystemView view = HealthyView();
  ChainFacts raw{
      .family = NFPROTO_IPV4, .table = "raw", .name = "PREROUTING", .hook = NF_INET_PRE_ROUTING};
  raw.rules.resize(1);
  raw.rules[0].notrack = true;
  view.ruleset.chains = {raw};
  EXPECT_TRUE(Ids(view).empty());
  EXPECT_EQ(Ids(view, Severity::kInfo), Set{"conntrack_full"});
}

TEST(Doctor, KernelFeatures) {
  SystemView view = QueueView();
  for (const char* name : {"sock_diag", "NFQUEUE", "sk_lookup"}) {
    view.features[name] = false;
    const Findings findings = Diagnose(view);
    ASSERT_EQ(findings.size(), 1u) << name;
    EXPECT_EQ(findings[0].id, "kernel_feature_missing");
    EXPECT_EQ(findings[0].where, name);
    EXPECT_FALSE(findings[0].fix.empty());
    view.features[name] = true;
  }
  // Who uses the kernel's TPROXY needs no queue.
  SystemView kernel = HealthyView();
  kernel.features["NFQUEUE"] = false;
  EXPECT_TRUE(Diagnose(kernel).empty());
}

TEST(Doctor, RuleAndRoute) {
  SystemView view = HealthyView();
  view.rules.clear();
  Forward(&view, Family::kIpv4);
  Forward(&view, Family::kIpv6);
  EXPECT_EQ(Ids(view), Set{"no_fwmark_rule"});
  EXPECT_EQ(Diagnose(view)[0].fix, "ip rule add fwmark 0x1/0x1 lookup 100");
  view.routes.clear();
  EXPECT_EQ(Ids(view), (Set{"no_fwmark_rule", "no_local_route"}));
  view.rules = HealthyView().rules;
  EXPECT_EQ(Ids(view), Set{"no_local_route"});
}

TEST(Doctor, ARuleThatWasThere) {
  SystemView view = HealthyView();
  view.rules.erase(view.rules.begin());
  Forward(&view, Family::kIpv4);
  SocketFacts proxied = view.sockets[0];
  proxied.socket.state = SockState::kEstablished;
  proxied.socket.local = *Address::Parse("203.0.113.80");
  proxied.socket.local_port = 8080;
  view.sockets.push_back(proxied);
  EXPECT_EQ(Ids(view), Set{"rule_removed"});
}

TEST(Doctor, Ipv6Alone) {
  SystemView view = HealthyView();
  view.rules.pop_back();
  Forward(&view, Family::kIpv6);
  EXPECT_EQ(Ids(view), Set{"ipv6_missing"});
  EXPECT_EQ(Diagnose(view)[0].fix, "ip -6 rule add fwmark 0x1/0x1 lookup 100");
  // A target that is for IPv6 only has nothing to be compared with.
  view.targets[0].v4 = false;
  EXPECT_EQ(Ids(view), Set{"no_fwmark_rule"});
}

TEST(Doctor, MarkOverlap) {
  SystemView view = HealthyView();
  PolicyRule thief = view.rules[0];
  thief.priority = 50;
  thief.mask = 0xff;
  thief.table = 200;
  view.rules.insert(view.rules.begin(), thief);
  view.routes.push_back({Family::kIpv4, 200, RTN_UNICAST, 2});
  Forward(&view, Family::kIpv4, 200);
  EXPECT_EQ(Ids(view), Set{"mark_overlap"});
  EXPECT_EQ(Diagnose(view)[0].fix, "ip rule add fwmark 0x1/0x1 lookup 100 priority 49");
  // A new rule lands behind those of its priority.
  PolicyRule neighbour = thief;
  neighbour.priority = 49;
  neighbour.mark = 0x100;
  neighbour.mask = 0x100;
  view.rules.insert(view.rules.begin(), neighbour);
  EXPECT_EQ(Diagnose(view)[0].fix, "ip rule add fwmark 0x1/0x1 lookup 100 priority 48");
}

TEST(Doctor, Martians) {
  SystemView view = HealthyView();
  view.src_valid_mark_all = 1;
  view.probes[0].answer.kind = RouteAnswer::Kind::kRefused;
  view.probes[0].answer.error = EINVAL;
  EXPECT_EQ(Ids(view), Set{"src_valid_mark"});
  view.src_valid_mark_all = 0;
  view.interfaces[0].rp_filter = 1;
  EXPECT_EQ(Ids(view), Set{"rp_filter"});
  view.interfaces[0].rp_filter = 2;
  view.probes = HealthyView().probes;
  EXPECT_TRUE(Ids(view).empty());
}

TEST(Doctor, Listeners) {
  SystemView view = HealthyView();
  view.sockets[0].socket.flags = Socket::kInet6 | Socket::kTransparentKnown;
  EXPECT_EQ(Ids(view), Set{"not_transparent"});
  view = HealthyView();
  view.sockets[0].socket.local_port = 1;
  EXPECT_EQ(Ids(view), Set{"no_listener"});
  view = HealthyView();
  view.targets[0].v6 = false;
  view.rules.pop_back();
  view.sockets[0].socket.flags = Socket::kTransparent | Socket::kTransparentKnown;
  view.sockets[0].socket.local = *Address::Parse("127.0.0.1");
  EXPECT_EQ(Ids(view), Set{"listener_address"});
  view.targets[0].policy.on_ip4 = *Address::Parse("127.0.0.1");
  EXPECT_TRUE(Ids(view).empty());
}

TEST(Doctor, OneOfSeveralOnPortsWithoutAListener) {
  SystemView view = HealthyView();
  view.targets[0].spread = {.ports = {12345, 12346}, .backups = {12347}};
  SocketFacts backup = view.sockets[0];
  backup.socket.local_port = 12347;
  view.sockets.push_back(backup);
  EXPECT_TRUE(Ids(view).empty());
  EXPECT_EQ(Ids(view, Severity::kWarning), Set{"no_listener"});
  Findings findings;
  CheckListener(view, &findings);
  for (const Finding& f : findings) {
    EXPECT_EQ(f.severity, Severity::kWarning);
    EXPECT_NE(f.where.find("tcp port 12346"), std::string::npos) << f.where;
    EXPECT_EQ(f.fix, "utproxy doctor --watch");
  }
  view.targets[0].kind = ProxyTarget::Kind::kQueue;
  view.queues = {{.number = 0, .port_id = 77}};
  view.processes[77].command_line = {"utproxy", "run", "--on-port", "12345,12346",
                                     "--backup-port=12347"};
  findings.clear();
  CheckListener(view, &findings);
  ASSERT_FALSE(findings.empty());
  EXPECT_NE(findings[0].fix.find("utproxy run --on-port 12345 --backup-port 12347"),
            std::string::npos)
      << findings[0].fix;
  view.sockets.clear();
  findings.clear();
  CheckListener(view, &findings);
  EXPECT_EQ(findings.size(), 6u) << "three ports, two families";
  for (const Finding& f : findings) EXPECT_EQ(f.severity, Severity::kError);
}

TEST(Doctor, FdLimit) {
  SystemView view = HealthyView();
  view.processes[42].fds = 1024;
  EXPECT_EQ(Ids(view), Set{"fd_limit"});
  view.processes[42].fds = 850;
  EXPECT_EQ(Ids(view, Severity::kWarning), Set{"fd_limit"});
}

TEST(Doctor, Queues) {
  SystemView view = QueueView();
  view.queues[0].dropped = 9;  // of 10,009
  EXPECT_EQ(Ids(view, Severity::kWarning), Set{"queue_overflow"});
  view.queues[0].user_dropped = 9;
  EXPECT_EQ(Ids(view), Set{"queue_overflow"});
  view.queues.clear();
  EXPECT_EQ(Ids(view), Set{"queue_unbound"});
}

TEST(Doctor, FragmentsAndReloads) {
  SystemView view = QueueView();
  view.ruleset.chains.clear();
  EXPECT_EQ(Ids(view, Severity::kWarning), Set{"fragments"});
  view.daemon = DaemonFacts{.fragments = 3, .flushed = 0};
  EXPECT_EQ(Ids(view), Set{"fragments"});
  view = QueueView();
  view.daemon = DaemonFacts{.fragments = 3, .flushed = 2};
  EXPECT_EQ(Ids(view, Severity::kWarning), Set{"ruleset_reload_loss"});
}

TEST(Doctor, InputPolicy) {
  SystemView view = HealthyView();
  ChainFacts input{.family = NFPROTO_IPV4,
                   .table = "filter",
                   .name = "INPUT",
                   .hook = NF_INET_LOCAL_IN,
                   .priority = 0,
                   .type = "filter",
                   .policy_drop = true};
  view.ruleset.chains = {input};
  EXPECT_EQ(Ids(view), Set{"input_policy"});
  EXPECT_EQ(Diagnose(view)[0].fix, "iptables -t filter -I INPUT -m mark --mark 0x1/0x1 -j ACCEPT");
  RuleFacts accept;
  accept.verdict = RuleVerdict::kAccept;
  accept.conditions.resize(1);
  accept.conditions[0].field = Field::kMark;
  accept.conditions[0].mask = 1;
  accept.conditions[0].numbers = {{1, 1}};
  view.ruleset.chains[0].rules = {accept};
  EXPECT_TRUE(Ids(view).empty());
  accept.conditions[0].numbers = {{0, 0}};
  view.ruleset.chains[0].rules = {accept};
  EXPECT_EQ(Ids(view), Set{"input_policy"});
  accept.conditions[0] = RuleCondition();  // not understood: it may well accept
  view.ruleset.chains[0].rules = {accept};
  EXPECT_TRUE(Ids(view).empty());
}

TEST(Doctor, FlowOffload) {
  SystemView view = HealthyView();
  ChainFacts forward{
      .family = NFPROTO_INET, .table = "fast", .name = "forward", .hook = NF_INET_FORWARD};
  forward.rules.resize(1);
  forward.rules[0].handle = 5;
  forward.rules[0].flowtable = "f";
  view.ruleset.chains = {forward};
  view.ruleset.flowtables = {{NFPROTO_INET, "fast", "f", {"wan0"}}};
  EXPECT_TRUE(Ids(view).empty());
  view.ruleset.flowtables[0].devices = {"wan0", "lan0"};
  EXPECT_EQ(Ids(view), Set{"flow_offload"});
  EXPECT_EQ(Diagnose(view)[0].fix, "nft delete rule inet fast forward handle 5");
}

TEST(Doctor, Bridge) {
  SystemView view = HealthyView();
  view.bridge_calls_iptables = true;
  EXPECT_TRUE(Ids(view).empty());
  view.interfaces[0].kind = "bridge";
  EXPECT_EQ(Ids(view), Set{"br_netfilter"});
  view.targets[0].kind = ProxyTarget::Kind::kQueue;
  EXPECT_EQ(Ids(view).count("br_netfilter"), 0u);
}

TEST(Fixes, ShellWord) {
  EXPECT_EQ(ShellWord("lan0"), "lan0");
  EXPECT_EQ(ShellWord("a b"), "'a b'");
  EXPECT_EQ(ShellWord("$(x)'"), "'$(x)'\\'''");
  EXPECT_EQ(ShellWord(""), "''");
}

}  // namespace
}  // namespace utproxy
