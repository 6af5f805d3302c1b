// SPDX-License-Identifier: GPL-3.0-or-later
#include "config.h"

#include <gtest/gtest.h>

#include <fstream>

#include "options.h"

namespace utproxy::tools {
namespace {

std::vector<std::string> MistakesIn(const std::string& text, bool install = false) {
  std::vector<Mistake> mistakes;
  (void)ParseConfig(text, "f", install, &mistakes);
  std::vector<std::string> lines;
  for (const Mistake& mistake : mistakes) lines.push_back(mistake.ToString("f"));
  return lines;
}

Configuration Parsed(const std::string& text, bool install = false) {
  std::vector<Mistake> mistakes;
  Configuration configuration = ParseConfig(text, "f", install, &mistakes);
  for (const Mistake& mistake : mistakes) ADD_FAILURE() << mistake.ToString("f");
  return configuration;
}

using Lines = std::vector<std::string>;

TEST(Config, SaysWhatTheOptionsSay) {
  const Configuration c = Parsed(R"(
log_level = "error"
control = "/run/x"
steer = "none"
[[target]]
name = "dns"
queues = "2:3"
on_port = 1090
on_ip = ["10.0.0.1", "fd00::1"]
mark = 0x1
on_miss = "accept"
queue_maxlen = 100
fail_open = true
queue_bypass = false
cpu = "0,2-3"
install = true
table = 7
fast_path = "divert"
divert_replies = true
exclude_uid = [1, 2]
local_output = true
match = { proto = ["udp"], dport = [53, "80-90"], iif = "lan0", not_src = "10.0.0.0/8" }
)");
  EXPECT_EQ(c.daemon.log_level, LogLevel::kError);
  EXPECT_EQ(c.daemon.control, "/run/x");
  EXPECT_EQ(c.daemon.steer, SteerMode::kNone);
  ASSERT_EQ(c.targets.size(), 1u);
  const Target& t = c.targets[0];
  EXPECT_EQ(t.name, "dns");
  EXPECT_EQ(t.ruleset.name, "dns");
  EXPECT_EQ(t.queue_first, 2);
  EXPECT_EQ(t.ruleset.queue_last, 3);
  EXPECT_EQ(t.policy.on_port, 1090);
  EXPECT_EQ(t.policy.on_ip4.ToString(Family::kIpv4), "10.0.0.1");
  EXPECT_EQ(t.policy.on_ip6.ToString(Family::kIpv6), "fd00::1");
  EXPECT_EQ(t.policy.mark_value, 1u);
  EXPECT_EQ(t.ruleset.mark_mask, 0xffffffffu);
  EXPECT_EQ(t.policy.on_miss, OnMiss::kAccept);
  EXPECT_EQ(t.queue.maxlen, 100u);
  EXPECT_TRUE(t.queue.fail_open);
  EXPECT_FALSE(t.ruleset.queue_bypass);
  EXPECT_EQ(t.cpus, (std::vector<int>{0, 2, 3}));
  EXPECT_TRUE(t.install);
  EXPECT_EQ(t.ruleset.route_table, 7u);
  EXPECT_TRUE(t.ruleset.fast_path);
  EXPECT_TRUE(t.ruleset.divert_replies);
  EXPECT_EQ(t.ruleset.exclude_uids, (std::vector<uint32_t>{1, 2}));
  ASSERT_EQ(t.ruleset.match.dports.size(), 2u);
  EXPECT_EQ(t.ruleset.match.dports[1].last, 90);
  EXPECT_EQ(t.ruleset.match.protos, std::vector<Proto>{Proto::kUdp});
  EXPECT_EQ(t.ruleset.match.iifs, std::vector<std::string>{"lan0"});
  EXPECT_EQ(t.ruleset.match.not_src.size(), 1u);
  EXPECT_TRUE(c.warnings.empty());
}

TEST(Config, WhatStandsOnTopIsForTargetsThatSayNothing) {
  const Configuration c = Parsed(R"(
table = 7
on_port = 5
install = true
[[target]]
name = "a"
mark = "1/1"
[[target]]
name = "b"
queues = 1
install = false
on_port = 6
)");
  ASSERT_EQ(c.targets.size(), 2u);
  EXPECT_EQ(c.targets[0].policy.on_port, 5);
  EXPECT_EQ(c.targets[0].ruleset.route_table, 7u);
  EXPECT_TRUE(c.targets[0].install);
  EXPECT_EQ(c.targets[1].policy.on_port, 6);
  EXPECT_FALSE(c.targets[1].install);
}

TEST(Config, InstallOfTheCommandLineIsForTargetsThatSayNothing) {
  const char text[] =
      "[[target]]\nname='a'\nmark=1\n[[target]]\nname='b'\nqueues=1\ninstall=false\n";
  const Configuration c = Parsed(text, true);
  EXPECT_TRUE(c.targets[0].install);
  EXPECT_FALSE(c.targets[1].install);
}

TEST(Config, EveryMistakeHasItsPlace) {
  EXPECT_EQ(MistakesIn("log_level = 'loud'\n[[target]]\n  on_port = 70000\n"),
            (Lines{"f:1:13: log_level loud: must be error, warning or info",
                   "f:3:13: on_port 70000: port must be 0 to 65535"}));
}

TEST(Config, UnknownKeysNameTheNearestOrWhereTheyBelong) {
  EXPECT_EQ(
      MistakesIn("[[target]]\non_prot = 1\ncontrol = '/x'\ndport = 1\nmatch = {prto='tcp'}\n"),
      (Lines{"f:2:1: on_prot: unknown key: the nearest one is on_port",
             "f:3:1: control: belongs to the daemon: put it in front of the first [[target]]",
             "f:4:1: dport: belongs into match = {...}",
             "f:5:10: prto: unknown key: the nearest one is proto"}));
  EXPECT_EQ(MistakesIn("queues = 1\n[[target]]\n"),
            (Lines{"f:1:1: queues: belongs into a [[target]]"}));
}

TEST(Config, TargetsThatDoNotGoTogether) {
  EXPECT_EQ(MistakesIn(R"([[target]]
name = "a"
queues = "0:3"
install = true
mark = "0x1/0x1"
[[target]]
name = "a"
queues = "3:4"
install = true
mark = "0x1/0x3"
table = 101
)"),
            (Lines{"f:7:8: name a: is that of the target in line 1 already",
                   "f:8:10: queues 3:4: queue 3 is read for target a (line 1) already",
                   "f:10:8: mark 0x1/0x3: cannot be told from 0x1/0x1 of target a (line 1), which "
                   "leads to table 100 instead of 101"}));
  EXPECT_EQ(MistakesIn("[[target]]\nname='a'\n[[target]]\nqueues=1\n"),
            (Lines{"f:3:1: target: has no name, which it needs beside others"}));
}

TEST(Config, SameMarkAndTableGoTogether) {
  const char text[] =
      "install=true\nmark=1\n[[target]]\nname='a'\n[[target]]\nname='b'\nqueues=1\n";
  EXPECT_TRUE(MistakesIn(text).empty());
  // As do marks that have nothing in common, whatever their tables.
  EXPECT_TRUE(MistakesIn("install=true\n[[target]]\nname='a'\nmark='1/1'\n"
                         "[[target]]\nname='b'\nqueues=1\nmark='2/2'\ntable=7\n")
                  .empty());
}

TEST(Config, WhatTheKernelCouldNotDoIsSaidWithItsPlace) {
  const Lines lines = MistakesIn("[[target]]\ninstall = true\nmark = '0x2/0x1'\n");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_TRUE(lines[0].starts_with("f:3:8: mark 0x2/0x1: has no bit set inside its mask"));
}

TEST(Config, WrongTypes) {
  EXPECT_EQ(
      MistakesIn("[[target]]\non_port = 1.5\nfail_open = 1\ncpu = [1]\nmatch = 3\n"),
      (Lines{"f:2:11: on_port: must be PORT[,PORT...], a string or an integer, and not a floating "
             "point number",
             "f:3:13: fail_open: must be true or false, and not an integer",
             "f:4:7: cpu: must be one value, and not an array",
             "f:5:9: match: must be a table such as { proto = \"udp\", dport = 53 }, and not "
             "an integer"}));
  EXPECT_EQ(MistakesIn("[target]\nname = 'a'\n"),
            (Lines{"f:1:1: target: must be [[target]], with two brackets"}));
}

TEST(Config, AnEmptyArrayIsNoValue) {
  EXPECT_EQ(MistakesIn("[[target]]\non_port = []\nexclude_uid = []\nmatch = { iif = [] }\n"),
            (Lines{"f:2:11: on_port: must be at least one value, and not an empty array",
                   "f:3:15: exclude_uid: must be at least one value, and not an empty array",
                   "f:4:17: iif: must be at least one value, and not an empty array"}));
}

// Of those alone that a worker is for.
TEST(Config, CpusThatThereAreNot) {
  const Configuration c = Parsed(
      "[[target]]\nname = 'a'\nqueues = '0:1'\ncpu = '0-9'\n[[target]]\nname = 'b'\n"
      "queues = '2:9'\ncpu = '0-9'\n");
  const auto below = [](int most) { return [most](int cpu) { return cpu < most; }; };
  EXPECT_TRUE(CheckCpus(c, "f", below(8)).ok());
  const absl::Status one = CheckCpus(c, "f", below(2));
  EXPECT_TRUE(IsUsageError(one));
  EXPECT_EQ(one.message(), "f:8:7: cpu 2: must be online, and in this process's cpuset");
  const absl::Status both = CheckCpus(c, "f", below(0));
  EXPECT_EQ(both.message(), "f:4:7: cpu 0: must be online, and in this process's cpuset");
  EXPECT_EQ(MoreErrorsOf(both).size(), 1u);
}

TEST(Config, ErrorsNameOptionsAsTheFileDoes) {
  EXPECT_EQ(MistakesIn("[[target]]\nqueue_num = 1\nqueues = 2\nqueue_balance = '3:4'\n"),
            (Lines{"f:2:13: queue_num 1: excludes queue_balance",
                   "f:3:10: queues 2: excludes queue_balance"}));
  EXPECT_EQ(MistakesIn("[[target]]\nmatch = { src = '10.0.0.0/8', dst = 'fd00::/8' }\n"),
            (Lines{"f:2:37: dst fd00::/8: not of the family of src 10.0.0.0/8"}));
}

TEST(Config, WhatIsNoTomlIsSaidOnce) {
  EXPECT_EQ(MistakesIn("a = = 1").size(), 1u);
  EXPECT_EQ(MistakesIn("a = '\xff'").size(), 1u);
  EXPECT_EQ(MistakesIn(""), (Lines{"f:1:1: no [[target]]: nothing says what to do with packets"}));
  EXPECT_EQ(MistakesIn("target = []").size(), 1u);
}

TEST(Config, NothingReachesATerminalAsItIs) {
  for (const std::string& line :
       MistakesIn("[[target]]\nname = \"\\u001b[2J\"\n\"\\u0007\" = 1\n")) {
    EXPECT_EQ(line.find('\x1b'), std::string::npos) << line;
    EXPECT_EQ(line.find('\x07'), std::string::npos) << line;
  }
}

TEST(Config, MatchWithoutInstallIsWarnedOf) {
  EXPECT_EQ(Parsed("[[target]]\nmatch = { dport = 53 }\n").warnings,
            (Lines{"f:2:19: dport: without install = true it is only what you say of your own "
                   "rules"}));
}

TEST(Config, TargetsByName) {
  const Configuration c = Parsed("[[target]]\nname='a'\n[[target]]\nname='b'\nqueues=1\n");
  EXPECT_EQ(TargetNamed(c, "b")->queue_first, 1);
  EXPECT_EQ(TargetNamed(c, "c").status().message(),
            "--target c: not in the configuration, which has a, b");
  EXPECT_FALSE(TargetNamed(c, "").ok());
  EXPECT_EQ(TargetNamed(Parsed("[[target]]\n"), "")->name, "default");
}

TEST(Config, FilesThatCannotBeRead) {
  const std::string path = testing::TempDir() + "/utp-config.toml";
  std::ofstream(path) << std::string(kMaxConfigBytes + 1, '#');
  EXPECT_EQ(LoadConfig(path, false).status().message(),
            path + ": too large: more than 1048576 bytes");
  EXPECT_EQ(LoadConfig("/", false).status().message(), "/: not a regular file");
  EXPECT_EQ(LoadConfig("/nonexistent/x", false).status().message(),
            "/nonexistent/x: No such file or directory");
  std::remove(path.c_str());
}

}  // namespace
}  // namespace utproxy::tools
