// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace utproxy::tools {
namespace {

constexpr char kHit[] = R"({"time":"2026-01-02T03:04:05.123456789Z","target":"default","queue":1,
  "id":7,"wait_ns":2345678,"decide_ns":1540,"verdict":"accept","reason":"listener","mark":"0x1",
  "laddr":"10.77.1.1","lport":12345,"socket":{"family":"ipv4","proto":"tcp","state":"LISTEN",
  "local":"0.0.0.0:12345","peer":"0.0.0.0:0","iif":"","transparent":true,"cookie":3,"inode":9,
  "so_mark":"0x0","pid":812,"comm":"haproxy"},"packet":{"family":"ipv4","proto":"tcp",
  "src":"10.77.1.2","sport":40000,"dst":"203.0.113.80","dport":8080,"iif":"lan0","flags":"S",
  "mark":"0x0"},"source":"exact"})";
constexpr char kMiss[] = R"({"time":"2026-01-02T03:04:05.9Z","target":"default","queue":0,"id":8,
  "decide_ns":640,"verdict":"drop","reason":"not_transparent","mark":"0xa0","socket":null,
  "packet":{"family":"ipv6","proto":"udp","src":"fd77:1::2","sport":53,"dst":"2001:db8:99::80",
  "dport":53,"iif":"lan0","flags":"","mark":"0xa0"},"source":"mirror"})";
// A process and an interface may be named anything.
constexpr char kHostile[] = R"({"time":"never","verdict":"drop","reason":"fragment","mark":"0x0",
  "socket":{"local":"0.0.0.0:1","comm":"\u001b[31mred","pid":1},"packet":{"family":"ipv4",
  "proto":"17","src":"10.0.0.1","sport":0,"dst":"10.0.0.2","dport":0,"iif":"e\nth","flags":"",
  "mark":"0x0"},"source":"exact"})";

std::string Lines(size_t width, bool color) {
  TraceText text(width, color, absl::UTCTimeZone());
  std::string out;
  for (const char* json : {kHit, kMiss, kHit}) out += text.Line(Json::parse(json));
  return out + text.LossLine(12, 34);
}

TEST(TraceText, Narrow) {
  EXPECT_EQ(Lines(80, false),
            "03:04:05.123  accept  listener   tcp S  10.77.1.2:40000 > 203.0.113.80:8080\n"
            "03:04:05.900  drop    not_transparent  udp    [fd77:1::2]:53  > [2001:db8:99::80]:53\n"
            "03:04:05.123  accept  listener         tcp S  10.77.1.2:40000 > 203.0.113.80:8080\n"
            "-- 12 decisions lost, 34 in all: they came faster than they were read\n");
}

TEST(TraceText, Wide) {
  EXPECT_EQ(
      Lines(200, false),
      "03:04:05.123456  accept  listener   tcp S  10.77.1.2:40000 > 203.0.113.80:8080  lan0  "
      "0x0>0x1   0.0.0.0:12345 haproxy[812]  default/1  exact 1.5us after 2.3ms\n"
      "03:04:05.900000  drop    not_transparent  udp    [fd77:1::2]:53  > [2001:db8:99::80]:53  "
      "lan0  0xa0>0xa0  -                           default/0  mirror 0.6us\n"
      "03:04:05.123456  accept  listener         tcp S  10.77.1.2:40000 > 203.0.113.80:8080     "
      "lan0  0x0>0x1    0.0.0.0:12345 haproxy[812]  default/1  exact 1.5us after 2.3ms\n"
      "-- 12 decisions lost, 34 in all: they came faster than they were read\n");
}

// Copies come from a group, not a queue; in a capture of anybody's there may be anything.
TEST(TraceText, WhereItComesFromIsToldAsFarAsItIsThere) {
  TraceText text(200, false, absl::UTCTimeZone());
  Json json = Json::parse(kHit);
  json.erase("queue");
  json["group"] = 5u;
  EXPECT_NE(text.Line(json).find("  default/5  exact"), std::string::npos);
  json.erase("group");
  EXPECT_NE(text.Line(json).find("  default  exact"), std::string::npos);
  json["queue"] = {1, 2};
  EXPECT_NE(text.Line(json).find("  default  exact"), std::string::npos);
}

// An ordinary line of IPv4 fits a terminal of 80 columns.
TEST(TraceText, FitsATerminal) {
  TraceText text(80, false, absl::UTCTimeZone());
  EXPECT_LE(text.Line(Json::parse(kHit)).size(), 81u);
}

TEST(TraceText, ColoursOnlyWhereAsked) {
  EXPECT_EQ(Lines(80, false).find('\x1b'), std::string::npos);
  EXPECT_NE(Lines(80, true).find("\x1b[32maccept\x1b[0m"), std::string::npos);
  EXPECT_NE(Lines(80, true).find("\x1b[31mdrop  \x1b[0m"), std::string::npos);
}

TEST(TraceText, ControlCharactersNeverReachTheTerminal) {
  for (const size_t width : {80, 200}) {
    TraceText text(width, false, absl::UTCTimeZone());
    const std::string line = text.Line(Json::parse(kHostile));
    EXPECT_EQ(line.find('\x1b'), std::string::npos);
    EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  }
}

TEST(TraceText, WhatCouldNotBeExplained) {
  const Json json = Json::parse(R"({"time":"2026-01-02T03:04:05Z","target":"default","group":5,
      "error":"ask sock_diag: no answer","failed_total":3,"packet":{"family":"ipv4","proto":"udp",
      "src":"10.0.0.1","sport":1,"dst":"10.0.0.2","dport":2,"iif":"lan0","flags":"","mark":"0x0"}})");
  for (const size_t width : {80, 200}) {
    const std::string line = TraceText(width, false, absl::UTCTimeZone()).Line(json);
    EXPECT_NE(line.find("  ?       failed     udp    10.0.0.1:1      > 10.0.0.2:2  ask sock_diag: "
                        "no answer (3 in all)\n"),
              std::string::npos)
        << line;
  }
}

}  // namespace
}  // namespace utproxy::tools
