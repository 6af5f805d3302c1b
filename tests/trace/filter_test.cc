// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace/filter.h"

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include <string>

namespace utproxy {
namespace {

TraceRecord Example() {
  TraceRecord r;
  r.packet.src = *Address::Parse("10.1.2.3");
  r.packet.dst = *Address::Parse("203.0.113.80");
  r.packet.sport = 40000;
  r.packet.dport = 53;
  r.packet.protocol = IPPROTO_UDP;
  r.packet.iif = 4;
  r.packet.mark = 0x10;
  r.mark = 0x11;
  r.verdict = Verdict::kDrop;
  r.reason = Reason::kNotTransparent;
  return r;
}

bool Passes(const std::string& text, const TraceRecord& record = Example()) {
  const absl::StatusOr<Filter> filter = Filter::Compile(text);
  EXPECT_TRUE(filter.ok()) << text << ": " << filter.status();
  const std::function<std::string(uint32_t)> names = [](uint32_t i) {
    return i == 4 ? std::string("lan0") : std::string();
  };
  return filter.ok() &&
         filter->Passes({.record = record, .target = "dns", .queue = 3, .names = names});
}

std::string Error(const std::string& text) {
  const absl::StatusOr<Filter> filter = Filter::Compile(text);
  EXPECT_FALSE(filter.ok()) << text;
  return std::string(filter.status().message());
}

TEST(Filter, Conditions) {
  for (const char* text : {"proto udp",       "proto 17",
                           "host 10.1.2.3",   "host 203.0.113.80",
                           "host 10.0.0.0/8", "src 10.1.2.0/24",
                           "src 0.0.0.0/0",   "dst 203.0.113.80/32",
                           "port 53",         "port 40000",
                           "sport 40000",     "dport 50-60",
                           "verdict drop",    "reason not_transparent",
                           "target dns",      "queue 3",
                           "mark 0x11",       "mark 17",
                           "mark 0x1/0xf",    "mark 021",
                           "iif lan0",        ""}) {
    EXPECT_TRUE(Passes(text)) << text;
  }
  for (const char* text :
       {"proto tcp", "host 10.1.2.4", "host 10.0.0.0/16", "src 203.0.113.80", "dst 10.1.2.3",
        "src ::/0", "port 54", "sport 53", "dport 54-60", "verdict accept", "reason listener",
        "target web", "queue 0", "mark 0x10", "mark 0x1/0xff", "iif lan1"}) {
    EXPECT_FALSE(Passes(text)) << text;
  }
}

TEST(Filter, Ipv6) {
  TraceRecord r = Example();
  r.packet.family = Family::kIpv6;
  r.packet.src = *Address::Parse("2001:db8:1::5");
  r.packet.dst = *Address::Parse("2001:db8:2::6");
  EXPECT_TRUE(Passes("src 2001:db8:1::/48 and dst 2001:db8:2::6", r));
  EXPECT_FALSE(Passes("host 2001:db8:2::/127", r));
  EXPECT_FALSE(Passes("host 2001:db8:4::/47", r));
  EXPECT_TRUE(Passes("host 2001:db8::/29", r));
  EXPECT_FALSE(Passes("host 0.0.0.0/0", r));
}

// The unspecified address of both families is all zeroes, so the family has to decide.
TEST(Filter, UnspecifiedAddress) {
  TraceRecord r = Example();
  r.packet.src = Address();
  EXPECT_TRUE(Passes("src 0.0.0.0", r));
  EXPECT_FALSE(Passes("src ::", r));
  EXPECT_FALSE(Passes("src 10.0.0.0/8", r));
}

TEST(Filter, PacketsWithoutPortsMatchNoPort) {
  TraceRecord r = Example();
  r.packet.outcome = ParseOutcome::kFragment;
  r.packet.sport = r.packet.dport = 0;
  EXPECT_FALSE(Passes("port 0", r));
  EXPECT_TRUE(Passes("not port 0-65535", r));
}

TEST(Filter, Precedence) {
  EXPECT_TRUE(Passes("proto udp or proto tcp and queue 9"));
  EXPECT_FALSE(Passes("(proto udp or proto tcp) and queue 9"));
  EXPECT_TRUE(Passes("not proto tcp and queue 3"));
  EXPECT_FALSE(Passes("not (proto udp and queue 3)"));
  EXPECT_TRUE(Passes("not not proto udp"));
  EXPECT_TRUE(Passes("!proto tcp&&(queue 3||queue 4)"));
  EXPECT_TRUE(Passes("  proto\tudp\n"));
}

TEST(Filter, ErrorsNameTheColumnAndWhatWouldDo) {
  EXPECT_EQ(Error("proto tpc"), "column 7: 'tpc' is no protocol: tcp, udp, or a number 0 to 255");
  EXPECT_EQ(Error("proto"), "column 6: a value for proto is missing");
  EXPECT_EQ(Error("(proto udp"), "column 1: '(' without its ')'");
  EXPECT_EQ(Error("proto udp)"), "column 10: ')' without its '('");
  EXPECT_EQ(Error("proto udp dport 53"),
            "column 11: 'dport' after a condition: and, or, or the end of the filter");
  EXPECT_EQ(Error("proto udp and"),
            "column 14: a condition is missing: proto, host, src, dst, port, sport, dport, "
            "verdict, reason, target, queue, mark or iif");
  EXPECT_EQ(Error("dport 70000"),
            "column 7: '70000' is no port: 0 to 65535, or a range such as 1000-2000");
  EXPECT_EQ(Error("verdict maybe"), "column 9: 'maybe' is no verdict: accept or drop");
  EXPECT_EQ(Error("mark 0x100000000").substr(0, 9), "column 6:");
  EXPECT_EQ(Error("host 10.0.0.1/8").substr(0, 9), "column 6:");
  EXPECT_EQ(Error("queue 99999").substr(0, 9), "column 7:");
  EXPECT_NE(Error("reason x").find("no_socket"), std::string::npos);
  EXPECT_EQ(Error("por\x1b 1").find('\x1b'), std::string::npos);
}

TEST(Filter, IsBounded) {
  std::string deep;
  for (int i = 0; i < Filter::kMaxDepth + 1; ++i) deep += "(";
  EXPECT_NE(Error(deep + "queue 1").find("in each other"), std::string::npos);
  std::string fits = "queue 3";
  for (int i = 0; i < Filter::kMaxDepth; ++i) fits = absl::StrCat("(", fits, ")");
  EXPECT_TRUE(Passes(fits));
  EXPECT_EQ(Error(std::string(Filter::kMaxLength + 1, ' ')).substr(0, 12), "column 1025:");
  std::string wide = "queue 3";
  while (wide.size() + 12 <= Filter::kMaxLength) wide += " or queue 3";
  EXPECT_TRUE(Passes(wide));
}

}  // namespace
}  // namespace utproxy
