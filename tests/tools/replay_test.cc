// SPDX-License-Identifier: GPL-3.0-or-later
#include "replay.h"

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include <sstream>

#include "support/packets.h"

namespace utproxy::tools {
namespace {

using testing::Datagram;

constexpr char kInterface[] =
    R"({"interface":"lan0","index":2,"primary4":"10.77.1.1","primary6":"fd77:1::1"})";

std::string Listener(const std::string& more = "") {
  return absl::StrCat(
      R"({"family":"ipv4","proto":"udp","state":"UNCONNECTED","local":"10.77.1.1:1090",)",
      R"("peer":"0.0.0.0:0","iif":"","transparent":true,"cookie":5,"inode":77,"so_mark":"0x0")",
      more, "}");
}

absl::StatusOr<HostSnapshot> Read(const std::string& text) {
  std::istringstream in(text);
  return HostSnapshot::Read(in);
}

constexpr Policy kPolicy{.on_port = 1090, .mark_value = 1, .mark_mask = 0xff};

TEST(Replay, DecidesOverTheSnapshot) {
  const std::string text =
      absl::StrCat(Listener(R"(,"pid":9,"comm":"dns")"), "\n\n", kInterface, "\n");
  const auto snapshot = Read(text);
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  Replay replay(*snapshot, kPolicy, "");
  const std::vector<uint8_t> bytes = Datagram();
  CapturedPacket captured{.time_ns = 1'700'000'000'000'000'001,
                          .bytes = bytes,
                          .true_length = static_cast<uint32_t>(bytes.size()),
                          .iif = 2,
                          .mark = 0xa0,
                          .prefix = R"(utproxy {"target":"dns","queue":3,"id":4,"decide_ns":5})"};
  const Json json = replay.Decide(captured, true);
  EXPECT_EQ(json["time"], "2023-11-14T22:13:20.000000001Z");
  EXPECT_EQ(json["verdict"], "accept");
  EXPECT_EQ(json["mark"], "0x1");
  EXPECT_EQ(json["laddr"], "10.77.1.1");
  EXPECT_EQ(json["packet"]["iif"], "lan0");
  EXPECT_EQ(json["packet"]["mark"], "0xa0");
  EXPECT_EQ(json["socket"]["cookie"], 5);
  EXPECT_EQ(json["socket"]["comm"], "dns");
  EXPECT_EQ(json["target"], "dns");
  EXPECT_EQ(json["queue"], 3);
  EXPECT_EQ(json["steps"].back()["step"], "mark");
  EXPECT_EQ(replay.without_address(), 0u);
  EXPECT_EQ(replay.uncertain(), 0u);
}

TEST(Replay, SaysWhereTheInterfaceIsMissing) {
  const auto snapshot = Read(Listener());
  ASSERT_TRUE(snapshot.ok());
  Replay replay(*snapshot, kPolicy, "eth7");
  const std::vector<uint8_t> bytes = Datagram();
  const Json json = replay.Decide(
      {.bytes = bytes, .true_length = static_cast<uint32_t>(bytes.size()), .prefix = ""}, false);
  EXPECT_EQ(json["verdict"], "drop");
  EXPECT_EQ(json["packet"]["iif"], "eth7");
  EXPECT_FALSE(json.contains("steps"));
  EXPECT_EQ(replay.without_address(), 1u);
}

TEST(Replay, HostilePrefixesChangeNothing) {
  const auto snapshot = Read(absl::StrCat(Listener(), "\n", kInterface));
  ASSERT_TRUE(snapshot.ok());
  Replay replay(*snapshot, kPolicy, "lan0");
  const std::vector<uint8_t> bytes = Datagram();
  const std::string deep = "utproxy " + std::string(100000, '[');
  for (const std::string& prefix :
       {std::string("utproxy "), std::string("utproxy null"),
        std::string("utproxy {\"length\":-1}"), std::string("utproxy {\"packet\":7}"), deep,
        std::string("iptables")}) {
    const Json json = replay.Decide({.bytes = bytes,
                                     .true_length = static_cast<uint32_t>(bytes.size()),
                                     .prefix = {prefix.data(), prefix.size()}},
                                    true);
    EXPECT_EQ(json["verdict"], "accept") << prefix.substr(0, 40);
  }
}

TEST(Snapshot, ErrorsNameTheLine) {
  const auto error = [](const std::string& text) {
    const auto snapshot = Read(text);
    EXPECT_FALSE(snapshot.ok()) << text.substr(0, 60);
    return std::string(snapshot.status().message());
  };
  EXPECT_EQ(error("\nnonsense").substr(0, 7), "line 2:");
  EXPECT_EQ(error("[1,2]").substr(0, 7), "line 1:");
  EXPECT_EQ(error(Listener() + "\n{\"family\":\"ipv4\"}").substr(0, 7), "line 2:");
  EXPECT_EQ(error(R"({"interface":"lan0","index":0})").substr(0, 7), "line 1:");
  EXPECT_EQ(error(R"({"interface":7,"index":1})").substr(0, 7), "line 1:");
  EXPECT_EQ(error(R"({"interface":"lan0","index":1,"primary4":"fd77::1"})").substr(0, 7),
            "line 1:");
  EXPECT_EQ(error(std::string(1 << 17, ' ') + "x").substr(0, 7), "line 1:");
  EXPECT_EQ(error(std::string(50000, '[')).substr(0, 7), "line 1:");
  EXPECT_TRUE(Read("").ok());
}

TEST(Snapshot, NamesWithoutLinesOfInterfacesGetIndexes) {
  auto snapshot = Read("");
  ASSERT_TRUE(snapshot.ok());
  const uint32_t one = snapshot->IndexOf("eth0"), two = snapshot->IndexOf("eth1");
  EXPECT_NE(one, two);
  EXPECT_GE(one, HostSnapshot::kUnknownIndex);
  EXPECT_EQ(snapshot->IndexOf("eth0"), one);
  EXPECT_EQ(snapshot->NameOf(two), "eth1");
  EXPECT_EQ(snapshot->NameOf(0), "");
  EXPECT_EQ(snapshot->NameOf(12), "12");
  EXPECT_EQ(snapshot->IndexOf(""), 0u);
}

}  // namespace
}  // namespace utproxy::tools
