// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/target_match.h"

#include <gtest/gtest.h>

namespace utproxy {
namespace {

Packet Udp(const char* src, const char* dst, uint16_t dport) {
  Packet packet;
  packet.src = *Address::Parse(src);
  packet.dst = *Address::Parse(dst);
  packet.family =
      absl::string_view(src).find(':') == absl::string_view::npos ? Family::kIpv4 : Family::kIpv6;
  packet.protocol = IPPROTO_UDP;
  packet.dport = dport;
  return packet;
}

Target Installed(Match match = {}) {
  Target target;
  target.install = true;
  target.ruleset.match = std::move(match);
  return target;
}

TEST(TargetMatch, NoConditionTakesTcpAndUdp) {
  const Target target = Installed();
  Packet packet = Udp("10.0.0.1", "10.0.0.2", 53);
  EXPECT_TRUE(RulesTake(target, packet, "lan0"));
  packet.protocol = IPPROTO_TCP;
  EXPECT_TRUE(RulesTake(target, packet, "lan0"));
  packet.outcome = ParseOutcome::kNotTcpOrUdp;
  EXPECT_FALSE(RulesTake(target, packet, "lan0"));
}

TEST(TargetMatch, ProtocolPortAndInterface) {
  const Target target = Installed(
      {.protos = {Proto::kUdp}, .dports = {{53, 53}, {80, 90}}, .iifs = {"lan0", "lan1"}});
  EXPECT_TRUE(RulesTake(target, Udp("10.0.0.1", "10.0.0.2", 53), "lan0"));
  EXPECT_TRUE(RulesTake(target, Udp("10.0.0.1", "10.0.0.2", 90), "lan1"));
  EXPECT_FALSE(RulesTake(target, Udp("10.0.0.1", "10.0.0.2", 91), "lan1"));
  EXPECT_FALSE(RulesTake(target, Udp("10.0.0.1", "10.0.0.2", 53), "wan0"));
  EXPECT_FALSE(RulesTake(target, Udp("10.0.0.1", "10.0.0.2", 53), ""));
  Packet tcp = Udp("10.0.0.1", "10.0.0.2", 53);
  tcp.protocol = IPPROTO_TCP;
  EXPECT_FALSE(RulesTake(target, tcp, "lan0"));
}

TEST(TargetMatch, Addresses) {
  const Target target = Installed({.src = {*ParseCidr("10.0.0.0/9"), *ParseCidr("fd00::/8")},
                                   .not_dst = {*ParseCidr("10.1.0.0/16"), *ParseCidr("fd00::1")}});
  EXPECT_TRUE(RulesTake(target, Udp("10.127.0.1", "192.0.2.1", 1), "lan0"));
  EXPECT_FALSE(RulesTake(target, Udp("10.128.0.1", "192.0.2.1", 1), "lan0"));
  EXPECT_FALSE(RulesTake(target, Udp("10.0.0.1", "10.1.2.3", 1), "lan0"));
  EXPECT_TRUE(RulesTake(target, Udp("fd00::2", "2001:db8::1", 1), "lan0"));
  EXPECT_FALSE(RulesTake(target, Udp("fd00::2", "fd00::1", 1), "lan0"));
  EXPECT_FALSE(RulesTake(target, Udp("fe80::2", "2001:db8::1", 1), "lan0"));
}

TEST(TargetMatch, OwnPacketsComeBackWithTheMark) {
  Target target = Installed();
  target.ruleset.local_output = true;
  target.ruleset.mark_value = target.ruleset.mark_mask = 1;
  Packet packet = Udp("10.0.0.1", "10.0.0.2", 53);
  EXPECT_TRUE(RulesTake(target, packet, "lan0"));
  EXPECT_FALSE(RulesTake(target, packet, "lo"));
  packet.mark = 3;
  EXPECT_TRUE(RulesTake(target, packet, "lo"));
  target.ruleset.match.iifs = {"lan0"};
  EXPECT_TRUE(RulesTake(target, packet, "lo"));
  EXPECT_FALSE(RulesTake(target, packet, "wan0"));
}

TEST(TargetMatch, TheFirstTargetTakesIt) {
  std::vector<Target> targets = {Installed({.dports = {{53, 53}}}), Installed(), Installed()};
  targets[1].install = false;
  EXPECT_EQ(FirstToTake(targets, Udp("10.0.0.1", "10.0.0.2", 53), "lan0"), &targets[0]);
  EXPECT_EQ(FirstToTake(targets, Udp("10.0.0.1", "10.0.0.2", 54), "lan0"), &targets[2]);
  targets.pop_back();
  EXPECT_EQ(FirstToTake(targets, Udp("10.0.0.1", "10.0.0.2", 54), "lan0"), nullptr);
}

}  // namespace
}  // namespace utproxy
