// SPDX-License-Identifier: GPL-3.0-or-later
// What comes from outside, cut short in every place.
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <gtest/gtest.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/netfilter.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <vector>

#include "diagnose/proc_reader.h"
#include "diagnose/routing_reader.h"
#include "diagnose/rule_decoder.h"

namespace utproxy {
namespace {

struct Message {
  alignas(nlmsghdr) char bytes[512] = {};
  nlmsghdr* header = mnl_nlmsg_put_header(bytes);
};

Message MarkRule() {
  Message m;
  m.header->nlmsg_type = RTM_NEWRULE;
  auto* body =
      static_cast<fib_rule_hdr*>(mnl_nlmsg_put_extra_header(m.header, sizeof(fib_rule_hdr)));
  body->family = AF_INET;
  body->action = FR_ACT_TO_TBL;
  mnl_attr_put_u32(m.header, FRA_PRIORITY, 99);
  mnl_attr_put_u32(m.header, FRA_FWMARK, 1);
  mnl_attr_put_u32(m.header, FRA_TABLE, 1000);
  return m;
}

TEST(RoutingReader, ReadsARule) {
  SystemView view;
  const Message m = MarkRule();
  TakePolicyRule(*m.header, &view);
  ASSERT_EQ(view.rules.size(), 1u);
  EXPECT_EQ(view.rules[0].priority, 99u);
  EXPECT_EQ(view.rules[0].mark, 1u);
  EXPECT_EQ(view.rules[0].mask, 0xffffffffu);
  EXPECT_EQ(view.rules[0].table, 1000u);
}

TEST(RoutingReader, MessagesCutShort) {
  const Message whole = MarkRule();
  for (uint32_t len = sizeof(nlmsghdr); len < whole.header->nlmsg_len; ++len) {
    // On the heap, so that a reader beyond the end is seen by the address sanitizer.
    std::vector<char> cut(whole.bytes, whole.bytes + len);
    auto* header = reinterpret_cast<nlmsghdr*>(cut.data());
    header->nlmsg_len = len;
    for (const uint16_t type : {RTM_NEWRULE, RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE}) {
      header->nlmsg_type = type;
      SystemView view;
      TakePolicyRule(*header, &view);
      TakeLink(*header, &view);
      TakeAddress(*header, &view);
      TakeRoute(*header, &view);
    }
  }
}

TEST(XtDecoder, ShortDataIsUnknown) {
  const std::vector<uint8_t> bytes(256, 0xff);
  for (const char* name :
       {"tcp", "udp", "multiport", "addrtype", "conntrack", "owner", "state", "mark", "socket"}) {
    for (size_t len = 0; len < 8; ++len) {
      RuleFacts rule;
      EXPECT_FALSE(DecodeXtMatch(name, 1, absl::MakeConstSpan(bytes).first(len), &rule) && len < 4)
          << name << len;
    }
    RuleFacts rule;
    (void)DecodeXtMatch(name, 1, bytes, &rule);
  }
  for (const char* name : {"TPROXY", "NFQUEUE", "MARK", "CT"}) {
    for (size_t len = 0; len < 40; ++len) {
      RuleFacts rule;
      (void)DecodeXtTarget(name, 1, absl::MakeConstSpan(bytes).first(len), NFPROTO_IPV6, &rule);
      if (len < 12) {
        EXPECT_FALSE(rule.tproxy.has_value());
      }
    }
  }
}

TEST(ProcReader, Counters) {
  const char* text = "TcpExt: A B C\nTcpExt: 1 22 3\nIpExt: X\nIpExt: 4\n";
  EXPECT_EQ(CounterOf(text, "TcpExt:", "B"), 22u);
  EXPECT_EQ(CounterOf(text, "IpExt:", "X"), 4u);
  EXPECT_EQ(CounterOf(text, "TcpExt:", "X"), 0u);
  EXPECT_EQ(CounterOf("TcpExt: A B\nTcpExt: 1", "TcpExt:", "B"), 0u);
  EXPECT_EQ(CounterOf("", "TcpExt:", "B"), 0u);
}

TEST(ProcReader, Limits) {
  EXPECT_EQ(OpenFilesLimit("Limit  Soft\nMax open files            1024   524288  files\n"), 1024u);
  EXPECT_EQ(OpenFilesLimit("Max open files  unlimited unlimited"), ~uint64_t{0});
  EXPECT_EQ(OpenFilesLimit("Max open files"), 0u);
}

}  // namespace
}  // namespace utproxy
