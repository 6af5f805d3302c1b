// SPDX-License-Identifier: GPL-3.0-or-later
#include "decide/listener.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sockets.h"

namespace utproxy {
namespace {

using Sockets = std::vector<Socket>;

const Packet kTcp4 = Tcp("10.0.1.99:40000", "10.0.2.99:80");
const Packet kTcp6 = Tcp("[fd00::2]:40000", "[2001:db8::1]:80");
const Packet kUdp4 = Udp("10.0.1.99:5000", "10.0.2.99:53");
const Packet kUdp6 = Udp("[fd00::2]:5000", "[2001:db8::1]:53");

// The cookie of the choice; 0 for none.
uint64_t Cookie(const ListenerChoice& choice) { return choice.socket ? choice.socket->cookie : 0; }

void Expect(const ListenerChoice& choice, uint64_t cookie, bool certain) {
  EXPECT_EQ(Cookie(choice), cookie);
  EXPECT_EQ(choice.certain, certain);
}

ListenerChoice ChooseTcp(const Packet& p, const Sockets& exact, const Sockets& wildcard) {
  return ChooseTcpListener(p, exact, wildcard, nullptr);
}

TEST(DeviceMatches, UnboundTakesAllAndBoundItsOwn) {
  const Socket unbound = Listener("0.0.0.0:80", 1), bound = OnDevice(unbound, 3);
  EXPECT_TRUE(DeviceMatches(unbound, 0));
  EXPECT_TRUE(DeviceMatches(unbound, 3));
  EXPECT_TRUE(DeviceMatches(bound, 3));
  EXPECT_FALSE(DeviceMatches(bound, 4));
  EXPECT_FALSE(DeviceMatches(bound, 0));
}

TEST(Established, MatchesTheTupleTheFamilyAndTheDevice) {
  const Socket s = Connected(Proto::kTcp, "10.0.2.99:80", "10.0.1.99:40000", 1);
  EXPECT_TRUE(EstablishedMatches(kTcp4, s));
  EXPECT_TRUE(EstablishedMatches(kTcp4, Minisock(s)));
  EXPECT_TRUE(EstablishedMatches(kTcp4, InState(s, SockState::kNewSynRecv)));
  EXPECT_FALSE(EstablishedMatches(kTcp4, InState(s, SockState::kListen)));
  EXPECT_TRUE(EstablishedMatches(kTcp4, OnDevice(s, 3)));
  EXPECT_FALSE(EstablishedMatches(kTcp4, OnDevice(s, 4)));
  // A dual-stack socket's IPv4 connection.
  EXPECT_TRUE(EstablishedMatches(
      kTcp4, Connected(Proto::kTcp, "[::ffff:10.0.2.99]:80", "[::ffff:10.0.1.99]:40000", 1)));
  for (const char* peer : {"10.0.1.99:40001", "10.0.1.98:40000"}) {
    EXPECT_FALSE(EstablishedMatches(kTcp4, Connected(Proto::kTcp, "10.0.2.99:80", peer, 1)));
  }
  for (const char* local : {"10.0.2.99:81", "10.0.2.98:80", "0.0.0.0:80"}) {
    EXPECT_FALSE(EstablishedMatches(kTcp4, Connected(Proto::kTcp, local, "10.0.1.99:40000", 1)));
  }
  EXPECT_FALSE(
      EstablishedMatches(kTcp4, Connected(Proto::kUdp, "10.0.2.99:80", "10.0.1.99:40000", 1)));
  Packet mapped_on_the_wire = kTcp4;
  mapped_on_the_wire.family = Family::kIpv6;
  EXPECT_FALSE(EstablishedMatches(mapped_on_the_wire, s));
}

TEST(Established, SocketsOfOneTupleOnDifferentDevices) {
  const Socket s = Connected(Proto::kTcp, "10.0.2.99:80", "10.0.1.99:40000", 1);
  Socket other = s;
  other.cookie = 2;
  Expect(ChooseEstablished(kTcp4, Sockets{OnDevice(s, 4), OnDevice(other, 3)}), 2, true);
  Expect(ChooseEstablished(kTcp4, Sockets{OnDevice(s, 4), OnDevice(other, 5)}), 0, true);
  Expect(ChooseEstablished(kTcp4, Sockets{OnDevice(s, 3), other}), 1, false);
  Expect(ChooseEstablished(kTcp4, Sockets{}), 0, true);
}

TEST(TcpListener, ExactBeatsWildcardWhateverTheScores) {
  const Sockets exact = {Listener("[::ffff:10.0.1.1]:1090", 1)};        // 1 point
  const Sockets wildcard = {OnDevice(Listener("0.0.0.0:1090", 2), 3)};  // 3 points
  Expect(ChooseTcp(kTcp4, exact, wildcard), 1, true);
  Expect(ChooseTcp(kTcp4, {}, wildcard), 2, true);
  Expect(ChooseTcp(kTcp4, {}, {}), 0, true);
}

TEST(TcpListener, ARefusedExactSocketLeavesItToTheWildcard) {
  const Sockets exact = {OnDevice(Listener("10.0.1.1:1090", 1), 4)};
  Expect(ChooseTcp(kTcp4, exact, {Listener("0.0.0.0:1090", 2)}), 2, true);
  Expect(ChooseTcp(kTcp4, exact, {OnDevice(Listener("0.0.0.0:1090", 2), 4)}), 0, true);
}

TEST(TcpListener, Families) {
  const Socket v4 = Listener("0.0.0.0:1090", 1), dual = Listener("[::]:1090", 2);
  const Socket v6only = V6Only(Listener("[::]:1090", 3));
  Expect(ChooseTcp(kTcp4, {}, {v4}), 1, true);
  Expect(ChooseTcp(kTcp4, {}, {dual}), 2, true);
  Expect(ChooseTcp(kTcp4, {}, {v6only}), 0, true);
  Expect(ChooseTcp(kTcp6, {}, {v4}), 0, true);
  Expect(ChooseTcp(kTcp6, {}, {dual}), 2, true);
  Expect(ChooseTcp(kTcp6, {}, {v6only}), 3, true);
  // One of the pair that can share a port passes for each family.
  Expect(ChooseTcp(kTcp4, {}, {v6only, v4}), 1, true);
  Expect(ChooseTcp(kTcp6, {}, {v4, v6only}), 3, true);
  // AF_INET scores one more for IPv4, whatever the order.
  Expect(ChooseTcp(kTcp4, {}, {dual, v4}), 1, false);
  Expect(ChooseTcp(kTcp4, {}, {v4, dual}), 1, false);
}

TEST(TcpListener, DeviceBoundScoresMore) {
  const Socket unbound = Listener("0.0.0.0:1090", 1);
  const Socket bound = OnDevice(Listener("0.0.0.0:1090", 2), 3);
  const Socket elsewhere = OnDevice(Listener("0.0.0.0:1090", 3), 4);
  Expect(ChooseTcp(kTcp4, {}, {unbound, bound, elsewhere}), 2, false);
  Expect(ChooseTcp(kTcp4, {}, {unbound, elsewhere}), 1, true);
  const Socket unbound6 = Listener("[fd00::1]:1090", 4);
  Expect(ChooseTcp(kTcp6, {unbound6, OnDevice(Listener("[fd00::1]:1090", 5), 3)}, {}), 5, false);
}

TEST(TcpListener, OnATieTheFirstInChainOrder) {
  const Socket a = Listener("10.0.1.1:1090", 1), b = Listener("10.0.1.1:1090", 2);
  Expect(ChooseTcp(kTcp4, {a, b}, {}), 1, false);
  Expect(ChooseTcp(kTcp4, {b, a}, {}), 2, false);
}

TEST(TcpListener, ScoresAreTheKernels) {
  struct {
    Packet packet;
    Socket socket;
    int score;
  } const cases[] = {
      {kTcp4, Listener("0.0.0.0:1090", 1), 2},
      {kTcp4, Listener("[::]:1090", 1), 1},
      {kTcp4, OnDevice(Listener("0.0.0.0:1090", 1), 3), 3},
      {kTcp4, OnDevice(Listener("[::]:1090", 1), 3), 2},
      {kTcp6, Listener("[::]:1090", 1), 1},
      {kTcp6, OnDevice(Listener("[::]:1090", 1), 3), 2},
      {kTcp6, Listener("0.0.0.0:1090", 1), -1},
      {kTcp4, OnDevice(Listener("0.0.0.0:1090", 1), 4), -1},
  };
  for (const auto& c : cases) {
    std::vector<Candidate> candidates;
    ChooseTcpListener(c.packet, {}, Sockets{c.socket}, &candidates);
    ASSERT_EQ(candidates.size(), 1u);
    EXPECT_EQ(candidates[0].score, c.score) << candidates[0].why;
    EXPECT_EQ(candidates[0].chosen, c.score > 0);
  }
}

TEST(Udp, ScoresAreTheKernels) {
  const Socket v4 = UdpSocket("10.0.1.1:1090", 1), v6 = UdpSocket("[fd00::1]:1090", 1);
  const Socket connected4 = Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.99:5000", 1);
  const Socket mapped =
      Connected(Proto::kUdp, "[::ffff:10.0.1.1]:1090", "[::ffff:10.0.1.99]:5000", 1);
  const Socket connected6 = Connected(Proto::kUdp, "[fd00::1]:1090", "[fd00::2]:5000", 1);
  struct {
    Packet packet;
    Socket socket;
    int score;
  } const cases[] = {
      {kUdp4, v4, 2},
      {kUdp4, OnDevice(v4, 3), 6},
      {kUdp4, UdpSocket("[::ffff:10.0.1.1]:1090", 1), 1},
      {kUdp4, connected4, 10},
      {kUdp4, OnDevice(connected4, 3), 14},
      {kUdp4, mapped, 9},
      {kUdp4, Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.99:5001", 1), -1},
      {kUdp4, Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.98:5000", 1), -1},
      {kUdp4, OnDevice(v4, 4), -1},
      {kUdp6, v6, 0},
      {kUdp6, OnDevice(v6, 3), 1},
      {kUdp6, connected6, 2},
      {kUdp6, OnDevice(connected6, 3), 3},
      {kUdp6, OnDevice(connected6, 4), -1},
      {kUdp6, v4, -1},
  };
  for (const auto& c : cases) {
    std::vector<Candidate> candidates;
    const ListenerChoice choice = ChooseUdp(c.packet, {}, Sockets{c.socket}, {}, &candidates);
    ASSERT_EQ(candidates.size(), 1u);
    EXPECT_EQ(candidates[0].score, c.score) << candidates[0].why;
    EXPECT_EQ(choice.socket.has_value(), c.score >= 0);
    EXPECT_TRUE(choice.certain);
  }
}

TEST(Udp, ConnectedThenExactThenWildcard) {
  const Sockets connected = {Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.99:5000", 1)};
  const Sockets exact = {OnDevice(UdpSocket("10.0.1.1:1090", 2), 3)};
  const Sockets wildcard = {OnDevice(UdpSocket("0.0.0.0:1090", 3), 3)};
  Expect(ChooseUdp(kUdp4, connected, {}, wildcard, nullptr), 1, true);
  Expect(ChooseUdp(kUdp4, connected, exact, wildcard, nullptr), 1, false);
  Expect(ChooseUdp(kUdp4, {}, exact, wildcard, nullptr), 2, true);
  Expect(ChooseUdp(kUdp4, {}, {}, wildcard, nullptr), 3, true);
  Expect(ChooseUdp(kUdp4, {}, {}, {}, nullptr), 0, true);
}

TEST(Udp, SocketsConnectedToOthersDoNotCount) {
  const Sockets exact = {Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.50:5000", 1),
                         Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.51:5000", 2)};
  Expect(ChooseUdp(kUdp4, {}, exact, Sockets{UdpSocket("0.0.0.0:1090", 3)}, nullptr), 3, true);
  const Sockets connected = {Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.99:5000", 4)};
  Expect(ChooseUdp(kUdp4, connected, exact, {}, nullptr), 4, true);
}

TEST(Udp, ConnectedOnAnotherDeviceIsRefused) {
  const Sockets connected = {
      OnDevice(Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.99:5000", 1), 4)};
  Expect(ChooseUdp(kUdp4, connected, {}, Sockets{UdpSocket("[::]:1090", 2)}, nullptr), 2, true);
}

TEST(Udp, ConnectedAtTheWildcardAddressOutscoresItsBucket) {
  Socket connected = Connected(Proto::kUdp, "0.0.0.0:1090", "10.0.1.99:5000", 1);
  Expect(ChooseUdp(kUdp4, {}, {}, Sockets{UdpSocket("0.0.0.0:1090", 2), connected}, nullptr), 1,
         false);
}

TEST(Udp, DualStackAndV6Only) {
  const Socket dual = UdpSocket("[::]:1090", 1), v6only = V6Only(UdpSocket("[::]:1090", 2));
  const Socket v4 = UdpSocket("0.0.0.0:1090", 3);
  Expect(ChooseUdp(kUdp4, {}, {}, Sockets{v6only, v4}, nullptr), 3, true);
  Expect(ChooseUdp(kUdp6, {}, {}, Sockets{v4, v6only}, nullptr), 2, true);
  Expect(ChooseUdp(kUdp4, {}, {}, Sockets{dual, v4}, nullptr), 3, false);
  Expect(ChooseUdp(kUdp4, {}, {}, Sockets{dual}, nullptr), 1, true);
}

std::string Why(const std::vector<Candidate>& candidates, uint64_t cookie) {
  for (const Candidate& c : candidates) {
    if (c.socket.cookie == cookie) return c.why;
  }
  return "no such candidate";
}

TEST(Candidates, SayWhy) {
  std::vector<Candidate> c;
  const Sockets wildcard = {OnDevice(Listener("0.0.0.0:1090", 1), 4),
                            V6Only(Listener("[::]:1090", 2)), Listener("0.0.0.0:1090", 3),
                            Listener("0.0.0.0:1090", 4), Listener("[::]:1090", 5)};
  EXPECT_EQ(Cookie(ChooseTcpListener(kTcp4, {}, wildcard, &c)), 3u);
  EXPECT_EQ(c.size(), wildcard.size());
  EXPECT_EQ(Why(c, 1),
            "Refused: SO_BINDTODEVICE binds it to ifindex 4, and the packet came in on ifindex 3.");
  EXPECT_EQ(Why(c, 2), "Refused: IPV6_V6ONLY is set, so it takes no IPv4 packets.");
  EXPECT_EQ(Why(c, 3),
            "Chosen with score 2: 1 for matching address and port, 1 for being AF_INET.");
  EXPECT_NE(Why(c, 4).find("no more than one before it in the chain"), std::string::npos);
  EXPECT_NE(Why(c, 5).find("scores 1, less than the best with 2"), std::string::npos);

  c.clear();
  ChooseTcpListener(kTcp4, Sockets{Listener("10.0.1.1:1090", 6)}, wildcard, &c);
  EXPECT_EQ(c.size(), wildcard.size() + 1);
  EXPECT_EQ(Why(c, 3),
            "Not considered: 10.0.1.1:1090 is bound to the address itself, and no wildcard bind is "
            "looked at after such a match.");

  c.clear();
  ChooseTcpListener(kTcp6, {}, wildcard, &c);
  EXPECT_EQ(Why(c, 3), "Refused: an AF_INET socket takes no IPv6 packets.");
}

TEST(Candidates, SayWhyForUdp) {
  std::vector<Candidate> c;
  const Sockets connected = {Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.99:5000", 1)};
  const Sockets exact = {UdpSocket("10.0.1.1:1090", 2),
                         Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.50:5000", 3)};
  ChooseUdp(kUdp4, connected, exact, Sockets{UdpSocket("0.0.0.0:1090", 4)}, &c);
  EXPECT_NE(Why(c, 1).find("Chosen with score 10: 1 for matching"), std::string::npos);
  EXPECT_NE(Why(c, 2).find("comes before unconnected ones"), std::string::npos);
  EXPECT_EQ(Why(c, 3),
            "Refused: it is connected to 10.0.1.50:5000, and the packet comes from "
            "10.0.1.99:5000.");
  EXPECT_NE(Why(c, 4).find("Not considered"), std::string::npos);
  c.clear();
  ChooseUdp(kUdp6, {}, {}, Sockets{UdpSocket("[::]:1090", 5)}, &c);
  EXPECT_TRUE(c[0].chosen);
  EXPECT_NE(c[0].why.find("score 0"), std::string::npos);
}

}  // namespace
}  // namespace utproxy
