// SPDX-License-Identifier: GPL-3.0-or-later
// A worker's decisions for a target with several on-ports, against the running kernel's sockets.
#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <map>
#include <string>
#include <vector>

#include "decider_fixture.h"

namespace utproxy {
namespace {

using testing::Bind;
using testing::CookieOf;
using testing::Listen;
using testing::LocalPort;

constexpr QueryRates kNone{
    .known = 0, .syn = 0, .young = 0, .segment = 0, .datagram = 0, .burst = 0};

class DeciderSpreadTest : public DeciderFixture {
 protected:
  // Where the client's packet is led to; 0 where it is dropped.
  static uint16_t PortOf(Decider& decider, Proto proto, int client) {
    const std::string from = absl::StrCat("127.0.9.", client, ":4000");
    const Decision d = One(decider, Make(proto, from, "192.0.2.1:80", kTcpSyn));
    return d.verdict == Verdict::kAccept ? d.lport : uint16_t{0};
  }

  static UniqueFd Open(Proto proto, uint16_t port) {
    const std::string at = absl::StrCat("0.0.0.0:", port);
    if (proto == Proto::kTcp) return Listen(at.c_str(), {.transparent = true});
    return Bind(SOCK_DGRAM, at.c_str(), {.transparent = true});
  }

  // Until it knows this socket at the port; 0: none.
  void WaitForMirror(Proto proto, uint16_t port, uint64_t cookie) {
    const FlowKey key{.local_port = port, .proto = proto};
    const auto known = [&] {
      const std::optional<Socket> found = mirror_->table().FindOne(key);
      return found ? found->cookie : 0;
    };
    for (int i = 0; i < 1000 && known() != cookie; ++i) ::usleep(10'000);
    ASSERT_EQ(known(), cookie);
  }
};

TEST_F(DeciderSpreadTest, NoPacketIsLostToAListenerThatHasJustGoneAndNobodyElseMoves) {
  for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
    std::map<uint16_t, UniqueFd> listeners;
    for (int i = 0; i < 3; ++i) {
      UniqueFd listener = Open(proto, 0);
      listeners[LocalPort(listener)] = std::move(listener);
    }
    SpreadSpec spread;
    for (const auto& [port, listener] : listeners) spread.ports.push_back(port);
    // All of them asked about, however fast the machine is.
    const auto decider = MakeSpread(
        spread, {.syn = 1'000'000, .datagram = 1'000'000, .burst = 3000, .datagram_burst = 3000});
    for (const auto& [port, listener] : listeners) WaitForMirror(proto, port, CookieOf(listener));
    std::map<int, uint16_t> before;
    for (int client = 1; client < 200; ++client) before[client] = PortOf(*decider, proto, client);
    const uint16_t gone = spread.ports[1];
    listeners[gone].reset();  // the mirror hears of it some time later
    int moved = 0;
    for (const auto& [client, port] : before) {
      const uint16_t now = PortOf(*decider, proto, client);
      EXPECT_NE(now, 0);
      EXPECT_NE(now, gone);
      if (port == gone) {
        ++moved;
      } else {
        EXPECT_EQ(now, port);
      }
    }
    EXPECT_GT(moved, 30);
    listeners[gone] = Open(proto, gone);
    WaitForMirror(proto, gone, CookieOf(listeners[gone]));
    for (const auto& [client, port] : before) EXPECT_EQ(PortOf(*decider, proto, client), port);
    uint64_t counted = 0;
    for (const Counter& counter : decider->counters().to_port) counted += counter.value();
    EXPECT_EQ(counted, 3 * before.size());
  }
}

TEST_F(DeciderSpreadTest, WithoutTheKernelTheMirrorSaysWhoIsThere) {
  for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
    const UniqueFd a = Open(proto, 0), opaque = proto == Proto::kTcp
                                                    ? Listen("0.0.0.0:0")
                                                    : Bind(SOCK_DGRAM, "0.0.0.0:0");
    UniqueFd b = Open(proto, 0);
    const uint16_t port_b = LocalPort(b);
    const auto decider = MakeSpread({.ports = {LocalPort(a), port_b, LocalPort(opaque)}}, kNone);
    WaitForMirror(proto, port_b, CookieOf(b));
    WaitForMirror(proto, LocalPort(opaque), CookieOf(opaque));
    std::map<uint16_t, int> clients;
    for (int client = 1; client < 200; ++client) ++clients[PortOf(*decider, proto, client)];
    EXPECT_EQ(clients.size(), 2u) << "one that is not transparent takes nobody";
    EXPECT_NEAR(clients[port_b], 100, 40);
    b.reset();
    WaitForMirror(proto, port_b, 0);
    for (int client = 1; client < 200; ++client) {
      EXPECT_EQ(PortOf(*decider, proto, client), LocalPort(a));
    }
  }
}

TEST_F(DeciderSpreadTest, EachFlowHasItsOwnEntryInAFloodToo) {
  const UniqueFd a = Open(Proto::kTcp, 0), b = Open(Proto::kTcp, 0);
  const auto decider = MakeSpread({.ports = {LocalPort(a), LocalPort(b)}}, kNone);
  WaitForMirror(Proto::kTcp, LocalPort(b), CookieOf(b));
  for (int client = 1; client < 50; ++client) {
    const std::string from = absl::StrCat("127.0.9.", client, ":4000");
    const QueuedPacket syn = Make(Proto::kTcp, from, "192.0.2.1:80", kTcpSyn);
    const Decision d = One(*decider, syn);
    ASSERT_EQ(d.verdict, Verdict::kAccept);
    EXPECT_EQ(steering_->ListenerOf(syn.packet.key(), syn.packet.iif),
              d.lport == LocalPort(a) ? CookieOf(a) : CookieOf(b));
  }
}

TEST_F(DeciderSpreadTest, ABackupTakesOverWhenNoOtherIsLeftAndADropIsTheKernels) {
  UniqueFd only = Open(Proto::kTcp, 0), backup = Open(Proto::kTcp, 0);
  const uint16_t port = LocalPort(only), port_backup = LocalPort(backup);
  const auto decider = MakeSpread({.ports = {port}, .backups = {port_backup}});
  WaitForMirror(Proto::kTcp, port, CookieOf(only));
  EXPECT_EQ(PortOf(*decider, Proto::kTcp, 1), port);
  only.reset();
  EXPECT_EQ(PortOf(*decider, Proto::kTcp, 1), port_backup);
  backup.reset();
  const uint64_t before = decider->counters().by_exact.value();
  EXPECT_EQ(PortOf(*decider, Proto::kTcp, 1), 0);
  EXPECT_EQ(decider->counters().by_exact.value(), before + 1);
  only = Open(Proto::kTcp, port);
  EXPECT_EQ(PortOf(*decider, Proto::kTcp, 1), port) << "though the mirror need not know it yet";
}

}  // namespace
}  // namespace utproxy
