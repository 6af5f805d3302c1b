// SPDX-License-Identifier: GPL-3.0-or-later
#include "decide/spread.h"

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include <map>

#include "sockets.h"

namespace utproxy {
namespace {

constexpr int kClients = 30000;
constexpr char kSeed[] = "a seed";

Packet From(Family family, int client, uint16_t sport = 1000) {
  const int high = client >> 8, low = client & 255;
  const bool v4 = family == Family::kIpv4;
  Packet packet;
  packet.family = family;
  packet.protocol = IPPROTO_TCP;
  packet.src = *Address::Parse(v4 ? absl::StrCat("10.1.", high, ".", low)
                                  : absl::StrCat("2001:db8::", high, ":", low));
  packet.dst = *Address::Parse(v4 ? "192.0.2.1" : "2001:db8:1::1");
  packet.sport = sport;
  packet.dport = 80;
  packet.outcome = ParseOutcome::kOk;
  return packet;
}

uint16_t PortFor(const Spread& spread, const Packet& packet, std::vector<uint16_t> gone = {}) {
  const auto i = spread.Choose(packet, [&](size_t each) {
    return std::find(gone.begin(), gone.end(), spread.port(each)) == gone.end();
  });
  return i ? spread.port(*i) : uint16_t{0};
}

TEST(Spread, SharesAreEqual) {
  const Spread spread({.ports = {1090, 1091, 1092}, .backups = {2000}}, kSeed);
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    std::map<uint16_t, int> clients;
    for (int c = 0; c < kClients; ++c) ++clients[PortFor(spread, From(family, c))];
    EXPECT_EQ(clients.size(), 3u);
    for (const auto& [port, count] : clients) EXPECT_NEAR(count, kClients / 3, kClients / 60);
  }
}

TEST(Spread, APortThatGoesMovesItsOwnClientsOnly) {
  const Spread spread({.ports = {1090, 1091, 1092, 1093}}, kSeed);
  std::map<uint16_t, int> heirs;
  for (int c = 0; c < kClients; ++c) {
    const Packet packet = From(Family::kIpv4, c);
    const uint16_t before = PortFor(spread, packet);
    const uint16_t after = PortFor(spread, packet, {1091});
    if (before == 1091) {
      ++heirs[after];
    } else {
      ASSERT_EQ(before, after);
    }
  }
  EXPECT_EQ(heirs.size(), 3u);
  EXPECT_FALSE(heirs.contains(1091));
  for (const auto& [port, count] : heirs) EXPECT_NEAR(count, kClients / 12, kClients / 60);
}

TEST(Spread, APortMoreTakesItsShareOnlyWhateverTheOrder) {
  const Spread three({.ports = {1090, 1091, 1092}}, kSeed);
  const Spread four({.ports = {1093, 1092, 1091, 1090}}, kSeed);
  int moved = 0;
  for (int c = 0; c < kClients; ++c) {
    const Packet packet = From(Family::kIpv6, c);
    const uint16_t before = PortFor(three, packet), after = PortFor(four, packet);
    if (before == after) continue;
    ASSERT_EQ(after, 1093);
    ++moved;
  }
  EXPECT_NEAR(moved, kClients / 4, kClients / 60);
}

TEST(Spread, BackupsAreForWhenNoOtherIsLeft) {
  const Spread spread({.ports = {1090, 1091}, .backups = {2000, 2001}}, kSeed);
  std::map<uint16_t, int> clients;
  for (int c = 0; c < 1000; ++c) {
    const Packet packet = From(Family::kIpv4, c);
    EXPECT_EQ(PortFor(spread, packet, {1090}), 1091);
    EXPECT_EQ(PortFor(spread, packet, {1090, 1091, 2000}), 2001);
    EXPECT_EQ(PortFor(spread, packet, {1090, 1091, 2000, 2001}), 0);
    ++clients[PortFor(spread, packet, {1090, 1091})];
  }
  EXPECT_GT(clients[2000], 400);
  EXPECT_GT(clients[2001], 400);
}

TEST(Spread, AClientStaysOrEachFlowDoes) {
  const Spread by_client({.ports = {1090, 1091}, .by = SpreadBy::kClient}, kSeed);
  const Spread by_flow({.ports = {1090, 1091}, .by = SpreadBy::kFlow}, kSeed);
  std::map<uint16_t, int> clients, flows;
  for (uint16_t sport = 1; sport <= 1000; ++sport) {
    Packet packet = From(Family::kIpv4, 7, sport);
    ++flows[PortFor(by_flow, packet)];
    if (sport % 2 == 0) packet.protocol = IPPROTO_UDP;
    ++clients[PortFor(by_client, packet)];
  }
  EXPECT_EQ(clients.size(), 1u);
  EXPECT_NEAR(flows[1090], 500, 100);
  EXPECT_NEAR(flows[1091], 500, 100);
}

TEST(Spread, AnotherSeedChoosesOtherwiseTheSameOneTheSame) {
  const SpreadSpec spec{.ports = {1090, 1091}};
  const Spread a(spec, kSeed), b(spec, kSeed), c(spec, "another");
  int differ = 0;
  for (int i = 0; i < 1000; ++i) {
    const Packet packet = From(Family::kIpv4, i);
    EXPECT_EQ(PortFor(a, packet), PortFor(b, packet));
    differ += PortFor(a, packet) != PortFor(c, packet) ? 1 : 0;
  }
  EXPECT_NEAR(differ, 500, 100);
}

TEST(Spread, PortsAreToldInTheirOrder) {
  const Spread spread({.ports = {1090, 1091, 1092}, .backups = {2000}}, kSeed);
  const Packet packet = From(Family::kIpv4, 1);
  const uint16_t first = PortFor(spread, packet), second = PortFor(spread, packet, {first});
  const std::vector<PortCandidate> ranked = RankPorts(spread, packet, [&](uint16_t port) {
    return port == first ? PortState::kNotTransparent : PortState::kTakes;
  });
  ASSERT_EQ(ranked.size(), 4u);
  EXPECT_EQ(ranked[0].port, first);
  EXPECT_FALSE(ranked[0].chosen);
  EXPECT_EQ(ranked[0].why, "The listener there is not transparent.");
  EXPECT_EQ(ranked[1].port, second);
  EXPECT_TRUE(ranked[1].chosen);
  EXPECT_EQ(ranked[2].why,
            "A transparent listener takes the packet there; another has a higher weight for this "
            "client.");
  EXPECT_TRUE(ranked[3].backup);
  EXPECT_FALSE(ranked[3].chosen);
  EXPECT_EQ(PortOf(ranked), second);
  const auto nobody = RankPorts(spread, packet, [](uint16_t) { return PortState::kNobody; });
  EXPECT_EQ(PortOf(nobody), first);
  EXPECT_EQ(nobody[3].why,
            "Nobody listens there for this packet; none of the target's ports takes it.");
}

TEST(Spread, WordsSayWhatWasSaid) {
  EXPECT_EQ(OnPortWords({}, {}), "");
  EXPECT_EQ(OnPortWords({.on_port = 1090}, {}), " --on-port 1090");
  const SpreadSpec spec{.ports = {1090, 1091}, .backups = {2000}, .by = SpreadBy::kFlow};
  EXPECT_EQ(OnPortWords({.on_port = 1090}, spec),
            " --on-port 1090,1091 --backup-port 2000 --spread flow");
  EXPECT_EQ(spec.ToString(), "1090,1091 (backup 2000)");
}

}  // namespace
}  // namespace utproxy
