// SPDX-License-Identifier: GPL-3.0-or-later
#include "decide/list_lookup.h"

#include <gtest/gtest.h>
#include <linux/if_addr.h>

#include <string>
#include <vector>

#include "sockets.h"

namespace utproxy {
namespace {

constexpr uint32_t kIif = 3;  // what MakePacket's packets come in on

std::vector<InterfaceAddress> Addresses() {
  return {
      {2, Family::kIpv4, Addr("10.0.9.1"), 0},
      {kIif, Family::kIpv6, Addr("fd00::b"), IFA_F_TENTATIVE},
      {kIif, Family::kIpv6, Addr("fd00::a"), IFA_F_DEPRECATED | IFA_F_PERMANENT},
      {kIif, Family::kIpv4, Addr("10.0.1.7"), IFA_F_SECONDARY},
      {kIif, Family::kIpv4, Addr("10.0.1.1"), IFA_F_PERMANENT},
      {kIif, Family::kIpv4, Addr("10.0.1.2"), IFA_F_PERMANENT},
      {kIif, Family::kIpv6, Addr("fd00::1"), IFA_F_PERMANENT},
      {kIif, Family::kIpv6, Addr("fe80::1"), IFA_F_PERMANENT},
  };
}

TEST(PrimaryAddress, IsTheFirstThatQualifies) {
  const auto a = Addresses();
  EXPECT_EQ(PrimaryAddressOf(a, kIif, Family::kIpv4), Addr("10.0.1.1"));
  EXPECT_EQ(PrimaryAddressOf(a, kIif, Family::kIpv6), Addr("fd00::1"));
  EXPECT_EQ(PrimaryAddressOf(a, 2, Family::kIpv4), Addr("10.0.9.1"));
  EXPECT_EQ(PrimaryAddressOf(a, 2, Family::kIpv6), std::nullopt);
  EXPECT_EQ(PrimaryAddressOf(a, 9, Family::kIpv4), std::nullopt);
}

// IFA_F_SECONDARY is IFA_F_TEMPORARY in IPv6 (RFC 8981), and no hindrance there.
TEST(PrimaryAddress, TemporaryIpv6AddressQualifies) {
  const std::vector<InterfaceAddress> a = {{1, Family::kIpv6, Addr("fd00::7"), IFA_F_TEMPORARY}};
  EXPECT_EQ(PrimaryAddressOf(a, 1, Family::kIpv6), Addr("fd00::7"));
}

struct Case {
  const char* name;
  Packet packet;
  std::vector<Socket> sockets;
  Reason reason;
  uint64_t cookie;  // 0: none
  bool certain;
  Policy policy = {.on_port = 1090};
};

const Packet kTcp4 = Tcp("10.0.1.99:40000", "10.0.2.99:80");
const Packet kTcp6 = Tcp("[fd00::2]:40000", "[2001:db8::1]:80");
const Packet kUdp4 = Udp("10.0.1.99:5000", "10.0.2.99:53");
const Packet kUdp6 = Udp("[fd00::2]:5000", "[2001:db8::1]:53");

std::vector<Case> Cases() {
  const Socket tcp_flow = Connected(Proto::kTcp, "10.0.2.99:80", "10.0.1.99:40000", 1);
  const Socket dual_flow =
      Connected(Proto::kTcp, "[::ffff:10.0.2.99]:80", "[::ffff:10.0.1.99]:40000", 1);
  const Socket udp_flow = Connected(Proto::kUdp, "10.0.2.99:53", "10.0.1.99:5000", 1);
  const Policy own_port{.on_port = 0};
  const Policy on_ip{.on_port = 0, .on_ip4 = Addr("10.0.2.99")};
  return {
      {"listener on the primary address",
       kTcp4,
       {Listener("10.0.1.1:1090", 1)},
       Reason::kListener,
       1,
       true},
      {"listener on the wildcard address",
       kTcp4,
       {Listener("0.0.0.0:1090", 1)},
       Reason::kListener,
       1,
       true},
      {"dual-stack listener", kTcp4, {Listener("[::]:1090", 1)}, Reason::kListener, 1, true},
      {"listener on a secondary address",
       kTcp4,
       {Listener("10.0.1.7:1090", 1)},
       Reason::kNoSocket,
       0,
       true},
      {"listener on the packet's destination",
       kTcp4,
       {Listener("10.0.2.99:80", 1)},
       Reason::kNoSocket,
       0,
       true,
       own_port},
      {"the same with --on-ip",
       kTcp4,
       {Listener("10.0.2.99:80", 1)},
       Reason::kListener,
       1,
       true,
       on_ip},
      {"IPv6 listener", kTcp6, {Listener("[fd00::1]:1090", 1)}, Reason::kListener, 1, true},
      {"IPv6 packet, IPv4 listener",
       kTcp6,
       {Listener("0.0.0.0:1090", 1)},
       Reason::kNoSocket,
       0,
       true},
      {"UDP socket of the port is no TCP listener",
       kTcp4,
       {UdpSocket("0.0.0.0:1090", 1)},
       Reason::kNoSocket,
       0,
       true},
      {"TCP listener of the port is no UDP socket",
       kUdp4,
       {Listener("0.0.0.0:1090", 1)},
       Reason::kNoSocket,
       0,
       true},
      {"established",
       kTcp4,
       {Listener("0.0.0.0:1090", 2), tcp_flow},
       Reason::kEstablished,
       1,
       true},
      {"established, dual-stack",
       kTcp4,
       {Listener("[::]:1090", 2), dual_flow},
       Reason::kEstablished,
       1,
       true},
      {"established on another device",
       kTcp4,
       {OnDevice(tcp_flow, 4), Listener("0.0.0.0:1090", 2)},
       Reason::kListener,
       2,
       true},
      {"TIME_WAIT reopened",
       kTcp4,
       {Minisock(tcp_flow), Listener("0.0.0.0:1090", 2)},
       Reason::kTimeWaitReopened,
       2,
       true},
      {"two listeners of one address",
       kTcp4,
       {Listener("10.0.1.1:1090", 1), Listener("10.0.1.1:1090", 2)},
       Reason::kListener,
       1,
       false},
      {"UDP listener", kUdp4, {UdpSocket("0.0.0.0:1090", 1)}, Reason::kListener, 1, true},
      {"UDP listener, IPv6", kUdp6, {UdpSocket("[::]:1090", 1)}, Reason::kListener, 1, true},
      {"UDP connected",
       kUdp4,
       {udp_flow, UdpSocket("0.0.0.0:1090", 2)},
       Reason::kEstablished,
       1,
       true},
      {"UDP reply socket at the destination",
       kUdp4,
       {UdpSocket("10.0.2.99:53", 1), UdpSocket("0.0.0.0:1090", 2)},
       Reason::kListener,
       2,
       true},
      {"UDP listener shadowed",
       kUdp4,
       {Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.99:5000", 1), UdpSocket("0.0.0.0:1090", 2)},
       Reason::kNoSocket,
       0,
       true},
      {"UDP connected to another peer shadows nothing",
       kUdp4,
       {Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.98:5000", 1), UdpSocket("0.0.0.0:1090", 2)},
       Reason::kListener,
       2,
       true},
      {"uncertain at the destination only",
       kUdp4,
       {UdpSocket("10.0.2.99:53", 1), UdpSocket("10.0.2.99:53", 2), UdpSocket("0.0.0.0:1090", 3)},
       Reason::kListener,
       3,
       false},
      {"not transparent",
       kTcp4,
       {Opaque(Listener("0.0.0.0:1090", 1))},
       Reason::kNotTransparent,
       1,
       true},
      {"listener on another device",
       kTcp4,
       {OnDevice(Listener("0.0.0.0:1090", 1), 4)},
       Reason::kNoSocket,
       0,
       true},
  };
}

TEST(ListLookup, Decides) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.name);
    ListLookup lookup(c.sockets, Addresses());
    const Decision d = Decide(c.packet, c.policy, lookup);
    EXPECT_STREQ(ReasonName(d.reason), ReasonName(c.reason));
    EXPECT_EQ(d.socket ? d.socket->cookie : 0, c.cookie);
    EXPECT_EQ(lookup.certain(), c.certain);
    lookup.Restart();
    EXPECT_TRUE(lookup.certain());
  }
}

TEST(ListLookup, ChainOrderIsSocketOrder) {
  Socket first = Listener("10.0.1.1:1090", 1), second = Listener("10.0.1.1:1090", 2);
  first.order = 1;
  second.order = 2;
  ListLookup lookup({second, first}, Addresses());
  EXPECT_EQ(lookup.TcpListener(kTcp4, Addr("10.0.1.1"), 1090)->cookie, 1u);
}

TEST(ListLookup, TellsASocketOfTheFlowFromOthersOfItsAddress) {
  ListLookup lookup(
      {UdpSocket("10.0.1.1:1090", 1), Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.99:5000", 2)},
      Addresses());
  lookup.CollectCandidates(true);
  EXPECT_EQ(lookup.Udp(kUdp4, Addr("10.0.1.1"), 1090)->cookie, 2u);
  ASSERT_EQ(lookup.candidates().size(), 2u);
  EXPECT_TRUE(lookup.candidates()[0].chosen);
  EXPECT_NE(lookup.candidates()[1].why.find("a connected socket of this very flow"),
            std::string::npos);
}

TEST(ListLookup, CandidatesWhenAsked) {
  ListLookup lookup(
      {Listener("0.0.0.0:1090", 1), Listener("10.0.2.99:1090", 2), Listener("0.0.0.0:80", 3),
       UdpSocket("0.0.0.0:1090", 4), Connected(Proto::kTcp, "10.0.2.99:1090", "10.0.1.98:1", 5)},
      Addresses());
  lookup.TcpListener(kTcp4, Addr("10.0.1.1"), 1090);
  EXPECT_TRUE(lookup.candidates().empty());
  lookup.CollectCandidates(true);
  for (int again = 0; again < 2; ++again) {
    lookup.TcpListener(kTcp4, Addr("10.0.1.1"), 1090);
    ASSERT_EQ(lookup.candidates().size(), 2u);  // none of another port, protocol or state
    EXPECT_TRUE(lookup.candidates()[0].chosen);
    EXPECT_EQ(lookup.candidates()[1].score, -1);
    EXPECT_EQ(lookup.candidates()[1].why,
              "Refused: it is bound to 10.0.2.99, and the lookup is for 10.0.1.1.");
  }
  lookup.Udp(kUdp4, Addr("10.0.1.1"), 1090);
  ASSERT_EQ(lookup.candidates().size(), 1u);
  EXPECT_EQ(lookup.candidates()[0].socket.cookie, 4u);
  lookup.Restart();
  EXPECT_TRUE(lookup.candidates().empty());
}

}  // namespace
}  // namespace utproxy
