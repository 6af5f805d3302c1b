// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/json.h"

#include <gtest/gtest.h>

#include "packet_spec.h"
#include "text.h"

namespace utproxy::tools {
namespace {

std::string NameOf(uint32_t ifindex) { return ifindex == 0 ? "" : ifindex == 3 ? "veth0" : "?"; }

absl::StatusOr<uint32_t> IndexOf(absl::string_view name) {
  if (name.empty()) return 0u;
  if (name == "veth0") return 3u;
  return absl::InvalidArgumentError("no interface of this name");
}

Packet SynPacket() {
  Packet packet;
  packet.src = *Address::Parse("10.0.1.99");
  packet.dst = *Address::Parse("10.0.2.99");
  packet.sport = 40000;
  packet.dport = 8080;
  packet.protocol = IPPROTO_TCP;
  packet.tcp_flags = kTcpSyn;
  packet.iif = 3;
  packet.mark = 0x10;
  return packet;
}

Socket Listener() {
  Socket socket;
  socket.local_port = 12345;
  socket.proto = Proto::kTcp;
  socket.state = SockState::kListen;
  socket.flags = Socket::kTransparent | Socket::kTransparentKnown;
  socket.cookie = 0xfedcba9876543210u;
  socket.inode = 77;
  socket.mark = 0x111;
  return socket;
}

constexpr char kListenerJson[] =
    R"({"family":"ipv4","proto":"tcp","state":"LISTEN","local":"0.0.0.0:12345",)"
    R"("peer":"0.0.0.0:0","iif":"","transparent":true,"cookie":18364758544493064720,)"
    R"("inode":77,"so_mark":"0x111")";
constexpr char kPacketJson[] =
    R"({"family":"ipv4","proto":"tcp","src":"10.0.1.99","sport":40000,"dst":"10.0.2.99",)"
    R"("dport":8080,"iif":"veth0","flags":"S","mark":"0x10"})";

TEST(Json, Socket) {
  EXPECT_EQ(JsonLine(ToJson(Listener(), NameOf)), std::string(kListenerJson) + "}");
  EXPECT_EQ(JsonLine(ToJson(Listener(), NameOf, SocketOwner{.pid = 42, .comm = "nc"})),
            std::string(kListenerJson) + R"(,"pid":42,"comm":"nc"})");
}

TEST(Json, SocketOfADualStackListenersConnection) {
  Socket socket;
  socket.local = *Address::Parse("192.0.2.1");
  socket.remote = *Address::Parse("10.0.0.1");
  socket.local_port = 80;
  socket.remote_port = 5000;
  socket.state = SockState::kFinWait2;
  socket.flags = Socket::kInet6 | Socket::kMinisock;
  socket.ifindex = 3;
  EXPECT_EQ(JsonLine(ToJson(socket, NameOf)),
            R"({"family":"ipv6","proto":"tcp","state":"FIN_WAIT2","local":"[::ffff:192.0.2.1]:80",)"
            R"("peer":"[::ffff:10.0.0.1]:5000","iif":"veth0","transparent":null,"cookie":0,)"
            R"("inode":0,"so_mark":"0x0","minisock":true})");
}

TEST(Json, Packet) { EXPECT_EQ(JsonLine(ToJson(SynPacket(), NameOf)), kPacketJson); }

TEST(Json, PacketOfAnotherProtocol) {
  Packet packet;
  packet.family = Family::kIpv6;
  packet.protocol = IPPROTO_ICMPV6;
  packet.tcp_flags = 0x3f;
  EXPECT_EQ(JsonLine(ToJson(packet, NameOf)),
            R"({"family":"ipv6","proto":"58","src":"::","sport":0,"dst":"::","dport":0,"iif":"",)"
            R"("flags":"FSRPAU","mark":"0x0"})");
}

TEST(Json, Decision) {
  Decision decision;
  decision.verdict = Verdict::kAccept;
  decision.reason = Reason::kListener;
  decision.mark = 0x11;
  decision.listener_looked_up = true;
  decision.laddr = *Address::Parse("10.0.1.1");
  decision.lport = 12345;
  decision.socket = Listener();
  EXPECT_EQ(JsonLine(ToJson(decision, SynPacket(), NameOf)),
            std::string(R"({"verdict":"accept","reason":"listener","mark":"0x11",)"
                        R"("laddr":"10.0.1.1","lport":12345,"socket":)") +
                kListenerJson + R"(},"packet":)" + kPacketJson + "}");
}

TEST(Json, DecisionWithoutListenerLookup) {
  Decision decision;
  decision.reason = Reason::kHeaderTruncated;
  EXPECT_EQ(JsonLine(ToJson(decision, SynPacket(), NameOf)),
            std::string(R"({"verdict":"drop","reason":"header_truncated","mark":"0x0",)"
                        R"("socket":null,"packet":)") +
                kPacketJson + "}");
}

TEST(Json, BytesThatAreNotUtf8AreReplaced) {
  EXPECT_EQ(JsonLine(ToJson(Listener(), NameOf, SocketOwner{.pid = 1, .comm = "a\xff"}))
                .substr(sizeof kListenerJson - 1),
            ",\"pid\":1,\"comm\":\"a\\ufffd\"}");
  EXPECT_EQ(JsonLine(Json("\xc2\x9b\xe2\x80\xae")), "\"\\u009b\\u202e\"");
}

TEST(Json, ASocketReadBackIsTheSame) {
  Socket mini = Listener();
  mini.flags = Socket::kInet6 | Socket::kMinisock | Socket::kTransparentKnown;
  mini.state = SockState::kTimeWait;
  mini.local = *Address::Parse("192.0.2.1");
  mini.remote = *Address::Parse("10.0.0.1");
  Socket udp = Listener();
  udp.proto = Proto::kUdp;
  udp.state = SockState::kClose;
  udp.flags = Socket::kInet6 | Socket::kV6Only | Socket::kTransparent | Socket::kTransparentKnown;
  udp.local = *Address::Parse("2001:db8::1");
  udp.ifindex = 3;
  Socket unknown = Listener();
  unknown.flags = 0;
  for (const Socket& socket : {Listener(), mini, udp, unknown}) {
    const Json json = Json::parse(JsonLine(ToJson(socket, NameOf)));
    const absl::StatusOr<Socket> back = SocketFromJson(json, IndexOf);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, socket) << JsonLine(json);
  }
}

TEST(Json, EveryMalformedKeyIsNamed) {
  const Json good = ToJson(Listener(), NameOf);
  for (const char* key :
       {"family", "proto", "state", "local", "peer", "transparent", "cookie", "inode", "so_mark"}) {
    for (const Json& wrong : {Json("?"), Json(-1), Json(1.5), Json::array()}) {
      Json json = good;
      json[key] = wrong;
      const absl::StatusOr<Socket> socket = SocketFromJson(json, IndexOf);
      ASSERT_FALSE(socket.ok()) << key << wrong;
      EXPECT_EQ(socket.status().message(),
                std::string("socket: key '") + key + "' missing or malformed");
    }
    Json json = good;
    json.erase(key);
    EXPECT_FALSE(SocketFromJson(json, IndexOf).ok()) << key;
  }
  Json wrong_family = good;
  wrong_family["local"] = "[::1]:80";
  EXPECT_FALSE(SocketFromJson(wrong_family, IndexOf).ok());
  Json wrong_iif = good;
  wrong_iif["iif"] = "nowhere";
  EXPECT_FALSE(SocketFromJson(wrong_iif, IndexOf).ok());
  Json huge = good;
  huge["inode"] = uint64_t{1} << 32;
  EXPECT_FALSE(SocketFromJson(huge, IndexOf).ok());
  huge = good;
  huge["so_mark"] = "0x100000000";
  EXPECT_FALSE(SocketFromJson(huge, IndexOf).ok());
  EXPECT_FALSE(SocketFromJson(Json::array(), IndexOf).ok());
}

TEST(PacketLine, ReadsTheWholeForm) {
  auto packet = ParsePacketLine(
      "tcp 10.0.1.99:40000\t10.0.2.99:8080 --iif veth0 --flags S --mark 0x10\n", IndexOf);
  ASSERT_TRUE(packet.ok()) << packet.status();
  EXPECT_EQ(JsonLine(ToJson(*packet, NameOf)), kPacketJson);
  packet = ParsePacketLine("tcp 10.0.1.99:40000 10.0.2.99:8080", IndexOf);
  ASSERT_TRUE(packet.ok());
  EXPECT_EQ(packet->tcp_flags, kTcpSyn) << "the default";
  EXPECT_EQ(packet->iif, 0u);
  packet = ParsePacketLine("--flags= tcp 10.0.1.99:1 10.0.2.99:2", IndexOf);
  ASSERT_TRUE(packet.ok());
  EXPECT_EQ(packet->tcp_flags, 0);
  packet = ParsePacketLine("udp [fd00::2]:5000 [2001:db8::1]:53 --mark=1", IndexOf);
  ASSERT_TRUE(packet.ok());
  EXPECT_EQ(packet->family, Family::kIpv6);
  EXPECT_EQ(packet->protocol, IPPROTO_UDP);
  EXPECT_EQ(packet->tcp_flags, 0);
  packet = ParsePacketLine("tcp 1.1.1.1:1 2.2.2.2:2 --flags UAPRSF", IndexOf);
  ASSERT_TRUE(packet.ok());
  EXPECT_EQ(packet->tcp_flags, 0x3f);
}

TEST(PacketLine, WrongWordsAreNamed) {
  const auto error = [](const char* line) {
    const auto packet = ParsePacketLine(line, IndexOf);
    EXPECT_FALSE(packet.ok()) << line;
    EXPECT_TRUE(IsUsageError(packet.status())) << line;
    return std::string(packet.status().message());
  };
  EXPECT_EQ(error(""), "PROTO: missing");
  EXPECT_EQ(error("tcp"), "SRC: missing");
  EXPECT_EQ(error("tcp 1.1.1.1:1"), "DST: missing");
  EXPECT_EQ(error("icmp 1.1.1.1:1 1.1.1.1:1"), "icmp: protocol must be tcp or udp");
  EXPECT_EQ(error("tcp 1.1.1.1 1.1.1.1:1"),
            "1.1.1.1: must be an address and a port such as 192.0.2.1:53 or [2001:db8::1]:53");
  EXPECT_EQ(error("tcp 1.1.1.1:70000 1.1.1.1:1"),
            "1.1.1.1:70000: must be an address and a port such as 192.0.2.1:53 or "
            "[2001:db8::1]:53");
  EXPECT_EQ(error("tcp 1.1.1.1:1 [::1]:1"), "[::1]:1: not of the family of 1.1.1.1:1");
  EXPECT_EQ(error("tcp [::ffff:1.1.1.1]:1 [::1]:1"),
            "[::ffff:1.1.1.1]:1: is an IPv4-mapped address; write it as IPv4");
  EXPECT_EQ(error("tcp 1.1.1.1:1 1.1.1.2:1 more"), "more: unexpected argument");
  EXPECT_EQ(error("tcp 1.1.1.1:1 1.1.1.2:1 --iif eth9"), "--iif eth9: no interface of this name");
  EXPECT_EQ(error("tcp 1.1.1.1:1 1.1.1.2:1 --flags SX"),
            "--flags SX: flags must be letters of FSRPAU");
  EXPECT_EQ(error("udp 1.1.1.1:1 1.1.1.2:1 --flags S"), "--flags: udp has none");
  EXPECT_EQ(error("tcp 1.1.1.1:1 1.1.1.2:1 --mark x"),
            "--mark x: mark must be a number such as 1, 0x1 or 0x1/0xff");
  EXPECT_EQ(error("tcp 1.1.1.1:1 1.1.1.2:1 --on-port 1"), "--on-port: unknown option");
}

TEST(PacketLine, SystemInterfaces) {
  EXPECT_EQ(SystemInterfaceName(0), "");
  EXPECT_EQ(SystemInterfaceName(0x7fffffff), "2147483647");
  EXPECT_FALSE(SystemInterfaceIndex("utp-none").ok());
  EXPECT_FALSE(SystemInterfaceIndex("").ok());
  const auto lo = SystemInterfaceIndex("lo");
  if (!lo.ok()) GTEST_SKIP() << "SKIP: no lo in this namespace";
  EXPECT_EQ(SystemInterfaceName(*lo), "lo");
}

TEST(Text, TablesAreAligned) {
  TextTable table({"NAME", "COUNT", "WHY"}, {1});
  table.Add({"a", "1", "short"});
  table.Add({"a longer one", {"1000", Color::kBad}, "x"});
  table.Add({"\xc3\xa9", "2"});
  EXPECT_EQ(table.ToString(false),
            "NAME          COUNT  WHY\n"
            "a                 1  short\n"
            "a longer one   1000  x\n"
            "\xc3\xa9                 2\n");
  EXPECT_NE(table.ToString(true).find(" \x1b[31m1000\x1b[0m  x"), std::string::npos);
}

TEST(Text, ColoursOnlyWhereAsked) {
  EXPECT_EQ(Paint("x", Color::kGood, false), "x");
  EXPECT_EQ(Paint("x", Color::kGood, true), "\x1b[32mx\x1b[0m");
}

}  // namespace
}  // namespace utproxy::tools
