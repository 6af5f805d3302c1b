// SPDX-License-Identifier: GPL-3.0-or-later
// What the ruleset does to a real kernel, in a network namespace of each test's own.
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <set>

#include "base/status.h"
#include "lab.h"
#include "ruleset/fast_path_sets.h"
#include "ruleset/nft_batch.h"
#include "ruleset/ruleset.h"

namespace utproxy {
namespace {

using lab::Shell;
using lab::TestPacket;

RulesetSpec Dns() {
  RulesetSpec spec;
  spec.name = "dns";
  spec.match.protos = {Proto::kUdp};
  spec.match.dports = {{53, 53}};
  spec.mark_value = spec.mark_mask = 1;
  return spec;
}

// Uses every condition there is.
std::vector<RulesetSpec> Elaborate() {
  RulesetSpec dns = Dns(), web = Dns();
  dns.match.iifs = {"tuna", "tunb"};
  dns.match.dports = {{53, 53}, {853, 900}};
  dns.match.not_dst = {ParseCidr("10.9.0.0/16").value(), ParseCidr("10.11.0.0/16").value(),
                       ParseCidr("2001:db8:9::/48").value()};
  dns.queue_bypass = true;
  web.name = "web";
  web.match.protos = {};
  web.match.iifs = {"tuna"};
  web.match.dports = {{80, 90}};
  web.match.src = {ParseCidr("10.0.0.0/23").value(), ParseCidr("10.0.2.0/24").value(),
                   ParseCidr("2001:db8::/33").value(), ParseCidr("2001:db9::1").value()};
  web.match.dst = {ParseCidr("10.7.0.0/16").value(), ParseCidr("10.5.0.1").value(),
                   ParseCidr("2001:db8::/32").value()};
  web.match.not_src = {ParseCidr("10.0.1.1").value()};
  web.mark_value = 0x20;
  web.mark_mask = 0xf0;
  web.route_table = 101;
  return {dns, web};
}

RulesetSpec LocalDns() {
  RulesetSpec spec = Dns();
  spec.local_output = true;
  spec.exclude_marks = {{0x100, 0xf00}};
  spec.exclude_uids = {12345, 12346};
  return spec;
}

class KernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string why = lab::EnterNamespace();
    if (!why.empty()) GTEST_SKIP() << why;
  }
  static InstalledRuleset Installed(absl::Span<const RulesetSpec> specs) {
    absl::StatusOr<InstalledRuleset> ruleset = InstalledRuleset::Install(specs);
    EXPECT_TRUE(ruleset.ok()) << ruleset.status();
    return std::move(ruleset).value();
  }
};

// A listing in which queueing, the one thing that nft may be unable to write on this kernel, is
// an accept.
std::string WithoutQueue(std::string text) {
  for (const char* spelling : {"queue num", "queue flags", "queue to"}) {
    size_t at;
    while ((at = text.find(spelling)) != std::string::npos) {
      text.replace(at, text.find("comment", at) - at, "accept ");
    }
  }
  return text;
}

TEST_F(KernelTest, InstallsAndRemovesWithoutATrace) {
  const std::string before = lab::NetworkState();
  {
    const InstalledRuleset ruleset = Installed(Elaborate());
    EXPECT_TRUE(ruleset.warnings().empty());
    const std::string table = Shell("nft -s list table inet utproxy 2>/dev/null").text;
    for (const char* part : {"flags owner", "type filter hook prerouting priority mangle",
                             "iifname { \"tuna\", \"tunb\" }", "udp dport { 53, 853-900 }",
                             "udp dport", "comment \"dns\"", "comment \"web\"", "queue",
                             "tproxy to :1", "ip daddr != { 10.9.0.0/16, 10.11.0.0/16 }",
                             "ip6 daddr != 2001:db8:9::/48", "ip saddr 10.0.0.0-10.0.2.255"}) {
      EXPECT_NE(table.find(part), std::string::npos) << part << " is not in\n" << table;
    }
    for (const char* ip : {"ip", "ip -6"}) {
      const std::string rules = Shell(absl::StrCat(ip, " rule")).text;
      EXPECT_NE(rules.find("117:	from all fwmark 0x1/0x1 lookup 100 proto 117"),
                std::string::npos)
          << rules;
      EXPECT_NE(rules.find("117:	from all fwmark 0x20/0xf0 lookup 101 proto 117"),
                std::string::npos)
          << rules;
      for (const char* number : {"100", "101"}) {
        const std::string route = Shell(absl::StrCat(ip, " route show table ", number)).text;
        EXPECT_EQ(route.find("local default dev lo proto 117"), 0u) << route;
      }
    }
  }
  EXPECT_EQ(lab::NetworkState(), before);
}

