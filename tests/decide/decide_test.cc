// SPDX-License-Identifier: GPL-3.0-or-later
#include "utproxy/decide.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fake_lookup.h"
#include "sockets.h"

namespace utproxy {
namespace {

using Calls = std::vector<std::string>;

constexpr char kClient4[] = "10.0.1.99:40000", kServer4[] = "10.0.2.99:80";
constexpr char kClient6[] = "[fd00::2]:40000", kServer6[] = "[2001:db8::1]:80";

Policy OnPort(uint16_t port) { return Policy{.on_port = port, .mark_value = 1, .mark_mask = 1}; }

// One of the two families' flow and addresses; every test that takes one holds for both.
struct World {
  const char* name;
  const char* client;
  const char* server;
  const char* primary;
  const char* on_ip;
  const char* wildcard_1090;
};
constexpr World kWorlds[] = {
    {"ipv4", kClient4, kServer4, "10.0.1.1", "127.0.0.1", "0.0.0.0:1090"},
    {"ipv6", kClient6, kServer6, "fd00::1", "::1", "[::]:1090"},
};

std::string At(const char* address, int port) {
  const Address a = Addr(address);
  return EndpointToString(a, static_cast<uint16_t>(port),
                          a.IsV4Mapped() ? Family::kIpv4 : Family::kIpv6);
}

class DecideTest : public testing::TestWithParam<World> {
 protected:
  Packet TcpPacket(uint8_t flags = kTcpSyn) const {
    Packet p = Tcp(GetParam().client, GetParam().server);
    p.tcp_flags = flags;
    return p;
  }
  Packet UdpPacket() const { return Udp(GetParam().client, GetParam().server); }
  Socket TcpFlow(uint64_t cookie) const {
    return Connected(Proto::kTcp, GetParam().server, GetParam().client, cookie);
  }
  Socket UdpFlow(uint64_t cookie) const {
    return Connected(Proto::kUdp, GetParam().server, GetParam().client, cookie);
  }
  std::string Primary(int port) const { return At(GetParam().primary, port); }
  FakeLookup Lookup(std::vector<Socket> sockets) const {
    return FakeLookup{.sockets = std::move(sockets), .primary = Addr(GetParam().primary)};
  }
};
INSTANTIATE_TEST_SUITE_P(Families, DecideTest, testing::ValuesIn(kWorlds),
                         [](const auto& world) { return world.param.name; });

void ExpectHit(const Decision& d, Reason reason, uint64_t cookie) {
  EXPECT_EQ(d.verdict, Verdict::kAccept);
  EXPECT_STREQ(ReasonName(d.reason), ReasonName(reason));
  ASSERT_TRUE(d.socket);
  EXPECT_EQ(d.socket->cookie, cookie);
  EXPECT_EQ(d.mark, 1u);
}

void ExpectMiss(const Decision& d, Reason reason) {
  EXPECT_EQ(d.verdict, Verdict::kDrop);
  EXPECT_STREQ(ReasonName(d.reason), ReasonName(reason));
  EXPECT_EQ(d.mark, 0u);
  EXPECT_FALSE(d.kill_time_wait);
}

// Step 1: what the headers don't give is a miss, and no socket is looked up.
TEST_P(DecideTest, UnparsedPacketsAreMisses) {
  const std::pair<ParseOutcome, Reason> cases[] = {
      {ParseOutcome::kHeaderTruncated, Reason::kHeaderTruncated},
      {ParseOutcome::kFragment, Reason::kFragment},
      {ParseOutcome::kNotTcpOrUdp, Reason::kNotTcpOrUdp}};
  for (const auto& [outcome, reason] : cases) {
    FakeLookup lookup = Lookup({TcpFlow(1), Listener(Primary(1090), 2)});
    Packet p = TcpPacket();
    p.outcome = outcome;
    const Decision d = Decide(p, OnPort(1090), lookup);
    ExpectMiss(d, reason);
    EXPECT_FALSE(d.socket);
    EXPECT_FALSE(d.listener_looked_up);
    EXPECT_EQ(lookup.calls, Calls{});
  }
}

// Step 2.
TEST_P(DecideTest, EstablishedSocketOfAnyStateIsFinal) {
  for (const SockState state : {SockState::kEstablished, SockState::kSynSent, SockState::kSynRecv,
                                SockState::kFinWait1, SockState::kFinWait2, SockState::kCloseWait,
                                SockState::kLastAck, SockState::kClosing, SockState::kNewSynRecv}) {
    for (const uint8_t flags : {kTcpSyn, kTcpAck, uint8_t{kTcpFin | kTcpAck}, kTcpRst}) {
      FakeLookup lookup = Lookup({Listener(Primary(1090), 2), InState(TcpFlow(1), state)});
      const Decision d = Decide(TcpPacket(flags), OnPort(1090), lookup);
      ExpectHit(d, Reason::kEstablished, 1);
      EXPECT_FALSE(d.listener_looked_up);
      EXPECT_FALSE(d.by_listener());
      EXPECT_EQ(lookup.calls, Calls{"established"});
    }
  }
}

TEST_P(DecideTest, NoFallbackFromANonTransparentEstablishedSocket) {
  FakeLookup lookup = Lookup({Listener(Primary(1090), 2), Opaque(TcpFlow(1))});
  const Decision d = Decide(TcpPacket(), OnPort(1090), lookup);
  ExpectMiss(d, Reason::kNotTransparent);
  EXPECT_EQ(d.socket->cookie, 1u);
  EXPECT_EQ(lookup.calls, Calls{"established"});
}

TEST_P(DecideTest, ConnectedUdpSocketIsFinal) {
  FakeLookup lookup = Lookup({UdpFlow(1), UdpSocket(Primary(1090), 2)});
  ExpectHit(Decide(UdpPacket(), OnPort(1090), lookup), Reason::kEstablished, 1);
  EXPECT_EQ(lookup.calls, Calls{"udp " + std::string(GetParam().server)});

  FakeLookup opaque = Lookup({Opaque(UdpFlow(1)), UdpSocket(Primary(1090), 2)});
  ExpectMiss(Decide(UdpPacket(), OnPort(1090), opaque), Reason::kNotTransparent);
}

TEST_P(DecideTest, UnconnectedUdpSocketAtTheDestinationIsPassedOver) {
  FakeLookup lookup =
      Lookup({UdpSocket(GetParam().server, 1), UdpSocket(GetParam().wildcard_1090, 2)});
  ExpectHit(Decide(UdpPacket(), OnPort(1090), lookup), Reason::kListener, 2);
  EXPECT_EQ(lookup.calls,
            (Calls{"udp " + std::string(GetParam().server), "primary 3", "udp " + Primary(1090)}));
}

TEST_P(DecideTest, UdpSocketConnectedAtTheWildcardAddressIsPassedOver) {
  Socket wild = UdpFlow(1);
  wild.local = Address();
  FakeLookup lookup = Lookup({wild, UdpSocket(Primary(1090), 2)});
  ExpectHit(Decide(UdpPacket(), OnPort(1090), lookup), Reason::kListener, 2);
}

// Steps 3 and 4.
TEST_P(DecideTest, ListenerAddress) {
  const World& w = GetParam();
  Policy policy;
  FakeLookup lookup = Lookup({});
  Decision d = Decide(TcpPacket(), policy, lookup);
  EXPECT_TRUE(d.listener_looked_up);
  EXPECT_EQ(d.laddr, Addr(w.primary));
  EXPECT_EQ(d.lport, 80);  // the packet's own

  lookup.primary.reset();  // an interface without an address
  d = Decide(TcpPacket(), policy, lookup);
  EXPECT_EQ(d.laddr, EndpointOf(w.server).address);

  policy.on_ip4 = Addr("127.0.0.1");
  policy.on_ip6 = Addr("::1");
  policy.on_port = 1090;
  lookup.calls.clear();
  d = Decide(TcpPacket(), policy, lookup);
  EXPECT_EQ(d.laddr, Addr(w.on_ip));
  EXPECT_EQ(d.lport, 1090);
  EXPECT_EQ(lookup.calls, (Calls{"established", "listener " + At(w.on_ip, 1090)}));
}

TEST_P(DecideTest, ListenerAtThePacketsDestinationIsNotFoundWithoutOnIp) {
  FakeLookup lookup = Lookup({Listener(GetParam().server, 1)});
  ExpectMiss(Decide(TcpPacket(), Policy{}, lookup), Reason::kNoSocket);
}

// Step 5: TIME_WAIT.
struct TimeWaitCase {
  const char* name;
  uint8_t flags;
  bool listener_there;
  bool listener_transparent;
  bool minisock_transparent;
  Verdict verdict;
  Reason reason;
  uint64_t cookie;  // of the chosen socket: 1 is the minisocket, 2 the listener
  bool killed;
};
constexpr Verdict kAccept = Verdict::kAccept, kDrop = Verdict::kDrop;
constexpr TimeWaitCase kTimeWaitCases[] = {
    {"SYN reopens", kTcpSyn, true, true, true, kAccept, Reason::kTimeWaitReopened, 2, true},
    {"SYN with PSH and URG reopens", kTcpSyn | kTcpPsh | kTcpUrg, true, true, true, kAccept,
     Reason::kTimeWaitReopened, 2, true},
    {"SYN reopens a minisocket that is not transparent", kTcpSyn, true, true, false, kAccept,
     Reason::kTimeWaitReopened, 2, true},
    {"SYN without a listener keeps it", kTcpSyn, false, false, true, kAccept, Reason::kTimeWait, 1,
     false},
    {"SYN without a listener, minisocket not transparent", kTcpSyn, false, false, false, kDrop,
     Reason::kNotTransparent, 1, false},
    {"SYN to a listener that is not transparent", kTcpSyn, true, false, true, kDrop,
     Reason::kNotTransparent, 2, false},
    {"ACK keeps it", kTcpAck, true, true, true, kAccept, Reason::kTimeWait, 1, false},
    {"SYN-ACK keeps it", kTcpSyn | kTcpAck, true, true, true, kAccept, Reason::kTimeWait, 1, false},
    {"SYN-RST keeps it", kTcpSyn | kTcpRst, true, true, true, kAccept, Reason::kTimeWait, 1, false},
    {"SYN-FIN keeps it", kTcpSyn | kTcpFin, true, true, true, kAccept, Reason::kTimeWait, 1, false},
    {"RST keeps it", kTcpRst, true, true, true, kAccept, Reason::kTimeWait, 1, false},
    {"FIN keeps it", kTcpFin, true, true, true, kAccept, Reason::kTimeWait, 1, false},
    {"no flags keep it", 0, true, true, true, kAccept, Reason::kTimeWait, 1, false},
    {"ACK to a minisocket that is not transparent", kTcpAck, true, true, false, kDrop,
     Reason::kNotTransparent, 1, false},
};

TEST_P(DecideTest, TimeWait) {
  for (const TimeWaitCase& c : kTimeWaitCases) {
    for (const SockState substate : {SockState::kTimeWait, SockState::kFinWait2}) {
      SCOPED_TRACE(c.name);
      const Socket minisock = Minisock(TcpFlow(1), substate);
      FakeLookup lookup = Lookup({c.minisock_transparent ? minisock : Opaque(minisock)});
      const Socket listener = Listener(Primary(1090), 2);
      if (c.listener_there) {
        lookup.sockets.push_back(c.listener_transparent ? listener : Opaque(listener));
      }
      const Decision d = Decide(TcpPacket(c.flags), OnPort(1090), lookup);
      EXPECT_EQ(d.verdict, c.verdict);
      EXPECT_STREQ(ReasonName(d.reason), ReasonName(c.reason));
      ASSERT_TRUE(d.socket);
      EXPECT_EQ(d.socket->cookie, c.cookie);
      EXPECT_EQ(d.kill_time_wait, c.killed);
      EXPECT_EQ(d.time_wait_cookie, d.socket->cookie == 2 ? 1u : 0u);
      EXPECT_EQ(d.listener_looked_up, TcpPacket(c.flags).is_pure_syn());
      EXPECT_EQ(d.mark, c.verdict == kAccept ? 1u : 0u);
    }
  }
}

TEST_P(DecideTest, FullSocketInFinWait2IsNoTimeWait) {
  FakeLookup lookup =
      Lookup({InState(TcpFlow(1), SockState::kFinWait2), Listener(Primary(1090), 2)});
  ExpectHit(Decide(TcpPacket(), OnPort(1090), lookup), Reason::kEstablished, 1);
}

// Step 6.
TEST_P(DecideTest, ListenerTakesAnySegment) {
  for (const uint8_t flags : {kTcpSyn, kTcpAck, kTcpRst, uint8_t{0}, uint8_t{0xff}}) {
    FakeLookup lookup = Lookup({Listener(Primary(1090), 2)});
    const Decision d = Decide(TcpPacket(flags), OnPort(1090), lookup);
    ExpectHit(d, Reason::kListener, 2);
    EXPECT_TRUE(d.by_listener());
    EXPECT_FALSE(d.kill_time_wait);
    EXPECT_EQ(lookup.calls, (Calls{"established", "primary 3", "listener " + Primary(1090)}));
  }
}

TEST_P(DecideTest, NoListenerIsAMiss) {
  FakeLookup tcp = Lookup({Listener(Primary(1091), 2)});
  ExpectMiss(Decide(TcpPacket(), OnPort(1090), tcp), Reason::kNoSocket);
  FakeLookup udp = Lookup({UdpSocket(Primary(1091), 2)});
  const Decision d = Decide(UdpPacket(), OnPort(1090), udp);
  ExpectMiss(d, Reason::kNoSocket);
  EXPECT_FALSE(d.socket);
}

TEST_P(DecideTest, ConnectedUdpSocketAtTheListenersPlaceShadowsIt) {
  const Socket shadow = Connected(Proto::kUdp, Primary(1090), GetParam().client, 1);
  FakeLookup lookup = Lookup({shadow, UdpSocket(GetParam().wildcard_1090, 2)});
  const Decision d = Decide(UdpPacket(), OnPort(1090), lookup);
  ExpectMiss(d, Reason::kNoSocket);
  EXPECT_FALSE(d.socket);
}

// Step 7.
TEST_P(DecideTest, ListenerThatIsNotTransparentIsAMiss) {
  FakeLookup tcp = Lookup({Opaque(Listener(Primary(1090), 2))});
  const Decision d = Decide(TcpPacket(), OnPort(1090), tcp);
  ExpectMiss(d, Reason::kNotTransparent);
  EXPECT_EQ(d.socket->cookie, 2u);
  EXPECT_FALSE(d.by_listener());
  FakeLookup udp = Lookup({Opaque(UdpSocket(Primary(1090), 2))});
  ExpectMiss(Decide(UdpPacket(), OnPort(1090), udp), Reason::kNotTransparent);
}

TEST_P(DecideTest, RequestSocketThatIsNotTransparentIsAMiss) {
  FakeLookup lookup = Lookup({Opaque(InState(TcpFlow(1), SockState::kNewSynRecv))});
  ExpectMiss(Decide(TcpPacket(kTcpAck), OnPort(1090), lookup), Reason::kNotTransparent);
}

// Steps 8 and 9.
TEST(DecideMark, IsClearedByTheMaskAndXoredWithTheValue) {
  struct {
    uint32_t before, value, mask, after;
  } const cases[] = {
      {0, 1, 0xffffffff, 1},
      {0xffffffff, 1, 0xffffffff, 1},
      {0xabcd0000, 0x1, 0xff, 0xabcd0001},
      {0xabcd00ff, 0x1, 0xff, 0xabcd0001},
      {0x100, 0x101, 0x1, 0x001},  // a bit outside of the mask is flipped, not set
      {0x000, 0x101, 0x1, 0x101},
      {0x7, 0x7, 0, 0},
      {0x12345678, 0, 0, 0x12345678},
      {0x12345678, 0, 0xffffffff, 0},
  };
  for (const auto& c : cases) {
    FakeLookup lookup{.sockets = {Listener("10.0.1.1:80", 1)}, .primary = Addr("10.0.1.1")};
    Packet p = Tcp(kClient4, kServer4);
    p.mark = c.before;
    const Policy policy{.mark_value = c.value, .mark_mask = c.mask};
    EXPECT_EQ(Decide(p, policy, lookup).mark, c.after);
    lookup.sockets.clear();
    EXPECT_EQ(Decide(p, policy, lookup).mark, c.before);
    p.outcome = ParseOutcome::kFragment;
    EXPECT_EQ(Decide(p, policy, lookup).mark, c.before);
  }
}

TEST(DecideMiss, AcceptsWhereThePolicySaysSo) {
  Policy policy = OnPort(1090);
  policy.on_miss = OnMiss::kAccept;
  Packet p = Tcp(kClient4, kServer4);
  p.mark = 0x50;
  FakeLookup none;
  Decision d = Decide(p, policy, none);
  EXPECT_EQ(d.verdict, Verdict::kAccept);
  EXPECT_EQ(d.reason, Reason::kNoSocket);
  EXPECT_EQ(d.mark, 0x50u);

  FakeLookup opaque{.sockets = {Opaque(Listener("10.0.2.99:1090", 1))}, .primary = {}};
  d = Decide(p, policy, opaque);
  EXPECT_EQ(d.verdict, Verdict::kAccept);
  EXPECT_EQ(d.reason, Reason::kNotTransparent);
  EXPECT_EQ(d.mark, 0x50u);

  p.outcome = ParseOutcome::kNotTcpOrUdp;
  d = Decide(p, policy, none);
  EXPECT_EQ(d.verdict, Verdict::kAccept);
  EXPECT_EQ(d.reason, Reason::kNotTcpOrUdp);
  EXPECT_EQ(d.mark, 0x50u);
}

// A recorder hears of the steps in the procedure's order.
struct Order {
  static constexpr bool kActive = true;
  std::string heard;
  void Unparsed(const Packet&) { heard += "unparsed "; }
  void Established(const Packet&, const std::optional<Socket>& found,
                   const std::optional<Socket>& passed_over) {
    heard += found ? "established+ " : passed_over ? "established~ " : "established- ";
  }
  void TimeWait(const Packet&, const Socket&) { heard += "time_wait "; }
  void ListenerSkipped(const Packet&, const Socket&) { heard += "skipped "; }
  void Laddr(const Packet&, const Policy&, const Address&, uint16_t, LaddrSource) {
    heard += "laddr ";
  }
  void Listener(const Packet&, const std::optional<Socket>& found,
                const std::optional<Socket>& shadow, const std::optional<Socket>& time_wait) {
    heard += found ? "listener+" : shadow ? "listener~" : "listener-";
    heard += time_wait ? "tw " : " ";
  }
  void Transparent(const Socket&) { heard += "transparent "; }
  void Mark(const Packet&, const Policy&, const Decision&) { heard += "mark"; }
};

TEST_P(DecideTest, RecorderHearsTheStepsInOrder) {
  const auto heard = [&](const Packet& p, std::vector<Socket> sockets) {
    FakeLookup lookup = Lookup(std::move(sockets));
    Order order;
    Decide(p, OnPort(1090), lookup, order);
    return order.heard;
  };
  const Socket listener = Listener(Primary(1090), 2);
  const Socket shadow = Connected(Proto::kUdp, Primary(1090), GetParam().client, 1);
  Packet fragment = TcpPacket();
  fragment.outcome = ParseOutcome::kFragment;
  EXPECT_EQ(heard(fragment, {}), "unparsed mark");
  EXPECT_EQ(heard(TcpPacket(), {TcpFlow(1)}), "established+ skipped transparent mark");
  EXPECT_EQ(heard(TcpPacket(), {listener}), "established- laddr listener+ transparent mark");
  EXPECT_EQ(heard(TcpPacket(), {}), "established- laddr listener- mark");
  EXPECT_EQ(heard(TcpPacket(), {Minisock(TcpFlow(1)), listener}),
            "established+ time_wait laddr listener+tw transparent mark");
  EXPECT_EQ(heard(TcpPacket(), {Minisock(TcpFlow(1))}),
            "established+ time_wait laddr listener-tw transparent mark");
  EXPECT_EQ(heard(TcpPacket(kTcpAck), {Minisock(TcpFlow(1)), listener}),
            "established+ time_wait skipped transparent mark");
  EXPECT_EQ(heard(UdpPacket(), {UdpSocket(GetParam().server, 1)}),
            "established~ laddr listener- mark");
  EXPECT_EQ(heard(UdpPacket(), {shadow}), "established- laddr listener~ mark");
}

}  // namespace
}  // namespace utproxy
