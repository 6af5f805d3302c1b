// SPDX-License-Identifier: GPL-3.0-or-later
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
#include <net/if.h>      // before the tables' headers
// clang-format on

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/netfilter.h>
#include <linux/netfilter/xt_tcpudp.h>
#include <linux/netfilter_ipv4/ip_tables.h>

#include <cstring>
#include <random>

#include "diagnose/fixes.h"
#include "diagnose/legacy_reader.h"

namespace utproxy {
namespace {

using Bytes = std::vector<uint8_t>;

template <typename T>
void Append(Bytes* bytes, const T& value) {
  // By resize: of insert at the end of an empty vector, g++ 12 with TSan says that it overflows.
  const size_t at = bytes->size();
  bytes->resize(at + sizeof value);
  std::memcpy(bytes->data() + at, &value, sizeof value);
}

Bytes Verdict(int32_t verdict) {
  xt_entry_target target{};
  target.u.user.target_size = sizeof target + 8;
  Bytes bytes;
  Append(&bytes, target);
  Append(&bytes, verdict);
  bytes.resize(sizeof target + 8);
  return bytes;
}

Bytes Head(const char* name) {
  xt_entry_target target{};
  std::strcpy(target.u.user.name, XT_ERROR_TARGET);
  target.u.user.target_size = sizeof target + 32;
  Bytes bytes;
  Append(&bytes, target);
  bytes.resize(sizeof target + 32);
  std::strcpy(reinterpret_cast<char*>(bytes.data()) + sizeof target, name);
  return bytes;
}

Bytes TcpPort(uint16_t port) {
  xt_entry_match match{};
  std::strcpy(match.u.user.name, "tcp");
  match.u.user.match_size = sizeof match + 16;
  xt_tcp tcp{};
  tcp.spts[1] = 0xffff;
  tcp.dpts[0] = tcp.dpts[1] = port;
  Bytes bytes;
  Append(&bytes, match);
  Append(&bytes, tcp);
  bytes.resize(sizeof match + 16);
  return bytes;
}

Bytes Entry(ipt_ip ip, const Bytes& matches, const Bytes& target) {
  ipt_entry entry{};
  entry.ip = ip;
  entry.target_offset = static_cast<__u16>(sizeof entry + matches.size());
  entry.next_offset = static_cast<__u16>(entry.target_offset + target.size());
  Bytes bytes;
  Append(&bytes, entry);
  bytes.insert(bytes.end(), matches.begin(), matches.end());
  bytes.insert(bytes.end(), target.begin(), target.end());
  return bytes;
}

struct Made {
  LegacyTable table;
  Bytes bytes;
};

// -A PREROUTING -i lan+ -s 10.77.0.0/16 ! -d 192.0.2.1 -p tcp --dport 8080 -j some, policy DROP;
// -A some -j RETURN.
Made Table() {
  ipt_ip ip{};
  std::strcpy(ip.iniface, "lan+");
  std::memset(ip.iniface_mask, 0xff, 3);
  ip.src.s_addr = htonl(0x0a4d0000);
  ip.smsk.s_addr = htonl(0xffff0000);
  ip.dst.s_addr = htonl(0xc0000201);
  ip.dmsk.s_addr = htonl(0xffffffff);
  ip.invflags = IPT_INV_DSTIP;
  ip.proto = IPPROTO_TCP;
  const size_t rule = Entry(ip, TcpPort(8080), Verdict(0)).size();
  const size_t plain = Entry({}, {}, Verdict(0)).size(), head = Entry({}, {}, Head("some")).size();
  const size_t some = rule + plain + head;
  Made made;
  const auto add = [&](const Bytes& more) {
    made.bytes.insert(made.bytes.end(), more.begin(), more.end());
  };
  add(Entry(ip, TcpPort(8080), Verdict(static_cast<int32_t>(some))));
  add(Entry({}, {}, Verdict(-NF_DROP - 1)));
  add(Entry({}, {}, Head("some")));
  add(Entry({}, {}, Verdict(XT_RETURN)));
  add(Entry({}, {}, Head("ERROR")));
  made.table.name = "mangle";
  made.table.hooks = 1 << NF_INET_PRE_ROUTING;
  made.table.underflow[0] = static_cast<uint32_t>(rule);
  return made;
}

TEST(Legacy, ReadsATable) {
  const Made made = Table();
  RulesetFacts facts;
  DecodeLegacyTable(made.table, made.bytes, &facts);
  ASSERT_EQ(facts.chains.size(), 2u);
  const ChainFacts& base = facts.chains[0];
  EXPECT_EQ(base.table, "legacy mangle");
  EXPECT_EQ(base.name, "PREROUTING");
  EXPECT_EQ(base.hook, NF_INET_PRE_ROUTING);
  EXPECT_EQ(base.priority, -150);
  EXPECT_TRUE(base.policy_drop);
  ASSERT_EQ(base.rules.size(), 1u);
  const RuleFacts& rule = base.rules[0];
  EXPECT_EQ(rule.verdict, RuleVerdict::kJump);
  EXPECT_EQ(rule.jump_to, "some");
  ASSERT_EQ(rule.conditions.size(), 5u);
  EXPECT_EQ(rule.conditions[0].addresses[0].first, *Address::Parse("10.77.0.0"));
  EXPECT_EQ(rule.conditions[0].addresses[0].last, *Address::Parse("10.77.255.255"));
  EXPECT_TRUE(rule.conditions[1].negated);
  EXPECT_EQ(rule.conditions[2].names, std::vector<std::string>{"lan*"});
  EXPECT_EQ(rule.conditions[3].numbers[0].first, uint64_t{IPPROTO_TCP});
  EXPECT_EQ(rule.conditions[4].numbers[0].last, 8080u);
  EXPECT_EQ(facts.chains[1].name, "some");
  EXPECT_EQ(facts.chains[1].hook, kNoHook);
  EXPECT_EQ(facts.chains[1].rules[0].verdict, RuleVerdict::kReturn);
  EXPECT_EQ(DeleteRule({base.family, base.table, base.name, rule.handle, false}),
            "iptables-legacy -t mangle -D PREROUTING 1");
}

TEST(Legacy, OutlivesAnyBytes) {
  const Made made = Table();
  for (size_t size = 0; size < made.bytes.size(); ++size) {
    RulesetFacts facts;
    DecodeLegacyTable(made.table, absl::MakeSpan(made.bytes).subspan(0, size), &facts);
    EXPECT_LE(facts.chains.size(), 2u);
  }
  std::mt19937 random(6);
  for (int round = 0; round < 20000; ++round) {
    Made changed = made;
    for (int i = 0; i < 3; ++i) {
      changed.bytes[random() % changed.bytes.size()] = static_cast<uint8_t>(random());
    }
    changed.table.v6 = round % 4 == 0;
    RulesetFacts facts;
    DecodeLegacyTable(changed.table, changed.bytes, &facts);
    EXPECT_LE(facts.chains.size(), changed.bytes.size());
  }
}

}  // namespace
}  // namespace utproxy
