// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/plan.h"

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "base/status.h"
#include "ruleset/cgroup.h"
#include "ruleset/delivery.h"
#include "ruleset/iptables_text.h"
#include "ruleset/nft_text.h"
#include "ruleset/ruleset.h"
#include "ruleset/validate.h"

namespace utproxy {
namespace {

RulesetSpec Spec() {
  RulesetSpec spec;
  spec.name = "dns";
  spec.mark_value = spec.mark_mask = 1;
  return spec;
}

std::vector<Cidr> Cidrs(const std::vector<const char*>& texts) {
  std::vector<Cidr> cidrs;
  for (const char* text : texts) cidrs.push_back(ParseCidr(text).value());
  return cidrs;
}

// The rules of one chain, a line each, without the counter and the comment.
std::string Rules(const RulesetSpec& spec, const std::string& chain_name = kPreroutingChain) {
  const absl::StatusOr<std::vector<Chain>> plan = CompilePlan({spec});
  if (!plan.ok()) return std::string(plan.status().message());
  std::string text;
  for (const Chain& chain : *plan) {
    if (chain.name != chain_name) continue;
    for (Rule rule : chain.rules) {
      rule.counted = false;
      std::string line = RuleToNft(rule);
      absl::StrAppend(&text, line.substr(0, line.find(" comment")), "\n");
    }
  }
  return text;
}

TEST(Plan, QueuesTcpAndUdpOfBothFamiliesByDefault) {
  EXPECT_EQ(Rules(Spec()), "meta l4proto { tcp, udp } queue num 0\n");
}

TEST(Plan, WritesQueueFlags) {
  RulesetSpec spec = Spec();
  spec.match.protos = {Proto::kUdp};
  spec.queue_cpu_fanout = true;  // has no meaning for one queue
  EXPECT_EQ(Rules(spec), "meta l4proto udp queue num 0\n");
  spec.queue_first = 2;
  spec.queue_last = 3;
  EXPECT_EQ(Rules(spec), "meta l4proto udp queue num 2-3 fanout\n");
  spec.queue_bypass = true;
  EXPECT_EQ(Rules(spec), "meta l4proto udp queue num 2-3 bypass,fanout\n");
}

TEST(Plan, MergesPortsAndInterfaces) {
  RulesetSpec spec = Spec();
  spec.match.protos = {Proto::kUdp, Proto::kTcp, Proto::kUdp};
  spec.match.dports = {{443, 443}, {53, 53}, {100, 200}, {150, 201}, {54, 54}};
  spec.match.iifs = {"lan1", "lan0", "lan1"};
  EXPECT_EQ(Rules(spec),
            "iifname { \"lan0\", \"lan1\" } meta l4proto { tcp, udp } "
            "th dport { 53-54, 100-201, 443 } queue num 0\n");
  spec.match.dports = {{0, 65535}};
  spec.match.iifs = {"lan0"};
  EXPECT_EQ(Rules(spec), "iifname \"lan0\" meta l4proto { tcp, udp } queue num 0\n");
}

TEST(Plan, AddressesOfOneFamilyKeepTheOtherOut) {
  RulesetSpec spec = Spec();
  spec.match.dst = Cidrs({"10.0.0.0/8"});
  EXPECT_EQ(Rules(spec),
            "meta l4proto { tcp, udp } meta nfproto ipv4 ip daddr 10.0.0.0/8 queue num 0\n");
  spec.match.src = Cidrs({"2001:db8::/32"});
  EXPECT_EQ(Rules(spec), "target 'dns': no packet can fit all its address conditions");
  spec.match.src = Cidrs({"2001:db8::/32", "192.0.2.1"});
  EXPECT_EQ(Rules(spec),
            "meta l4proto { tcp, udp } meta nfproto ipv4 ip saddr 192.0.2.1 ip daddr 10.0.0.0/8 "
            "queue num 0\n");
}

TEST(Plan, ExcludedAddressesOfOneFamilyLeaveTheOtherIn) {
  RulesetSpec spec = Spec();
  spec.match.not_dst = Cidrs({"10.0.0.0/8", "192.168.0.0/16"});
  EXPECT_EQ(Rules(spec),
            "meta l4proto { tcp, udp } meta nfproto ipv4 "
            "ip daddr != { 10.0.0.0/8, 192.168.0.0/16 } queue num 0\n"
            "meta l4proto { tcp, udp } meta nfproto ipv6 queue num 0\n");
  spec.match.not_dst = Cidrs({"0.0.0.0/0"});
  EXPECT_EQ(Rules(spec), "meta l4proto { tcp, udp } meta nfproto ipv6 queue num 0\n");
  spec.match.not_src = Cidrs({"::/0"});
  EXPECT_EQ(Rules(spec), "target 'dns': no packet can fit all its address conditions");
}

TEST(Plan, MergesPrefixes) {
  RulesetSpec spec = Spec();
  spec.match.protos = {Proto::kTcp};
  spec.match.src = Cidrs({"10.1.0.0/16", "10.0.0.0/16", "10.0.3.0/24", "10.2.0.0/16", "::/0"});
  spec.match.not_src = Cidrs({"2001:db8::/33", "2001:db8:8000::/33", "ffff::/16"});
  EXPECT_EQ(Rules(spec),
            "meta l4proto tcp meta nfproto ipv4 ip saddr 10.0.0.0-10.2.255.255 queue num 0\n"
            "meta l4proto tcp meta nfproto ipv6 ip6 saddr != { 2001:db8::/32, ffff::/16 } "
            "queue num 0\n");
}

TEST(Plan, RepliesAreDivertedBehindTheQueue) {
  RulesetSpec spec = Spec();
  spec.divert_replies = true;
  spec.match.protos = {Proto::kTcp};
  EXPECT_EQ(Rules(spec),
            "meta l4proto tcp queue num 0\n"
            "iifname != \"lo\" jump replies\n");
  const std::string flags = "tcp flags & (fin | syn | rst | ack) != syn";
  const std::string mark = "meta mark set meta mark & 0xfffffffe ^ 0x1 accept\n";
  const std::string tcp = "meta l4proto tcp " + flags + " socket wildcard 1 return\n" +
                          "meta l4proto tcp " + flags + " socket transparent 1 " + mark;
  EXPECT_EQ(Rules(spec, "replies"), tcp);
  spec.match.protos = {};
  EXPECT_EQ(Rules(spec, "replies"), tcp +
                                        "meta l4proto udp socket wildcard 1 return\n"
                                        "meta l4proto udp socket transparent 1 " +
                                        mark);
}

TEST(Plan, RepliesAreDivertedOnceForAllTargets) {
  RulesetSpec other = Spec(), first = Spec(), second = Spec();
  other.match.protos = first.match.protos = second.match.protos = {Proto::kTcp};
  first.divert_replies = second.divert_replies = true;
  first.mark_value = first.mark_mask = 2;
  const absl::StatusOr<std::vector<Chain>> plan = CompilePlan({other, first, second});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->front().name, "replies");
  ASSERT_EQ(plan->front().rules.size(), 2u);
  EXPECT_EQ(std::get<Divert>(plan->front().rules[1].statement).mark, (MarkMatch{2, 2}));
}

// iptables queues there; what is nft's alone stays with it.
TEST(Plan, PrintedForIptablesRepliesAreNftsStill) {
  RulesetSpec spec = Spec();
  spec.divert_replies = true;
  const absl::StatusOr<std::string> text = PrintRuleset({spec}, false);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_NE(text->find("hook prerouting priority mangle + 1; policy accept;\n\t\tiifname != "
                       "\"lo\" counter jump replies"),
            std::string::npos)
      << *text;
}

TEST(Plan, LocalOutputMarksAndQueuesOnLoopback) {
  RulesetSpec spec = Spec();
  spec.match.protos = {Proto::kUdp};
  spec.match.dports = {{53, 53}};
  spec.match.iifs = {"lan0"};
  spec.mark_value = 0x101;  // a bit outside of the mask: the verdict's business, not the rule's
  spec.local_output = true;
  spec.exclude_marks = {{0x20, 0xf0}, {7, 0xffffffff}};
  spec.exclude_uids = {65534, 0};
  spec.exclude_cgroups = {"/system.slice/unbound.service/"};
  EXPECT_EQ(Rules(spec),
            "iifname \"lan0\" meta l4proto udp th dport 53 queue num 0\n"
            "iifname \"lo\" meta mark & 0x1 == 0x1 meta l4proto udp th dport 53 queue num 0\n");
  EXPECT_EQ(Rules(spec, "output"), "meta l4proto udp th dport 53 jump local_0\n");
  EXPECT_EQ(Rules(spec, "local_0"),
            "meta mark & 0x1 == 0x1 return\n"
            "meta mark & 0xf0 == 0x20 return\n"
            "meta mark 0x7 return\n"
            "meta skuid { 0, 65534 } return\n"
            "socket cgroupv2 level 2 \"system.slice/unbound.service\" return\n"
            "fib daddr type { local, broadcast, anycast, multicast } return\n"
            "meta mark set meta mark & 0xfffffffe ^ 0x1\n");
  spec.match.iifs = {};
  EXPECT_EQ(Rules(spec),
            "iifname != \"lo\" meta l4proto udp th dport 53 queue num 0\n"
            "iifname \"lo\" meta mark & 0x1 == 0x1 meta l4proto udp th dport 53 queue num 0\n");
  spec.match.iifs = {"lo"};
  EXPECT_EQ(Rules(spec), "iifname \"lo\" meta l4proto udp th dport 53 queue num 0\n");
}

TEST(Plan, FastPathStandsBeforeTheQueueWithItsConditions) {
  RulesetSpec spec = Spec();
  spec.match.iifs = {"lan0"};
  spec.match.dst = Cidrs({"10.0.0.0/8"});
  spec.mark_value = 0x101;  // a bit outside of the mask: flipped, as TPROXY does
  spec.fast_path = true;
  const std::string flow = "iif . ip saddr . udp sport . ip daddr . udp dport";
  EXPECT_EQ(Rules(spec),
            "iifname \"lan0\" meta l4proto tcp meta nfproto ipv4 ip daddr 10.0.0.0/8 "
            "tcp flags & (fin | syn | rst | ack) != syn socket wildcard 1 queue num 0\n"
            "iifname \"lan0\" meta l4proto tcp meta nfproto ipv4 ip daddr 10.0.0.0/8 "
            "tcp flags & (fin | syn | rst | ack) != syn ip daddr . tcp dport != @listeners4 "
            "socket transparent 1 "
            "meta mark set meta mark & 0xfffffffe ^ 0x101 accept\n"
            "iifname \"lan0\" meta l4proto udp meta nfproto ipv4 ip daddr 10.0.0.0/8 " +
                flow +
                " @flows4 socket transparent 1 "
                "meta mark set meta mark & 0xfffffffe ^ 0x101 accept\n"
                "iifname \"lan0\" meta l4proto { tcp, udp } meta nfproto ipv4 "
                "ip daddr 10.0.0.0/8 queue num 0\n");
  EXPECT_EQ(Rules(spec, kLearnChain),
            "iifname \"lan0\" meta mark & 0x1 == 0x1 meta l4proto udp meta nfproto ipv4 "
            "ip daddr 10.0.0.0/8 add @flows4 { " +
                flow + " }\n");
}

// A packet that comes with the mark may leave the queue with it without being a hit.
TEST(Plan, FastPathDoesNotLearnFromMarksThatWereThereBefore) {
  RulesetSpec spec = Spec();
  spec.match.protos = {Proto::kUdp};
  spec.match.src = Cidrs({"2001:db8::/32"});
  spec.fast_path = spec.misses_pass = true;
  const std::string match = "meta l4proto udp meta nfproto ipv6 ip6 saddr 2001:db8::/32 ";
  const std::string flow = "iif . ip6 saddr . udp sport . ip6 daddr . udp dport";
  EXPECT_EQ(Rules(spec),
            match + flow +
                " @flows6 socket transparent 1 meta mark set meta mark & 0xfffffffe ^ 0x1 accept\n"
                "meta mark & 0x1 == 0x1 " +
                match + "add @premarked6 { " + flow + " }\n" + match + "queue num 0\n");
  EXPECT_EQ(Rules(spec, kLearnChain), "meta mark & 0x1 == 0x1 " + match + flow +
                                          " != @premarked6 add @flows6 { " + flow + " }\n");
}

// Both targets' matches fit a packet: one queues it and lets it pass with the other's mark.
TEST(Plan, FastPathDoesNotLearnWhatAnotherTargetLetsPass) {
  RulesetSpec passes = Spec(), learns = Spec();
  passes.match.protos = learns.match.protos = {Proto::kUdp};
  passes.misses_pass = learns.fast_path = true;
  learns.queue_first = learns.queue_last = 1;
  learns.mark_value = learns.mark_mask = 2;
  const std::string text = TableToNft(*CompilePlan({passes, learns}), "");
  const size_t noted = text.find(
      "meta mark & 0x2 == 0x2 meta l4proto udp meta nfproto ipv4 counter add @premarked4");
  EXPECT_LT(noted, text.find("queue num 0")) << text;
  EXPECT_NE(text.find("!= @premarked4 counter add @flows4"), std::string::npos) << text;
  EXPECT_EQ(text.find("meta mark & 0x1 == 0x1"), std::string::npos) << "nothing is learned by it";
}

TEST(Plan, FastPathOfTcpHasNothingToLearn) {
  RulesetSpec spec = Spec();
  spec.match.protos = {Proto::kTcp};
  EXPECT_TRUE(SetsOf(*CompilePlan({spec})).empty());
  spec.fast_path = true;
  EXPECT_EQ(Rules(spec, kLearnChain), "");
  // The daemon empties and fills these in one transaction each, so all are there.
  EXPECT_EQ(SetsOf(*CompilePlan({spec})).size(), 4u);
}

TEST(Plan, CommentsSurviveAnyName) {
  RulesetSpec spec = Spec();
  spec.name = std::string("a\"; drop'$(x)\n") + std::string(300, 'n');
  const absl::StatusOr<std::vector<Chain>> plan = CompilePlan({spec});
  ASSERT_TRUE(plan.ok());
  const std::string comment = plan->back().rules[0].comment;
  EXPECT_EQ(comment.substr(0, 14), "a__ drop___x__");
  EXPECT_EQ(comment.size(), 90u);
}

struct Wrong {
  const char* part;  // of the message
  void (*spoil)(RulesetSpec&);
};

TEST(Validate, NamesWhatIsWrongAndGivesARemedy) {
  const Wrong cases[] = {
      {"interface name 'a234567890123456': has 16 bytes",
       [](RulesetSpec& s) { s.match.iifs = {"a234567890123456"}; }},
      {"interface name '': has 0 bytes", [](RulesetSpec& s) { s.match.iifs = {""}; }},
      {"interface name 'lan*'", [](RulesetSpec& s) { s.match.iifs = {"lan*"}; }},
      {"interface name '..'", [](RulesetSpec& s) { s.match.iifs = {".."}; }},
      {"port range 9-8",
       [](RulesetSpec& s) {
         s.match.dports = {{9, 8}};
       }},
      {"ports: 1025 entries", [](RulesetSpec& s) { s.match.dports.resize(1025); }},
      {"address prefixes: 16385", [](RulesetSpec& s) { s.match.not_dst.resize(16385); }},
      {"mark 0x0/0x1", [](RulesetSpec& s) { s.mark_value = 0; }},
      {"mark 0x2/0x1", [](RulesetSpec& s) { s.mark_value = 2; }},
      {"mark 0x1/0x0", [](RulesetSpec& s) { s.mark_mask = 0; }},
      {"route table 254", [](RulesetSpec& s) { s.route_table = 254; }},
      {"route table 0", [](RulesetSpec& s) { s.route_table = 0; }},
      {"queues 3:2", [](RulesetSpec& s) { s.queue_first = 3, s.queue_last = 2; }},
      {"queues 0:65535", [](RulesetSpec& s) { s.queue_last = 65535; }},
      {"no meaning without local output", [](RulesetSpec& s) { s.exclude_uids = {1}; }},
      {"excluded mark 0x2/0x1",
       [](RulesetSpec& s) {
         s.local_output = true, s.exclude_marks = {{2, 1}};
       }},
      {"excluded mark 0x0/0x0",
       [](RulesetSpec& s) {
         s.local_output = true, s.exclude_marks = {{0, 0}};
       }},
      {"cgroup 'a/../b'",
       [](RulesetSpec& s) { s.local_output = true, s.exclude_cgroups = {"a/../b"}; }},
      {"cgroup '/'", [](RulesetSpec& s) { s.local_output = true, s.exclude_cgroups = {"/"}; }},
  };
  ASSERT_TRUE(ValidateSpecs({Spec()}).ok());
  for (const Wrong& wrong : cases) {
    RulesetSpec spec = Spec();
    wrong.spoil(spec);
    const absl::Status status = ValidateSpecs({Spec(), spec});
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << wrong.part;
    EXPECT_NE(status.message().find(wrong.part), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
    EXPECT_NE(RemedyOf(status), "") << wrong.part;
    EXPECT_FALSE(PrintRuleset({Spec(), spec}, true).ok()) << wrong.part;
  }
  EXPECT_FALSE(ValidateSpecs({}).ok());
}

TEST(Delivery, SharedMarksAndTablesAreInstalledOnce) {
  RulesetSpec a = Spec(), b = Spec(), c = Spec();
  b.mark_value = 0x11;  // the bit outside of the mask does not matter to routing
  c.mark_value = c.mark_mask = 2;
  c.mark_mask = 0xffffffff;
  std::string text;
  for (const DeliveryItem& item : WantedDelivery({a, b, c})) {
    absl::StrAppend(&text, DeliveryCommand(item), "\n");
  }
  EXPECT_EQ(text,
            "ip route add local default dev lo table 100 protocol 117\n"
            "ip rule add priority 117 fwmark 0x1/0x1 lookup 100 protocol 117\n"
            "ip rule add priority 117 fwmark 0x2 lookup 100 protocol 117\n"
            "ip -6 route add local default dev lo table 100 protocol 117\n"
            "ip -6 rule add priority 117 fwmark 0x1/0x1 lookup 100 protocol 117\n"
            "ip -6 rule add priority 117 fwmark 0x2 lookup 100 protocol 117\n");
}

TEST(Print, WritesOneScript) {
  RulesetSpec spec = Spec();
  spec.match.protos = {Proto::kUdp};
  spec.match.dports = {{53, 53}};
  spec.queue_last = 1;
  EXPECT_EQ(PrintRuleset({spec}, true).value(),
            "# For a root shell. To undo: utproxy ruleset remove\n"
            "ip route add local default dev lo table 100 protocol 117\n"
            "ip rule add priority 117 fwmark 0x1/0x1 lookup 100 protocol 117\n"
            "ip -6 route add local default dev lo table 100 protocol 117\n"
            "ip -6 rule add priority 117 fwmark 0x1/0x1 lookup 100 protocol 117\n"
            "nft -f - <<'EOF'\n"
            "table inet utproxy\n"
            "delete table inet utproxy\n"
            "table inet utproxy {\n"
            "\tcomment \"utproxy ruleset\"\n"
            "\n"
            "\tchain defrag {\n"
            "\t\tmeta l4proto { tcp, udp } tproxy to :1 comment \"defragmentation\"\n"
            "\t}\n"
            "\n"
            "\tchain prerouting {\n"
            "\t\ttype filter hook prerouting priority mangle; policy accept;\n"
            "\t\tmeta l4proto udp th dport 53 counter queue num 0-1 comment \"dns\"\n"
            "\t}\n"
            "}\n"
            "EOF\n");
}

TEST(Print, WritesIptablesLadders) {
  RulesetSpec spec = Spec();
  spec.match.protos = {Proto::kUdp};
  spec.match.dports = {{53, 53}};
  spec.match.iifs = {"lan0", "lan1"};
  spec.match.dst = Cidrs({"10.0.0.0/8"});
  spec.match.not_src = Cidrs({"192.0.2.0/24", "10.9.0.0/16"});
  spec.queue_last = 1;
  spec.queue_bypass = true;
  const absl::StatusOr<std::vector<Chain>> plan = CompilePlan({spec});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(ChainToIptables(plan->back(), Family::kIpv4),
            "iptables-nft -w -t mangle -N UTPROXY\n"
            "iptables-nft -w -t mangle -N UTPROXY-1-1\n"
            "iptables-nft -w -t mangle -A UTPROXY -i lan0 -j UTPROXY-1-1\n"
            "iptables-nft -w -t mangle -A UTPROXY -i lan1 -j UTPROXY-1-1\n"
            "iptables-nft -w -t mangle -N UTPROXY-1-2\n"
            "iptables-nft -w -t mangle -A UTPROXY-1-1 -p udp --dport 53:53 -d 10.0.0.0/8 "
            "-j UTPROXY-1-2\n"
            "iptables-nft -w -t mangle -A UTPROXY-1-2 -s 10.9.0.0/16 -j RETURN\n"
            "iptables-nft -w -t mangle -A UTPROXY-1-2 -s 192.0.2.0/24 -j RETURN\n"
            "iptables-nft -w -t mangle -A UTPROXY-1-2 -m comment --comment 'dns' -j NFQUEUE "
            "--queue-balance 0:1 --queue-bypass\n"
            "iptables-nft -w -t mangle -A PREROUTING -j UTPROXY\n");
  EXPECT_EQ(ChainToIptables(plan->back(), Family::kIpv6), "");
}

TEST(Cgroup, FindsTheUnifiedTree) {
  const char kHybrid[] =
      "30 25 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw\n"
      "31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 master:1 - cgroup2 cgroup2 rw\n";
  EXPECT_EQ(FindCgroupRoot(kHybrid), "/sys/fs/cgroup/unified");
  EXPECT_EQ(FindCgroupRoot("31 30 0:27 / /c rw - cgroup2 x rw"), "/c");
  EXPECT_EQ(FindCgroupRoot("31 30 0:27 / /c rw - cgroup x rw\n"), "");
  EXPECT_EQ(FindCgroupRoot("31 - cgroup2 x"), "");
  EXPECT_EQ(FindCgroupRoot(""), "");
}

}  // namespace
}  // namespace utproxy
