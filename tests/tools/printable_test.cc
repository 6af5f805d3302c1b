// SPDX-License-Identifier: GPL-3.0-or-later
// Names that others give reach no terminal as they are, in whichever text they stand.
#include "printable.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "command.h"
#include "commands.h"
#include "doctor_text.h"
#include "explain_text.h"
#include "text.h"
#include "trace_text.h"

namespace utproxy::tools {
namespace {

// CSI as one C1 character, "turn round what follows", a newline, bytes that are no UTF-8.
constexpr char kEvil[] =
    "a\xc2\x9b"
    "31m\xe2\x80\xae"
    "z\n\xff\x1b";
constexpr char kTamed[] = "a\\xc2\\x9b31m\\xe2\\x80\\xaez\\x0a\\xff\\x1b";

TEST(Printable, WhatIsSeenStays) {
  for (const char* text :
       {"", "lan0", "eth0.5@if7", "\xc3\xa9", "\xe2\x86\x92 \xe6\x97\xa5\xe6\x9c\xac",
        "\xf0\x9f\x90\xa7", "\xef\xbf\xbd", "C:\\x1b"}) {
    EXPECT_EQ(Printable(text), text);
  }
}

TEST(Printable, ControlAndFormatCharactersDoNot) {
  EXPECT_EQ(Printable(kEvil), kTamed);
  for (uint32_t c = 0; c < 0xa0; ++c) {
    if (c >= 0x20 && c < 0x7f) continue;
    const std::string text =
        c < 0x80 ? std::string(1, static_cast<char>(c)) : std::string{'\xc2', static_cast<char>(c)};
    EXPECT_EQ(Printable(text)[0], '\\') << c;
  }
  for (const char* text :
       {"\xc2\xad",     "\xd8\x9c",         "\xe2\x80\x8b",    "\xe2\x80\x8d", "\xe2\x80\x8e",
        "\xe2\x80\x8f", "\xe2\x80\xa8",     "\xe2\x80\xa9",    "\xe2\x80\xaa", "\xe2\x80\xab",
        "\xe2\x80\xac", "\xe2\x80\xad",     "\xe2\x80\xae",    "\xe2\x81\xa0", "\xe2\x81\xa6",
        "\xe2\x81\xa7", "\xe2\x81\xa8",     "\xe2\x81\xa9",    "\xef\xbb\xbf", "\xef\xbf\xb9",
        "\xef\xbf\xbf", "\xf3\xa0\x81\x81", "\xf4\x8f\xbf\xbf"}) {
    const std::string shown = Printable(text);
    EXPECT_EQ(shown.size(), 4 * std::string(text).size()) << shown;
  }
}

TEST(Printable, WhatIsNoUtf8IsShownByteForByte) {
  // Cut short, a continuation alone, overlong, surrogate, beyond Unicode.
  EXPECT_EQ(Printable("\xe2\x86"), "\\xe2\\x86");
  EXPECT_EQ(Printable("\x80x"), "\\x80x");
  EXPECT_EQ(Printable("\xc0\x9b"), "\\xc0\\x9b");
  EXPECT_EQ(Printable("\xe0\x82\x9b"), "\\xe0\\x82\\x9b");
  EXPECT_EQ(Printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");
  EXPECT_EQ(Printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
  EXPECT_EQ(Printable("\xc3("), "\\xc3(");
}

// No control character but the ends of our own lines, and nothing that is not ASCII.
void ExpectTame(const std::string& text) {
  EXPECT_NE(text.find(kTamed), std::string::npos) << text;
  EXPECT_TRUE(std::all_of(text.begin(), text.end(), [](char c) {
    return c == '\n' || (c >= 0x20 && c < 0x7f);
  })) << Printable(text);
}

TEST(Printable, InTablesAndParagraphs) {
  TextTable table({"A"});
  table.Add({kEvil});
  ExpectTame(table.ToString(false));
  ExpectTame(Wrap(kEvil, 80, 4));
}

TEST(Printable, InTraces) {
  Json json = Json::parse(
      R"({"time":"2026-01-02T03:04:05Z","target":"t","verdict":"drop","reason":"listener",
      "mark":"0x0","socket":{"local":"1.2.3.4:5","pid":1},"packet":{"family":"ipv4","proto":"udp",
      "src":"1.1.1.1","sport":1,"dst":"2.2.2.2","dport":2,"iif":"lan0","flags":"","mark":"0x0"},
      "source":"exact"})");
  for (const Json::json_pointer& where :
       {Json::json_pointer("/target"), Json::json_pointer("/socket/comm"),
        Json::json_pointer("/packet/iif"), Json::json_pointer("/time")}) {
    Json evil = json;
    evil["socket"]["comm"] = "proxy";
    evil[where] = kEvil;
    ExpectTame(TraceText(200, false, absl::UTCTimeZone()).Line(evil));
  }
}

TEST(Printable, InExplanations) {
  Json json = Json::parse(R"({"verdict":"drop","reason":"listener","mark":"0x0",
      "socket":{"state":"LISTEN","local":"1.2.3.4:5","cookie":1,"pid":1},
      "packet":{"proto":"udp","family":"ipv4","src":"1.1.1.1","sport":1,"dst":"2.2.2.2","dport":2,"mark":"0x0"},
      "steps":[{"step":"listener","result":"found","why":"w","candidates":[
         {"local":"1.2.3.4:5","score":1,"transparent":true,"chosen":true,"why":"w","pid":1,"comm":"c"}]}],
      "differs":{"socket":"x"}})");
  for (const char* where :
       {"/socket/comm", "/socket/cgroup", "/steps/0/why", "/steps/0/candidates/0/comm",
        "/steps/0/candidates/0/cgroup", "/steps/0/candidates/0/why"}) {
    Json evil = json;
    evil["socket"]["comm"] = "proxy";
    evil[Json::json_pointer(where)] = kEvil;
    ExpectTame(ExplainText(evil, 200, false));
  }
}

TEST(Printable, InFindings) {
  Finding finding;
  finding.id = "no_listener";
  for (std::string* part : {&finding.where, &finding.cause, &finding.fix}) {
    *part = kEvil;
    ExpectTame(FindingText(finding, 80, false));
    part->clear();
  }
  ProxyTarget target;
  target.iifs = {kEvil};
  ExpectTame(TargetText(target));
}

TEST(Printable, InErrors) {
  std::istringstream in;
  std::ostringstream out, err;
  Environment env{.in = in, .out = out, .err = err};
  const std::vector<std::string> args = {"replay", std::string("/nowhere/") + kEvil, "--sockets",
                                         std::string("/nowhere/") + kEvil};
  EXPECT_EQ(RunCommandLine(Commands(), args, env), 1);
  ExpectTame(err.str());
}

}  // namespace
}  // namespace utproxy::tools
