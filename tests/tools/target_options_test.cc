// SPDX-License-Identifier: GPL-3.0-or-later
#include "target_options.h"

#include <gtest/gtest.h>

namespace utproxy::tools {
namespace {

struct Parsed {
  TargetOptions options;
  std::string error;
  const Target& target() const { return options.target; }
};

std::unique_ptr<Parsed> Parse(std::vector<std::string> args) {
  auto parsed = std::make_unique<Parsed>();
  OptionTable table;
  parsed->options.AddPolicy(table);
  parsed->options.AddQueueNumbers(table);
  parsed->options.AddQueueRule(table);
  parsed->options.AddQueueTuning(table);
  parsed->options.AddMatch(table);
  absl::Status status = table.Parse(args);
  if (status.ok()) status = parsed->options.Finish();
  EXPECT_TRUE(status.ok() || IsUsageError(status));
  parsed->error = std::string(status.message());
  return parsed;
}

std::string Error(std::vector<std::string> args) { return Parse(std::move(args))->error; }

TEST(TargetOptions, Defaults) {
  const auto p = Parse({});
  ASSERT_EQ(p->error, "");
  EXPECT_EQ(p->target().name, "default");
  EXPECT_EQ(p->target().policy.on_port, 0);
  EXPECT_EQ(p->target().policy.Remark(0x1234), 0x1234u) << "no --tproxy-mark leaves the mark";
  EXPECT_EQ(p->target().policy.on_miss, OnMiss::kDrop);
  EXPECT_EQ(p->target().queue_first, 0);
  EXPECT_EQ(p->target().queue_last, 0);
  EXPECT_EQ(p->target().ruleset.route_table, 100u);
  EXPECT_FALSE(p->options.mark_given());
  EXPECT_FALSE(p->options.queues_given());
  EXPECT_EQ(p->options.first_install_option(), "");
}

TEST(TargetOptions, SeveralOnPorts) {
  const auto list = Parse(
      {"--on-port", "1090,1091", "--on-port=1092", "--backup-port", "2000", "--spread", "flow"});
  ASSERT_EQ(list->error, "");
  const SpreadSpec wanted{.ports = {1090, 1091, 1092}, .backups = {2000}, .by = SpreadBy::kFlow};
  EXPECT_EQ(list->target().spread, wanted);
  EXPECT_EQ(list->target().policy.on_port, 1090);
  EXPECT_TRUE(list->options.policy_given());
  const auto with_backup = Parse({"--on-port", "1090", "--backup-port", "2000"});
  EXPECT_TRUE(with_backup->target().spread.active());
  const auto one = Parse({"--on-port", "1090"});
  EXPECT_FALSE(one->target().spread.active());
  EXPECT_EQ(one->target().policy.on_port, 1090);
}

TEST(TargetOptions, SeveralOnPortsThatDoNotGoTogether) {
  EXPECT_EQ(Error({"--on-port", "1090,70000"}), "--on-port 1090,70000: port must be 0 to 65535");
  EXPECT_EQ(Error({"--on-port", "1090,"}), "--on-port 1090,: port must be 0 to 65535");
  EXPECT_EQ(Error({"--on-port", "1090,1090"}), "--on-port 1090,1090: port 1090 is named already");
  EXPECT_EQ(Error({"--on-port", "1090", "--backup-port", "1090"}),
            "--backup-port 1090: port 1090 is named already");
  EXPECT_EQ(Error({"--on-port", "0,1090"}),
            "--on-port 0: the packet's own port goes with no others");
  EXPECT_EQ(Error({"--backup-port", "1090"}), "--backup-port: has a meaning only with --on-port");
  EXPECT_EQ(Error({"--on-port", "1090", "--spread", "client"}),
            "--spread: has a meaning only with several of --on-port");
  EXPECT_EQ(Error({"--on-port", "1,2", "--spread", "random"}),
            "--spread random: must be client or flow");
  std::string many = "1";
  for (int port = 2; port <= 65; ++port) many += "," + std::to_string(port);
  EXPECT_EQ(Error({"--on-port", many}),
            "--on-port " + many + ": more than 64 ports, backups included");
}

TEST(TargetOptions, Policy) {
  const auto p = Parse({"--on-port", "1090", "--on-ip", "192.0.2.1", "--on-ip", "2001:db8::1",
                        "--tproxy-mark", "0x1/0xff", "--on-miss=accept"});
  ASSERT_EQ(p->error, "");
  const Policy& policy = p->target().policy;
  EXPECT_EQ(policy.on_port, 1090);
  EXPECT_EQ(policy.on_ip4, *Address::Parse("192.0.2.1"));
  EXPECT_EQ(policy.on_ip6, *Address::Parse("2001:db8::1"));
  EXPECT_EQ(policy.mark_value, 1u);
  EXPECT_EQ(policy.mark_mask, 0xffu);
  EXPECT_EQ(policy.on_miss, OnMiss::kAccept);
  EXPECT_EQ(p->target().ruleset.mark_value, 1u);
  EXPECT_EQ(p->target().ruleset.mark_mask, 0xffu);
  EXPECT_TRUE(p->options.mark_given());
}

TEST(TargetOptions, MarksAreReadAsIptablesReadsThem) {
  const auto mark = [](const char* text) {
    const auto p = Parse({"--tproxy-mark", text});
    EXPECT_EQ(p->error, "") << text;
    return std::pair(p->target().policy.mark_value, p->target().policy.mark_mask);
  };
  EXPECT_EQ(mark("1"), std::pair(1u, 0xffffffffu));
  EXPECT_EQ(mark("0x10/0XF0"), std::pair(0x10u, 0xf0u));
  EXPECT_EQ(mark("010"), std::pair(8u, 0xffffffffu));
  EXPECT_EQ(mark("0/0"), std::pair(0u, 0u));
  EXPECT_EQ(mark("0xffffffff"), std::pair(0xffffffffu, 0xffffffffu));
  EXPECT_EQ(mark("0xff00/0xff"), std::pair(0xff00u, 0xffu)) << "bits outside the mask are allowed";
}

TEST(TargetOptions, WrongPolicies) {
  EXPECT_EQ(Error({"--on-port", "70000"}), "--on-port 70000: port must be 0 to 65535");
  EXPECT_EQ(Error({"--on-port=-1"}), "--on-port -1: port must be 0 to 65535");
  EXPECT_EQ(Error({"--on-port", "+1"}), "--on-port +1: port must be 0 to 65535");
  EXPECT_EQ(Error({"--on-port", " 1"}), "--on-port  1: port must be 0 to 65535");
  EXPECT_EQ(Error({"--on-port", ""}), "--on-port : port must be 0 to 65535");
  EXPECT_EQ(Error({"--on-port", "99999999999999999999"}),
            "--on-port 99999999999999999999: port must be 0 to 65535");
  EXPECT_EQ(Error({"--on-ip", "1.2.3"}),
            "--on-ip 1.2.3: must be an address such as 192.0.2.1 or 2001:db8::1");
  EXPECT_EQ(Error({"--on-ip", "::ffff:1.2.3.4"}),
            "--on-ip ::ffff:1.2.3.4: is an IPv4-mapped address; write it as IPv4");
  EXPECT_EQ(Error({"--on-ip", "1.2.3.4", "--on-ip", "1.2.3.5"}),
            "--on-ip 1.2.3.5: there is an IPv4 address already");
  EXPECT_EQ(Error({"--on-ip", "::", "--on-ip", "::1"}),
            "--on-ip ::1: there is an IPv6 address already");
  EXPECT_EQ(Error({"--on-miss", "reject"}), "--on-miss reject: must be drop or accept");
  for (const char* text : {"0x100000000", "4294967296", "1/0x100000000", "99999999999999999999",
                           "0xfffffffffffffffffffff", "077777777777"}) {
    EXPECT_EQ(Error({"--tproxy-mark", text}),
              std::string("--tproxy-mark ") + text + ": mark does not fit 32 bits");
  }
  for (const char* text : {"", "x", "0x", "1/", "/1", "08", "-1", "1/2/3", "0x1 "}) {
    EXPECT_EQ(Error({"--tproxy-mark", text}),
              std::string("--tproxy-mark ") + text +
                  ": mark must be a number such as 1, 0x1 or 0x1/0xff");
  }
}

TEST(TargetOptions, Queues) {
  auto p = Parse({"--queue-num", "7", "--queue-bypass", "--queue-cpu-fanout"});
  ASSERT_EQ(p->error, "");
  EXPECT_EQ(p->target().queue_first, 7);
  EXPECT_EQ(p->target().queue_last, 7);
  EXPECT_EQ(p->target().ruleset.queue_first, 7);
  EXPECT_TRUE(p->target().ruleset.queue_bypass);
  EXPECT_TRUE(p->target().ruleset.queue_cpu_fanout);
  EXPECT_TRUE(p->options.queues_given());
  EXPECT_EQ(p->options.first_install_option(), "--queue-bypass");
  p = Parse({"--queue-balance=2:5", "--queue-maxlen", "50000", "--copy-range", "128", "--rcvbuf",
             "1000000", "--fail-open", "--cpu", "1,0,4-6"});
  ASSERT_EQ(p->error, "");
  EXPECT_EQ(p->target().queue_first, 2);
  EXPECT_EQ(p->target().queue_last, 5);
  EXPECT_EQ(p->target().ruleset.queue_last, 5);
  EXPECT_EQ(p->target().queue.maxlen, 50000u);
  EXPECT_EQ(p->target().queue.copy_range, 128u);
  EXPECT_EQ(p->target().queue.rcvbuf, 1000000);
  EXPECT_TRUE(p->target().queue.fail_open);
  EXPECT_EQ(p->target().cpus, (std::vector<int>{1, 0, 4, 5, 6}));
}

TEST(TargetOptions, Fail) {
  auto p = Parse({"--on-port", "1"});
  EXPECT_FALSE(p->target().ruleset.outlives);
  p = Parse({"--fail", "closed"});
  ASSERT_EQ(p->error, "");
  EXPECT_TRUE(p->target().ruleset.outlives);
  EXPECT_FALSE(p->target().queue.fail_open || p->target().ruleset.queue_bypass);
  EXPECT_FALSE(p->target().ruleset.misses_pass);
  p = Parse({"--fail", "open"});
  ASSERT_EQ(p->error, "");
  EXPECT_FALSE(p->target().ruleset.outlives);
  EXPECT_TRUE(p->target().queue.fail_open && p->target().ruleset.queue_bypass);
  EXPECT_TRUE(p->target().ruleset.misses_pass);
  EXPECT_EQ(Error({"--fail", "shut"}), "--fail shut: must be closed or open");
  EXPECT_EQ(Error({"--fail-open", "--fail", "closed"}), "--fail closed: excludes --fail-open");
  EXPECT_EQ(Error({"--fail", "closed", "--queue-bypass"}),
            "--fail closed: excludes --queue-bypass");
}

TEST(TargetOptions, WrongQueues) {
  EXPECT_EQ(Error({"--queue-num", "65536"}), "--queue-num 65536: queue number must be 0 to 65535");
  EXPECT_EQ(Error({"--queue-balance", "1"}),
            "--queue-balance 1: queues must be a range N:M such as 0:3");
  EXPECT_EQ(Error({"--queue-balance", "3:1"}),
            "--queue-balance 3:1: range 3:1 is the wrong way round: first must not be over last");
  EXPECT_EQ(Error({"--queue-balance", "0:65536"}),
            "--queue-balance 0:65536: queue number must be 0 to 65535");
  EXPECT_EQ(Error({"--queue-balance", "0:1:2"}),
            "--queue-balance 0:1:2: queue number must be 0 to 65535");
  EXPECT_EQ(Error({"--queue-num", "1", "--queue-balance", "0:1"}),
            "--queue-balance 0:1: excludes --queue-num");
  EXPECT_EQ(Error({"--queue-balance", "0:1", "--queue-num", "1"}),
            "--queue-num 1: excludes --queue-balance");
  EXPECT_EQ(Error({"--queue-maxlen", "0"}),
            "--queue-maxlen 0: queue length must be 1 to 4294967295");
  EXPECT_EQ(Error({"--copy-range", "40"}), "--copy-range 40: copy range must be 80 to 65531");
  EXPECT_EQ(Error({"--copy-range", "65532"}), "--copy-range 65532: copy range must be 80 to 65531");
  EXPECT_EQ(Error({"--rcvbuf", "2147483648"}),
            "--rcvbuf 2147483648: buffer size must be 0 to 2147483647");
  EXPECT_EQ(Error({"--cpu", "1024"}), "--cpu 1024: cpu must be 0 to 1023");
  EXPECT_EQ(Error({"--cpu", "1,"}), "--cpu 1,: cpu must be 0 to 1023");
  EXPECT_EQ(Error({"--fail-open=1"}), "--fail-open=1: takes no value");
}

TEST(TargetOptions, MatchAndOutput) {
  const auto p = Parse({"--proto",
                        "udp",
                        "--proto=tcp",
                        "--dport",
                        "53,1000-2000",
                        "--dport",
                        "80",
                        "--iif",
                        "lan0",
                        "--src",
                        "10.0.0.0/8",
                        "--dst",
                        "192.0.2.1",
                        "--not-src",
                        "10.1.0.0/16",
                        "--not-dst",
                        "2001:db8::/32",
                        "--table",
                        "7",
                        "--local-output",
                        "--exclude-mark",
                        "0x10/0xf0",
                        "--exclude-uid",
                        "1234",
                        "--exclude-uid",
                        "root",
                        "--exclude-cgroup",
                        "/system.slice/proxy.service"});
  ASSERT_EQ(p->error, "");
  const RulesetSpec& spec = p->target().ruleset;
  EXPECT_EQ(spec.match.protos, (std::vector<Proto>{Proto::kUdp, Proto::kTcp}));
  ASSERT_EQ(spec.match.dports.size(), 3u);
  EXPECT_EQ(spec.match.dports[0].first, 53);
  EXPECT_EQ(spec.match.dports[0].last, 53);
  EXPECT_EQ(spec.match.dports[1].last, 2000);
  EXPECT_EQ(spec.match.dports[2].first, 80);
  EXPECT_EQ(spec.match.iifs, std::vector<std::string>{"lan0"});
  ASSERT_EQ(spec.match.src.size() + spec.match.not_src.size() + spec.match.not_dst.size(), 3u);
  EXPECT_EQ(CidrToString(spec.match.src[0]), "10.0.0.0/8");
  EXPECT_EQ(CidrToString(spec.match.dst[0]), "192.0.2.1");
  EXPECT_EQ(CidrToString(spec.match.not_src[0]), "10.1.0.0/16");
  EXPECT_EQ(CidrToString(spec.match.not_dst[0]), "2001:db8::/32");
  EXPECT_EQ(spec.route_table, 7u);
  EXPECT_TRUE(spec.local_output);
  ASSERT_EQ(spec.exclude_marks.size(), 1u);
  EXPECT_EQ(spec.exclude_marks[0].value, 0x10u);
  EXPECT_EQ(spec.exclude_marks[0].mask, 0xf0u);
  EXPECT_EQ(spec.exclude_uids, (std::vector<uint32_t>{1234, 0}));
  EXPECT_EQ(spec.exclude_cgroups, std::vector<std::string>{"system.slice/proxy.service"});
  EXPECT_EQ(p->options.first_install_option(), "--proto");
}

TEST(TargetOptions, WrongMatches) {
  EXPECT_EQ(Error({"--proto", "icmp"}), "--proto icmp: protocol must be tcp or udp");
  EXPECT_EQ(Error({"--dport", "53,"}), "--dport 53,: port must be 0 to 65535");
  EXPECT_EQ(Error({"--dport", "1-"}), "--dport 1-: port must be 0 to 65535");
  EXPECT_EQ(Error({"--dport", "2-1"}),
            "--dport 2-1: range 2-1 is the wrong way round: first must not be over last");
  const std::string name_error =
      ": interface name must have 1 to 15 characters, without blanks, ':' and '/'";
  for (const char* name : {"", "a b", "a/b", "a:b", ".", "..", "sixteencharacter"}) {
    EXPECT_EQ(Error({"--iif", name}), std::string("--iif ") + name + name_error);
  }
  EXPECT_EQ(Error({"--iif", "fifteencharacte"}), "");
  EXPECT_EQ(Error({"--src", "10.0.0.1/8"}),
            "--src 10.0.0.1/8: must be an address or a prefix such as 10.0.0.0/8, with no bits set "
            "beyond its length");
  EXPECT_EQ(Error({"--src", "10.0.0.0/8", "--dst", "2001:db8::/32"}),
            "--dst 2001:db8::/32: not of the family of --src 10.0.0.0/8");
  EXPECT_EQ(Error({"--src", "10.0.0.0/8", "--dst", "2001:db8::/32", "--dst", "192.0.2.1"}), "");
  EXPECT_EQ(Error({"--table", "0"}), "--table 0: table must be 1 to 4294967295");
  EXPECT_EQ(Error({"--table", "254"}), "--table 254: tables 253 to 255 are the system's own");
  EXPECT_EQ(Error({"--exclude-mark", "2/1"}),
            "--exclude-mark 2/1: mark has bits outside of its mask and would never match");
  EXPECT_EQ(Error({"--exclude-uid", "no such user"}),
            "--exclude-uid no such user: no user of this name, and not a user number");
  EXPECT_EQ(Error({"--exclude-uid", "4294967295"}),
            "--exclude-uid 4294967295: no user of this name, and not a user number");
  for (const char* path : {"", "/", "a//b", "../a", "a/./b"}) {
    EXPECT_EQ(Error({"--exclude-cgroup", path}),
              std::string("--exclude-cgroup ") + path +
                  ": must be a path below the cgroup v2 root such as system.slice/proxy.service");
  }
  EXPECT_EQ(Error({"--exclude-uid", "0"}), "--exclude-uid: has a meaning only with --local-output");
  EXPECT_EQ(Error({"--exclude-mark", "1"}),
            "--exclude-mark: has a meaning only with --local-output");
  EXPECT_EQ(Error({"--exclude-cgroup", "a"}),
            "--exclude-cgroup: has a meaning only with --local-output");
}

}  // namespace
}  // namespace utproxy::tools