TEST_F(KernelTest, RemoveIsIdempotentAndMovedFromObjectsOwnNothing) {
  const std::string before = lab::NetworkState();
  InstalledRuleset first = Installed({Dns()});
  {
    InstalledRuleset second = std::move(first);
    EXPECT_NE(lab::NetworkState(), before);
    EXPECT_TRUE(second.Remove().ok());
    EXPECT_EQ(lab::NetworkState(), before);
    EXPECT_TRUE(second.Remove().ok());
  }
  EXPECT_FALSE(first.Update({Dns()}).ok());
}

TEST_F(KernelTest, ListsOfAnyLengthAreTaken) {
  RulesetSpec spec = Dns();
  for (uint32_t i = 0; i < 5000; ++i) {
    Cidr cidr{Address::FromIpv4(htonl(0x0a000000 + i * 2)), Family::kIpv4, 32};
    spec.match.dst.push_back(cidr);
  }
  const InstalledRuleset ruleset = Installed({spec});
  const std::string table = Shell("nft -s list table inet utproxy 2>/dev/null").text;
  EXPECT_NE(table.find("10.0.39.14"), std::string::npos);
}

TEST_F(KernelTest, ASecondInstallIsRefusedAndChangesNothing) {
  const InstalledRuleset first = Installed({Dns()});
  const std::string before = lab::NetworkState();
  RulesetSpec other = Dns();
  other.route_table = 333;
  const auto second = InstalledRuleset::Install({other});
  EXPECT_TRUE(absl::IsAlreadyExists(second.status())) << second.status();
  EXPECT_NE(RemedyOf(second.status()), "");
  EXPECT_TRUE(absl::IsAlreadyExists(InstallPersistentRuleset({other}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(RemoveRuleset()));
  EXPECT_EQ(lab::NetworkState(), before);
}

TEST_F(KernelTest, AKilledRunLeavesNoTableAndTheNextAdoptsTheRest) {
  const std::string before = lab::NetworkState();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    RulesetSpec other = Dns();
    other.route_table = 102;
    const auto ruleset = InstalledRuleset::Install({Dns(), other});
    if (!ruleset.ok()) ::_exit(1);
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(Shell("nft list ruleset").text, "");
  const std::string left = Shell("ip rule").text;
  EXPECT_NE(left.find("fwmark 0x1/0x1 lookup 100 proto 117"), std::string::npos) << left;
  EXPECT_NE(left.find("fwmark 0x1/0x1 lookup 102 proto 117"), std::string::npos) << left;
  {
    const InstalledRuleset next = Installed({Dns()});
    const std::string rules = Shell("ip rule; ip -6 rule").text;
    // One of each family: the other target's are gone.
    const std::vector<std::string> ours = absl::StrSplit(rules, "proto 117");
    EXPECT_EQ(ours.size(), 3u) << rules;
  }
  EXPECT_EQ(lab::NetworkState(), before);
}

TEST_F(KernelTest, TheUsersOwnRulesAndRoutesStay) {
  ASSERT_EQ(Shell("set -e\n"
                  "ip rule add fwmark 1/1 lookup 100\n"
                  "ip rule add priority 117 fwmark 1/1 lookup 100\n"
                  "ip -6 rule add priority 117 fwmark 1/1 lookup 100\n"
                  "ip route add local default dev lo table 100\n"
                  "ip -6 route add local default dev lo table 100\n"
                  "ip route add local 10.3.0.0/16 dev lo table 100 proto 117\n"
                  "nft add table inet mine\n")
                .status,
            0);
  const std::string before = lab::NetworkState();
  { const InstalledRuleset ruleset = Installed({Dns()}); }
  EXPECT_EQ(lab::NetworkState(), before);
  EXPECT_TRUE(RemoveRuleset().ok());
  EXPECT_EQ(lab::NetworkState(), before);
}

TEST_F(KernelTest, AnotherDefaultRouteInTheTableIsRefused) {
  const lab::Tun away("away");
  ASSERT_EQ(Shell("ip route add default dev away table 100").status, 0);
  const std::string before = lab::NetworkState();
  const auto ruleset = InstalledRuleset::Install({Dns()});
  EXPECT_TRUE(absl::IsFailedPrecondition(ruleset.status())) << ruleset.status();
  EXPECT_EQ(lab::NetworkState(), before);
}

TEST_F(KernelTest, AFailureHalfWayRollsBack) {
  // The second target's table has an IPv6 default route: by then IPv4 is in place.
  const lab::Tun away("away");
  ASSERT_EQ(Shell("ip -6 route add default dev away table 101").status, 0);
  RulesetSpec second = Dns();
  second.route_table = 101;
  const std::string before = lab::NetworkState();
  const auto ruleset = InstalledRuleset::Install({Dns(), second});
  EXPECT_TRUE(absl::IsFailedPrecondition(ruleset.status())) << ruleset.status();
  EXPECT_EQ(lab::NetworkState(), before);
  // And where nftables is what fails.
  RulesetSpec cgroup = Dns();
  cgroup.local_output = true;
  cgroup.exclude_cgroups = {std::string(5000, 'x')};  // longer than PATH_MAX
  EXPECT_FALSE(InstalledRuleset::Install({cgroup}).ok());
  EXPECT_EQ(lab::NetworkState(), before);
}

// The daemon looks again when it comes; whoever only installs can't.
TEST_F(KernelTest, ACgroupMayBeMissingForTheDaemonOnly) {
  RulesetSpec spec = LocalDns();
  spec.exclude_cgroups = {"no/such/cgroup"};
  const std::string before = lab::NetworkState();
  EXPECT_TRUE(absl::IsNotFound(InstallPersistentRuleset({spec}).status()));
  EXPECT_EQ(lab::NetworkState(), before);
  const InstalledRuleset ruleset = Installed({spec});
  const std::string table = Shell("nft list table inet utproxy").text;
  EXPECT_NE(table.find("chain local_0"), std::string::npos) << table;
  EXPECT_EQ(table.find("cgroup"), std::string::npos) << table;
}

TEST_F(KernelTest, AUsersTableOfTheSameNameStays) {
  ASSERT_EQ(Shell("nft add table inet utproxy").status, 0);
  const std::string before = lab::NetworkState();
  EXPECT_TRUE(absl::IsAlreadyExists(InstalledRuleset::Install({Dns()}).status()));
  EXPECT_TRUE(RemoveRuleset().ok());
  EXPECT_EQ(lab::NetworkState(), before);
}

TEST_F(KernelTest, LoopbackDownIsRefusedWithTheRemedy) {
  ASSERT_EQ(Shell("ip link set lo down").status, 0);
  const std::string before = lab::NetworkState();
  const auto ruleset = InstalledRuleset::Install({Dns()});
  EXPECT_TRUE(absl::IsFailedPrecondition(ruleset.status())) << ruleset.status();
  EXPECT_EQ(RemedyOf(ruleset.status()), "ip link set lo up");
  EXPECT_EQ(lab::NetworkState(), before);
}

TEST_F(KernelTest, WithoutIpv6TheRestWorksAndAWarningSaysSo) {
  ASSERT_EQ(Shell("sysctl -qw net.ipv6.conf.all.disable_ipv6=1").status, 0);
  const std::string before = lab::NetworkState();
  {
    const InstalledRuleset ruleset = Installed({Dns()});
    ASSERT_EQ(ruleset.warnings().size(), 1u);
    EXPECT_NE(ruleset.warnings()[0].find("IPv6 is off"), std::string::npos);
    EXPECT_NE(Shell("ip rule").text.find("proto 117"), std::string::npos);
    EXPECT_EQ(Shell("ip -6 rule").text.find("proto 117"), std::string::npos);
  }
  EXPECT_EQ(lab::NetworkState(), before);
}

TEST_F(KernelTest, PersistentRulesetIsReplacedAndRemoved) {
  const std::string before = lab::NetworkState();
  ASSERT_TRUE(InstallPersistentRuleset(Elaborate()).ok());
  ASSERT_TRUE(InstallPersistentRuleset({Dns()}).ok());
  const std::string table = Shell("nft list table inet utproxy 2>/dev/null").text;
  EXPECT_EQ(table.find("web"), std::string::npos) << table;
  EXPECT_EQ(table.find("owner"), std::string::npos) << table;
  EXPECT_EQ(Shell("ip rule").text.find("lookup 101"), std::string::npos);
  EXPECT_TRUE(absl::IsAlreadyExists(InstalledRuleset::Install({Dns()}).status()));
  EXPECT_TRUE(RemoveRuleset().ok());
  EXPECT_EQ(lab::NetworkState(), before);
  EXPECT_TRUE(RemoveRuleset().ok());
}

TEST_F(KernelTest, UpdateEqualsInstall) {
  std::string expected;
  {
    const InstalledRuleset ruleset = Installed(Elaborate());
    expected = lab::NetworkState();
  }
  InstalledRuleset ruleset = Installed({Dns()});
  EXPECT_TRUE(ruleset.Update(Elaborate()).ok());
  EXPECT_EQ(lab::NetworkState(), expected);
  const std::string before = lab::NetworkState();
  RulesetSpec wrong = Dns();
  wrong.mark_value = 0;
  EXPECT_FALSE(ruleset.Update({wrong}).ok());
  RulesetSpec missing = LocalDns();
  missing.exclude_cgroups = {std::string(5000, 'x')};
  missing.route_table = 555;
  EXPECT_FALSE(ruleset.Update({missing}).ok());
  EXPECT_EQ(lab::NetworkState(), before);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(ruleset.Update({LocalDns()}).ok());
    const std::string table = Shell("nft list table inet utproxy 2>/dev/null").text;
    EXPECT_NE(table.find("chain local_0"), std::string::npos) << table;
    EXPECT_NE(table.find("type route hook output"), std::string::npos) << table;
    EXPECT_TRUE(ruleset.Update({Dns()}).ok());
  }
}

TEST_F(KernelTest, ProbingLeavesNothing) {
  const std::string before = lab::NetworkState();
  absl::StatusOr<NetlinkSocket> socket = OpenNftSocket();
  ASSERT_TRUE(socket.ok());
  const absl::StatusOr<NftFeatures> features = ProbeNft(*socket);
  ASSERT_TRUE(features.ok()) << features.status();
  EXPECT_TRUE(features->native_queue || features->xt_queue);
  EXPECT_TRUE(features->tproxy || features->ct);
  EXPECT_EQ(lab::NetworkState(), before);
  // nft itself is the second opinion.
  const int status =
      Shell("nft 'add table inet t; add chain inet t c; add rule inet t c queue num 1'").status;
  EXPECT_EQ(features->native_queue, status == 0);
}

TEST_F(KernelTest, WithoutPrivilegeTheErrorSaysSo) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::setuid(65534) != 0) ::_exit(2);
    const absl::Status status = InstalledRuleset::Install({Dns()}).status();
    ::_exit(absl::IsPermissionDenied(status) && !RemedyOf(status).empty() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// What nft makes of the printed table equals what is installed: to the letter where nft can write
// the queue statement, else but for that.
TEST_F(KernelTest, PrintedTextIsWhatIsInstalled) {
  std::vector<RulesetSpec> specs = Elaborate();
  specs.push_back(LocalDns());
  specs[0].fast_path = specs[1].fast_path = specs[2].fast_path = true;
  specs[0].misses_pass = specs[1].divert_replies = true;
  ASSERT_TRUE(InstallPersistentRuleset(specs).ok());
  const std::string installed = lab::NetworkState();
  EXPECT_NE(installed, WithoutQueue(installed));
  ASSERT_TRUE(RemoveRuleset().ok());
  const absl::StatusOr<bool> native = KernelHasNativeQueue();
  const absl::StatusOr<std::string> script = PrintRuleset(specs, true);
  ASSERT_TRUE(native.ok() && script.ok());
  const lab::Output pasted = Shell("set -e\n" + (*native ? *script : WithoutQueue(*script)));
  ASSERT_EQ(pasted.status, 0) << pasted.text << *script;
  const std::string state = lab::NetworkState();
  EXPECT_EQ(*native ? state : WithoutQueue(state), *native ? installed : WithoutQueue(installed));
}

// What the daemon does with the fast path's sets.
TEST_F(KernelTest, FastPathSets) {
  RulesetSpec spec = Dns();
  spec.fast_path = true;
  absl::StatusOr<NetlinkSocket> socket = OpenNftSocket();
  ASSERT_TRUE(socket.ok());
  EXPECT_TRUE(absl::IsNotFound(ForgetDecidedFlows(*socket)));
  EXPECT_FALSE(ReadFastPathCounters(*socket).value().has_value());
  InstalledRuleset ruleset = Installed({spec});
  EXPECT_FALSE(ForgetDecidedFlows(*socket).ok()) << "the table has another owner";

  std::vector<ListenerPlace> places = {{*Address::Parse("10.1.2.3"), 80},
                                       {*Address::Parse("2001:db8::1"), 8080}};
  for (uint16_t port = 1; port <= 1200; ++port) {  // more than fit into one message
    places.push_back({*Address::Parse("10.1.2.4"), port});
  }
  ASSERT_TRUE(ReplaceListeners(*ruleset.nft(), places).ok());
  const auto listed = [](const char* set) {
    return Shell(absl::StrCat("nft -n list set inet utproxy ", set)).text;
  };
  const std::string ipv4 = listed("listeners4"), ipv6 = listed("listeners6");
  for (const char* element : {"10.1.2.3 . 80", "10.1.2.4 . 1,", "10.1.2.4 . 1200"}) {
    EXPECT_NE(ipv4.find(element), std::string::npos) << element << ipv4;
  }
  EXPECT_EQ(ipv4.find("2001:db8::1"), std::string::npos);
  EXPECT_NE(ipv6.find("2001:db8::1 . 8080"), std::string::npos) << ipv6;
  EXPECT_NE(ipv6.find("::ffff:10.1.2.3 . 80"), std::string::npos) << ipv6;
  ASSERT_TRUE(ReplaceListeners(*ruleset.nft(), {}).ok());
  EXPECT_EQ(listed("listeners4").find("10.1.2"), std::string::npos);

  const absl::StatusOr<std::optional<FastPathCounters>> counters = ReadFastPathCounters(*socket);
  ASSERT_TRUE(counters.ok() && counters->has_value()) << counters.status();
  EXPECT_EQ((*counters)->udp, 0u);
  EXPECT_TRUE(ForgetDecidedFlows(*ruleset.nft()).ok());
  EXPECT_TRUE(ruleset.StopQueueing().ok());
}

// A packet behind the queue with the mark is learned; one without it is not, and neither is one
// that came with the mark where misses pass.
TEST_F(KernelTest, FastPathLearnsBehindTheQueue) {
  for (const bool misses_pass : {false, true}) {
    RulesetSpec spec = Dns();
    spec.fast_path = true;
    spec.misses_pass = misses_pass;
    spec.match.iifs = {"tun0"};
    const lab::Tun tun("tun0");
    const InstalledRuleset ruleset = Installed({spec});
    const std::unique_ptr<lab::TestQueue> queue = lab::TestQueue::Bind(0);
    ASSERT_NE(queue, nullptr);
    Shell(
        "nft 'add table ip m; add chain ip m c { type filter hook prerouting priority -300; }; "
        "add rule ip m c udp sport 3000 meta mark set 1'");
    for (const uint16_t sport : std::initializer_list<uint16_t>{1000, 2000, 3000}) {
      TestPacket packet{.src = "10.0.0.1", .dst = "10.0.0.2"};
      packet.sport = sport;
      ASSERT_TRUE(tun.Write(lab::Build(packet)));
      const std::unique_ptr<lab::Queued> queued = queue->Next();
      ASSERT_NE(queued, nullptr);
      queue->Accept(queued->id, sport == 2000 ? 0 : 1);
    }
    const std::string flows = Shell("nft -n list set inet utproxy flows4").text;
    EXPECT_NE(flows.find("10.0.0.1 . 1000 . 10.0.0.2 . 53"), std::string::npos) << flows;
    EXPECT_EQ(flows.find("10.0.0.1 . 2000"), std::string::npos) << flows;
    EXPECT_EQ(flows.find("10.0.0.1 . 3000") == std::string::npos, misses_pass) << flows;
    Shell("nft delete table ip m");
  }
}

// The packets of a matrix that reach queue 0, by their source port.
std::set<uint16_t> QueuedOf(const std::vector<std::pair<const lab::Tun*, TestPacket>>& packets,
                            const std::pair<const lab::Tun*, TestPacket>& last) {
  std::set<uint16_t> queued;
  const std::unique_ptr<lab::TestQueue> queue = lab::TestQueue::Bind(0);
  if (queue == nullptr) return queued;
  for (const auto& [tun, packet] : packets) {
    EXPECT_TRUE(tun->Write(lab::Build(packet)));
  }
  EXPECT_TRUE(last.first->Write(lab::Build(last.second)));
  while (const std::unique_ptr<lab::Queued> packet = queue->Next()) {
    queue->Accept(packet->id, 1);
    const uint16_t port = lab::SourcePort(packet->payload);
    if (port == last.second.sport) break;
    queued.insert(port);
  }
  return queued;
}

struct Case {
  const char *src, *dst;
  uint16_t dport;
  Proto proto;
  bool from_a, from_b;  // whether Elaborate() queues it, by interface
};
constexpr Case kCases[] = {
    {"10.0.0.2", "10.8.0.1", 53, Proto::kUdp, true, true},
    {"10.0.0.2", "10.8.0.1", 53, Proto::kTcp, false, false},
    {"10.0.0.2", "10.8.0.1", 54, Proto::kUdp, false, false},
    {"10.0.0.2", "10.8.0.1", 852, Proto::kUdp, false, false},
    {"10.0.0.2", "10.8.0.1", 853, Proto::kUdp, true, true},
    {"10.0.0.2", "10.8.0.1", 900, Proto::kUdp, true, true},
    {"10.0.0.2", "10.8.0.1", 901, Proto::kUdp, false, false},
    {"10.0.0.2", "10.9.255.255", 53, Proto::kUdp, false, false},
    {"10.0.0.2", "10.10.0.0", 53, Proto::kUdp, true, true},
    {"10.0.0.2", "10.11.0.0", 53, Proto::kUdp, false, false},
    {"2001:db8::2", "2001:db8:8::1", 53, Proto::kUdp, true, true},
    {"2001:db8::2", "2001:db8:9::1", 53, Proto::kUdp, false, false},
    {"10.0.0.2", "10.7.1.1", 80, Proto::kUdp, true, false},
    {"10.0.0.2", "10.7.1.1", 90, Proto::kTcp, true, false},
    {"10.0.0.2", "10.7.1.1", 91, Proto::kTcp, false, false},
    {"10.0.0.2", "10.5.0.1", 80, Proto::kTcp, true, false},
    {"10.0.0.2", "10.5.0.2", 80, Proto::kTcp, false, false},
    {"10.0.1.1", "10.7.1.1", 80, Proto::kTcp, false, false},
    {"10.0.1.2", "10.7.1.1", 80, Proto::kTcp, true, false},
    {"10.0.2.255", "10.7.1.1", 80, Proto::kTcp, true, false},
    {"10.0.3.0", "10.7.1.1", 80, Proto::kTcp, false, false},
    {"2001:db8:7fff::1", "2001:db8::1", 80, Proto::kTcp, true, false},
    {"2001:db8:8000::1", "2001:db8::1", 80, Proto::kTcp, false, false},
    {"2001:db9::1", "2001:db8::1", 80, Proto::kTcp, true, false},
    {"2001:db9::2", "2001:db8::1", 80, Proto::kTcp, false, false},
};

class MatchTest : public KernelTest {
 protected:
  void SetUp() override {
    KernelTest::SetUp();
    if (IsSkipped()) return;
    a_ = std::make_unique<lab::Tun>("tuna");
    b_ = std::make_unique<lab::Tun>("tunb");
  }
  // Checks every case from both interfaces.
  void ExpectCases() {
    std::vector<std::pair<const lab::Tun*, TestPacket>> packets;
    std::set<uint16_t> expected;
    for (size_t i = 0; i < std::size(kCases); ++i) {
      const Case& c = kCases[i];
      for (const bool from_a : {true, false}) {
        const auto sport = static_cast<uint16_t>(1000 + 2 * i + (from_a ? 0 : 1));
        packets.emplace_back((from_a ? a_ : b_).get(),
                             TestPacket{c.src, c.dst, sport, c.dport, c.proto});
        if (from_a ? c.from_a : c.from_b) expected.insert(sport);
      }
    }
    EXPECT_EQ(QueuedOf(packets, {a_.get(), {"10.0.0.2", "10.8.0.1", 999, 53}}), expected);
  }
  std::unique_ptr<lab::Tun> a_, b_;
};

TEST_F(MatchTest, InstalledRulesQueueWhatTheyShould) {
  const InstalledRuleset ruleset = Installed(Elaborate());
  ExpectCases();
}

TEST_F(MatchTest, PastedCommandsDoTheSame) {
  if (Shell("command -v iptables-nft ip6tables-nft").status != 0) {
    GTEST_SKIP() << "needs iptables-nft and ip6tables-nft";
  }
  const absl::StatusOr<bool> native = KernelHasNativeQueue();
  ASSERT_TRUE(native.ok());
  const absl::StatusOr<std::string> script = PrintRuleset(Elaborate(), *native);
  ASSERT_TRUE(script.ok());
  const std::string before = lab::NetworkState();
  const lab::Output pasted = Shell("set -e\n" + *script);
  ASSERT_EQ(pasted.status, 0) << pasted.text << *script;
  ExpectCases();
  // `ruleset remove` knows them; iptables' own empty tables stay as iptables leaves them.
  EXPECT_TRUE(RemoveRuleset().ok());
  EXPECT_EQ(Shell("nft list ruleset | grep -ci -e utproxy -e queue").text, "0\n");
  EXPECT_EQ(Shell("iptables-nft -t mangle -S; ip6tables-nft -t mangle -S").status, 0);
  (void)Shell("nft delete table ip mangle; nft delete table ip6 mangle");
  EXPECT_EQ(lab::NetworkState(), before);
}

// iptables commands are what is printed where nft has no queue expression, whatever this kernel.
TEST_F(MatchTest, PastedIptablesCommandsDoTheSame) {
  if (Shell("command -v iptables-nft ip6tables-nft").status != 0) {
    GTEST_SKIP() << "needs iptables-nft and ip6tables-nft";
  }
  const lab::Output pasted = Shell("set -e\n" + PrintRuleset(Elaborate(), false).value());
  if (pasted.text.find("NFQUEUE") != std::string::npos) GTEST_SKIP() << pasted.text;
  ASSERT_EQ(pasted.status, 0) << pasted.text;
  ExpectCases();
}

TEST_F(MatchTest, StopQueueingLetsPacketsPassAndKeepsWhatWaits) {
  InstalledRuleset ruleset = Installed({LocalDns()});
  const std::unique_ptr<lab::TestQueue> queue = lab::TestQueue::Bind(0);
  ASSERT_NE(queue, nullptr);
  ASSERT_TRUE(a_->Write(lab::Build({"10.0.0.2", "10.8.0.1"})));
  ASSERT_TRUE(ruleset.StopQueueing().ok());
  ASSERT_TRUE(a_->Write(lab::Build({"10.0.0.2", "10.8.0.1", 2000})));
  // One packet waits, as before, and no second one has come.
  EXPECT_EQ(Shell("awk '{print $3}' /proc/net/netfilter/nfnetlink_queue").text, "1\n");
  EXPECT_EQ(lab::SourcePort(queue->Next()->payload), 1000);
  ASSERT_TRUE(ruleset.Update({Dns()}).ok());
  ASSERT_TRUE(a_->Write(lab::Build({"10.0.0.2", "10.8.0.1", 3000})));
  EXPECT_EQ(lab::SourcePort(queue->Next()->payload), 3000);
  EXPECT_EQ(Shell("awk '{print $3}' /proc/net/netfilter/nfnetlink_queue").text, "2\n");
  EXPECT_TRUE(ruleset.Remove().ok());
  EXPECT_EQ(Shell("awk '{print $3}' /proc/net/netfilter/nfnetlink_queue").text, "0\n");
}

// Connections that conntrack knows after one datagram over lo: none where it is off.
std::string TrackedConnections() {
  return Shell("echo x > /dev/udp/127.0.0.1/9; cat /proc/sys/net/netfilter/nf_conntrack_count")
      .text;
}

TEST_F(MatchTest, FragmentsArriveWholeAndConnectionTrackingStaysOff) {
  const InstalledRuleset ruleset = Installed({Dns()});
  const std::unique_ptr<lab::TestQueue> queue = lab::TestQueue::Bind(0);
  ASSERT_NE(queue, nullptr);
  for (const TestPacket& packet :
       {TestPacket{"10.0.0.2", "10.8.0.1", 1000, 53, Proto::kUdp, 1000},
        TestPacket{"2001:db8::2", "2001:db8:8::1", 1001, 53, Proto::kUdp, 1000}}) {
    for (const std::vector<uint8_t>& fragment : lab::BuildFragments(packet)) {
      ASSERT_TRUE(a_->Write(fragment));
    }
    const std::unique_ptr<lab::Queued> queued = queue->Next();
    ASSERT_NE(queued, nullptr);
    EXPECT_EQ(queued->payload.size(), lab::Build(packet).size());
    EXPECT_EQ(lab::SourcePort(queued->payload), packet.sport);
  }
  absl::StatusOr<NetlinkSocket> socket = OpenNftSocket();
  ASSERT_TRUE(socket.ok());
  const absl::StatusOr<NftFeatures> features = ProbeNft(*socket);
  ASSERT_TRUE(features.ok());
  if (features->tproxy) {
    EXPECT_EQ(TrackedConnections(), "0\n");
  }
}

TEST_F(MatchTest, ConntrackIsTheOtherWayToWholePackets) {
  const absl::StatusOr<std::vector<Chain>> plan = CompilePlan({Dns()});
  absl::StatusOr<NetlinkSocket> socket = OpenNftSocket();
  ASSERT_TRUE(plan.ok() && socket.ok());
  const absl::StatusOr<NftFeatures> features = ProbeNft(*socket);
  ASSERT_TRUE(features.ok());
  if (!features->ct) GTEST_SKIP() << "this kernel has no nft ct expression";
  const NftInstall install{
      kRunComment, false, false, {.native_queue = features->native_queue, .tproxy_defrag = false}};
  ASSERT_TRUE(InstallTable(*socket, *plan, install).ok());
  const std::unique_ptr<lab::TestQueue> queue = lab::TestQueue::Bind(0);
  ASSERT_NE(queue, nullptr);
  const TestPacket packet{"10.0.0.2", "10.8.0.1", 1000, 53, Proto::kUdp, 1000};
  for (const std::vector<uint8_t>& fragment : lab::BuildFragments(packet)) {
    ASSERT_TRUE(a_->Write(fragment));
  }
  const std::unique_ptr<lab::Queued> queued = queue->Next();
  ASSERT_NE(queued, nullptr);
  EXPECT_EQ(queued->payload.size(), lab::Build(packet).size());
  EXPECT_NE(TrackedConnections(), "0\n");
}

}  // namespace
}  // namespace utproxy
