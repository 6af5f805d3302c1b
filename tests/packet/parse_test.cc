// SPDX-License-Identifier: GPL-3.0-or-later
#include "utproxy/parse.h"

#include <gtest/gtest.h>
#include <netinet/in.h>

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "packet/build.h"

namespace utproxy {

// Names in test output.
void PrintTo(const ParseOutcome& outcome, std::ostream* os) {
  static constexpr const char* kNames[] = {"kOk", "kHeaderTruncated", "kFragment", "kNotTcpOrUdp"};
  *os << kNames[static_cast<int>(outcome)];
}

namespace {

using Bytes = std::vector<uint8_t>;
constexpr auto kTruncated = ParseOutcome::kHeaderTruncated;

// From a buffer of exactly this size, so that the address sanitizer sees a byte read too many.
Packet Parse(const Bytes& bytes, size_t true_length) {
  const auto copy = std::make_unique<uint8_t[]>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), copy.get());
  Packet out{.iif = 7, .mark = 0x70};
  ParsePacket(absl::MakeSpan(copy.get(), bytes.size()), static_cast<uint32_t>(true_length), &out);
  EXPECT_EQ(out.iif, 7u);
  EXPECT_EQ(out.mark, 0x70u);
  return out;
}
Packet Parse(const Bytes& bytes) { return Parse(bytes, bytes.size()); }

Bytes Cut(Bytes bytes, size_t size) {
  bytes.resize(size);
  return bytes;
}

Packet Flow(Family family, uint8_t protocol) {
  const bool v4 = family == Family::kIpv4;
  return Packet{.src = *Address::Parse(v4 ? "10.0.1.99" : "fd00::2"),
                .dst = *Address::Parse(v4 ? "10.0.2.99" : "2001:db8::1"),
                .sport = 40000,
                .dport = 8080,
                .family = family,
                .protocol = protocol,
                .tcp_flags = protocol == IPPROTO_TCP ? kTcpSyn : uint8_t{0}};
}
const Packet kTcp4 = Flow(Family::kIpv4, IPPROTO_TCP);
const Packet kUdp4 = Flow(Family::kIpv4, IPPROTO_UDP);
const Packet kTcp6 = Flow(Family::kIpv6, IPPROTO_TCP);
const Packet kUdp6 = Flow(Family::kIpv6, IPPROTO_UDP);

void ExpectSameFlow(const Packet& got, const Packet& want) {
  EXPECT_EQ(got.outcome, ParseOutcome::kOk);
  EXPECT_EQ(got.src, want.src);
  EXPECT_EQ(got.dst, want.dst);
  EXPECT_EQ(got.sport, want.sport);
  EXPECT_EQ(got.dport, want.dport);
  EXPECT_EQ(got.family, want.family);
  EXPECT_EQ(got.protocol, want.protocol);
  EXPECT_EQ(got.tcp_flags, want.tcp_flags);
}

// A miss has its addresses, but neither ports nor flags.
void ExpectMiss(const Packet& got, const Packet& addresses, ParseOutcome outcome) {
  EXPECT_EQ(got.outcome, outcome);
  EXPECT_EQ(got.src, addresses.src);
  EXPECT_EQ(got.dst, addresses.dst);
  EXPECT_EQ(got.family, addresses.family);
  EXPECT_EQ(got.sport, 0);
  EXPECT_EQ(got.dport, 0);
  EXPECT_EQ(got.tcp_flags, 0);
}

// Written out byte by byte, so that the parser is not tested against the builder alone.
TEST(ParsePacket, ReadsAnIpv4SynByteByByte) {
  const Bytes syn = {0x45, 0, 0,   40, 0x12, 0x34, 0x40, 0,    64, 6,  0, 0, 192, 0,
                     2,    1, 198, 51, 100,  7,    0x9c, 64,   0,  80, 1, 2, 3,   4,
                     0,    0, 0,   0,  0x50, 0x02, 0xff, 0xff, 0,  0,  0, 0};
  ASSERT_EQ(syn.size(), 40u);
  const Packet p = Parse(syn);
  EXPECT_EQ(p.outcome, ParseOutcome::kOk);
  EXPECT_EQ(p.src, Address::Parse("192.0.2.1"));
  EXPECT_EQ(p.dst, Address::Parse("198.51.100.7"));
  EXPECT_EQ(p.sport, 40000);
  EXPECT_EQ(p.dport, 80);
  EXPECT_TRUE(p.is_tcp());
  EXPECT_TRUE(p.is_pure_syn());
  EXPECT_EQ(p.family, Family::kIpv4);
}

TEST(ParsePacket, ReadsAnIpv6DatagramBehindHopByHopByteByByte) {
  Bytes b = {0x60, 0, 0, 0, 0, 16, 0, 64};
  const auto src = Address::Parse("fd00::2")->bytes(), dst = Address::Parse("2001:db8::1")->bytes();
  b.insert(b.end(), src.begin(), src.end());
  b.insert(b.end(), dst.begin(), dst.end());
  b.insert(b.end(), {17, 0, 1, 4, 0, 0, 0, 0});        // PadN
  b.insert(b.end(), {0x13, 0x88, 0, 53, 0, 8, 0, 0});  // 5000 to 53
  const Packet p = Parse(b);
  EXPECT_EQ(p.outcome, ParseOutcome::kOk);
  EXPECT_EQ(p.src, Address::Parse("fd00::2"));
  EXPECT_EQ(p.dst, Address::Parse("2001:db8::1"));
  EXPECT_EQ(p.sport, 5000);
  EXPECT_EQ(p.dport, 53);
  EXPECT_EQ(p.protocol, IPPROTO_UDP);
  EXPECT_EQ(p.family, Family::kIpv6);
}

TEST(ParsePacket, ReadsWhatIsBuilt) {
  for (const Packet& flow : {kTcp4, kUdp4, kTcp6, kUdp6}) {
    ExpectSameFlow(Parse(BuildPacket(flow)), flow);
    ExpectSameFlow(Parse(BuildPacket(flow, {.payload = Bytes(1000, 0xab)})), flow);
  }
  for (size_t options = 1; options <= 40; ++options) {
    const BuildOptions with{.ip_options = Bytes(options, 1)};
    ExpectSameFlow(Parse(BuildPacket(kTcp4, with)), kTcp4);
    ExpectSameFlow(Parse(BuildPacket(kUdp4, with)), kUdp4);
  }
}

TEST(ParsePacket, ReadsEveryFlag) {
  for (unsigned flags = 0; flags < 256; ++flags) {
    Packet flow = kTcp4;
    flow.tcp_flags = static_cast<uint8_t>(flags);
    ExpectSameFlow(Parse(BuildPacket(flow)), flow);
  }
}

TEST(ParsePacket, ForgetsWhatStoodInThePacketBefore) {
  Packet out = Parse(BuildPacket(kTcp6));
  const Bytes nothing;
  ParsePacket(nothing, 0, &out);
  EXPECT_EQ(out.src, Address());
  EXPECT_EQ(out.dst, Address());
  EXPECT_EQ(out.dport, 0);
  EXPECT_EQ(out.tcp_flags, 0);
  EXPECT_EQ(out.protocol, 0);
  EXPECT_EQ(out.outcome, kTruncated);
}

// Whatever is cut off by the copy range: truncated before the ports (and flags) are there, the
// same packet from then on.
TEST(ParsePacket, EveryCopyRange) {
  for (const Packet& flow : {kTcp4, kUdp4, kTcp6, kUdp6}) {
    const Bytes whole = BuildPacket(flow, {.payload = Bytes(64, 1)});
    const size_t ip_len = flow.family == Family::kIpv4 ? 20 : 40;
    const size_t need = ip_len + (flow.is_tcp() ? 20 : 8);
    for (size_t size = 0; size <= whole.size(); ++size) {
      SCOPED_TRACE(size);
      const Packet p = Parse(Cut(whole, size), whole.size());
      if (size >= need) {
        ExpectSameFlow(p, flow);
      } else if (size >= ip_len) {
        ExpectMiss(p, flow, kTruncated);
      } else {
        EXPECT_EQ(p.outcome, kTruncated);
        EXPECT_EQ(p.src, Address());
      }
    }
  }
}

TEST(ParsePacket, ShortTransportHeaders) {
  const size_t ip4 = 20, ip6 = 40;
  // The wire ends there, and the IP header says so.
  const auto with = [](const Packet& flow, size_t ip_len, size_t transport) {
    const size_t claim = flow.family == Family::kIpv4 ? ip_len + transport : transport;
    return Cut(BuildPacket(flow, {.claimed_length = static_cast<uint16_t>(claim)}),
               ip_len + transport);
  };
  ExpectMiss(Parse(with(kTcp4, ip4, 19)), kTcp4, kTruncated);
  ExpectSameFlow(Parse(with(kTcp4, ip4, 20)), kTcp4);
  ExpectMiss(Parse(with(kUdp4, ip4, 7)), kUdp4, kTruncated);
  ExpectSameFlow(Parse(with(kUdp4, ip4, 8)), kUdp4);
  ExpectMiss(Parse(with(kTcp6, ip6, 19)), kTcp6, kTruncated);
  ExpectMiss(Parse(with(kUdp6, ip6, 7)), kUdp6, kTruncated);
  ExpectMiss(Parse(with(kUdp6, ip6, 0)), kUdp6, kTruncated);
}

TEST(ParsePacket, TcpDataOffsetAndUdpLengthAreNotValidated) {
  Bytes tcp = BuildPacket(kTcp4);
  tcp[32] = 0xf0;  // 60 bytes, of which 20 are there
  ExpectSameFlow(Parse(tcp), kTcp4);
  tcp[32] = 0;
  ExpectSameFlow(Parse(tcp), kTcp4);
  Bytes udp = BuildPacket(kUdp4);
  udp[24] = udp[25] = 0xff;
  ExpectSameFlow(Parse(udp), kUdp4);
}

TEST(ParsePacket, WrongVersionAndHeaderLength) {
  for (unsigned version = 0; version < 16; ++version) {
    if (version == 4 || version == 6) continue;
    Bytes b = BuildPacket(kTcp4);
    b[0] = static_cast<uint8_t>(version << 4 | 5);
    EXPECT_EQ(Parse(b).outcome, kTruncated) << version;
  }
  for (unsigned ihl = 0; ihl < 5; ++ihl) {
    Bytes b = BuildPacket(kTcp4);
    b[0] = static_cast<uint8_t>(0x40 | ihl);
    ExpectMiss(Parse(b), kTcp4, kTruncated);
  }
  Bytes b = BuildPacket(kTcp4);
  b[0] = 0x4f;  // 60 bytes of header, 40 in all
  ExpectMiss(Parse(b), kTcp4, kTruncated);
}

TEST(ParsePacket, Ipv4LengthThatLies) {
  const auto claim = [](uint16_t length) {
    return BuildPacket(kTcp4, {.payload = Bytes(20, 1), .claimed_length = length});
  };
  ExpectSameFlow(Parse(claim(60)), kTcp4);
  ExpectSameFlow(Parse(claim(40)), kTcp4);  // the kernel cuts the rest off
  for (const uint16_t shorter : std::vector<uint16_t>{0, 1, 19, 20, 39}) {
    ExpectMiss(Parse(claim(shorter)), kTcp4, kTruncated);
  }
  ExpectMiss(Parse(claim(61)), kTcp4, kTruncated);        // ip_rcv_core drops it
  const Packet icmp = Flow(Family::kIpv4, IPPROTO_ICMP);  // the lie counts before the protocol
  ExpectMiss(Parse(BuildPacket(icmp, {.claimed_length = uint16_t{19}})), icmp, kTruncated);
  ExpectMiss(Parse(claim(65535)), kTcp4, kTruncated);
  ExpectSameFlow(Parse(claim(61), 61), kTcp4);  // one byte beyond the copy range
}

TEST(ParsePacket, Ipv6LengthThatLies) {
  const auto claim = [](uint16_t length, std::vector<ExtensionHeader> chain = {}) {
    return BuildPacket(
        kUdp6, {.payload = Bytes(20, 1), .extensions = std::move(chain), .claimed_length = length});
  };
  ExpectSameFlow(Parse(claim(28)), kUdp6);
  ExpectSameFlow(Parse(claim(8)), kUdp6);
  for (const uint16_t shorter : std::vector<uint16_t>{0, 1, 7})
    ExpectMiss(Parse(claim(shorter)), kUdp6, kTruncated);
  ExpectMiss(Parse(claim(29)), kUdp6, kTruncated);
  const ExtensionHeader options{.type = IPPROTO_DSTOPTS, .body = Bytes(14)};
  for (const uint16_t shorter : std::vector<uint16_t>{7, 8, 15, 16, 23}) {
    ExpectMiss(Parse(claim(shorter, {options})), kUdp6, kTruncated);
  }
  ExpectSameFlow(Parse(claim(24, {options})), kUdp6);
}

// ip6_rcv_core leaves a packet uncut that claims 0 and has a hop-by-hop header (RFC 2675).
TEST(ParsePacket, Ipv6LengthOfZeroWithHopByHop) {
  const ExtensionHeader hop{.type = IPPROTO_HOPOPTS, .body = Bytes(6)};
  const Bytes b = BuildPacket(kUdp6, {.extensions = {hop}, .claimed_length = uint16_t{0}});
  ExpectSameFlow(Parse(b), kUdp6);
  ExpectMiss(Parse(Cut(b, b.size() - 1)), kUdp6, kTruncated);
}

// The kernel writes 0 into a merged packet of more than 65535 bytes.
TEST(ParsePacket, BigTcp) {
  for (const Packet& flow : {kTcp4, kTcp6}) {
    const Bytes big = BuildPacket(flow, {.payload = Bytes(150000, 1)});
    ExpectSameFlow(Parse(big), flow);
    ExpectSameFlow(Parse(Cut(big, 128), big.size()), flow);
  }
  const Bytes not_big =
      BuildPacket(kTcp6, {.payload = Bytes(65515), .claimed_length = uint16_t{0}});
  ASSERT_EQ(not_big.size(), 40u + 65535u);
  ExpectMiss(Parse(not_big), kTcp6, kTruncated);
}

TEST(ParsePacket, OtherProtocols) {
  for (unsigned protocol = 0; protocol < 256; ++protocol) {
    SCOPED_TRACE(protocol);
    const uint8_t p = static_cast<uint8_t>(protocol);
    if (p == IPPROTO_TCP || p == IPPROTO_UDP) continue;
    const Packet v4 = Flow(Family::kIpv4, p);
    const Packet got = Parse(BuildPacket(v4, {.payload = Bytes(64)}));
    ExpectMiss(got, v4, ParseOutcome::kNotTcpOrUdp);
    EXPECT_EQ(got.protocol, p);
    const bool walked = p == IPPROTO_HOPOPTS || p == IPPROTO_ROUTING || p == IPPROTO_FRAGMENT ||
                        p == IPPROTO_AH || p == IPPROTO_DSTOPTS;
    if (walked) continue;  // ESP, no-next-header, UDP-Lite, SCTP, mobility, ... are not
    const Packet v6 = Flow(Family::kIpv6, p);
    const Packet got6 = Parse(BuildPacket(v6, {.payload = Bytes(64)}));
    ExpectMiss(got6, v6, ParseOutcome::kNotTcpOrUdp);
    EXPECT_EQ(got6.protocol, p);
  }
}

TEST(ParsePacket, Ipv4Fragments) {
  constexpr uint16_t kDf = 0x4000, kReserved = 0x8000, kMf = 0x2000;
  for (const uint16_t whole : {uint16_t{0}, kDf, kReserved}) {
    ExpectSameFlow(Parse(BuildPacket(kUdp4, {.fragment = whole})), kUdp4);
  }
  for (const uint16_t part : {kMf, uint16_t{1}, uint16_t{0x1fff}, uint16_t{kMf | 185}}) {
    ExpectMiss(Parse(BuildPacket(kUdp4, {.fragment = part})), kUdp4, ParseOutcome::kFragment);
    // A later fragment may be shorter than any transport header.
    const Bytes tail = Cut(BuildPacket(kTcp4, {.fragment = part, .claimed_length = 24}), 24);
    ExpectMiss(Parse(tail), kTcp4, ParseOutcome::kFragment);
  }
}

TEST(ParsePacket, Ipv6Fragments) {
  const auto with = [](uint16_t offset, bool more) {
    return Parse(BuildPacket(kUdp6, {.extensions = {FragmentHeader(offset, more)}}));
  };
  ExpectSameFlow(with(0, false), kUdp6);  // RFC 6946: an atomic fragment
  ExpectMiss(with(0, true), kUdp6, ParseOutcome::kFragment);
  ExpectMiss(with(1, false), kUdp6, ParseOutcome::kFragment);
  ExpectMiss(with(0x1fff, true), kUdp6, ParseOutcome::kFragment);
  EXPECT_EQ(with(1, false).protocol, IPPROTO_UDP);

  ExtensionHeader reserved = FragmentHeader(0, false);
  reserved.body[1] = 0x06;  // the two reserved bits beside M
  ExpectSameFlow(Parse(BuildPacket(kUdp6, {.extensions = {reserved}})), kUdp6);

  Bytes second_byte_set = BuildPacket(kUdp6, {.extensions = {FragmentHeader(0, false)}});
  second_byte_set[41] = 0xff;  // reserved, not a length
  ExpectSameFlow(Parse(second_byte_set), kUdp6);
}

TEST(ParsePacket, WalksEveryExtensionHeader) {
  const ExtensionHeader hop{.type = IPPROTO_HOPOPTS, .body = Bytes(6)};
  const ExtensionHeader long_dst{.type = IPPROTO_DSTOPTS, .body = Bytes(2046)};  // the longest
  const ExtensionHeader routing{.type = IPPROTO_ROUTING, .body = Bytes(22)};
  const ExtensionHeader ah12{.type = IPPROTO_AH, .body = Bytes(10)};  // (1 + 2) * 4
  const ExtensionHeader ah24{.type = IPPROTO_AH, .body = Bytes(22)};  // (4 + 2) * 4
  const ExtensionHeader atomic = FragmentHeader(0, false);
  const std::vector<std::vector<ExtensionHeader>> chains = {{hop},
                                                            {routing},
                                                            {long_dst},
                                                            {ah12},
                                                            {ah24},
                                                            {atomic},
                                                            {hop, long_dst, routing},
                                                            {ah12, long_dst},
                                                            {hop, hop, hop},
                                                            {hop, routing, atomic, ah24, long_dst}};
  for (const auto& chain : chains) {
    for (const Packet& flow : {kTcp6, kUdp6}) {
      const Bytes whole = BuildPacket(flow, {.extensions = chain});
      ExpectSameFlow(Parse(whole), flow);
      // Cut anywhere, it is truncated, and never something else.
      for (size_t size = 40; size < whole.size(); ++size) {
        ExpectMiss(Parse(Cut(whole, size), whole.size()), flow, kTruncated);
      }
    }
  }
}

TEST(ParsePacket, ExtensionHeaderThatPointsOutside) {
  for (const uint8_t type : Bytes{IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_DSTOPTS, IPPROTO_AH}) {
    const ExtensionHeader header{.type = type, .body = Bytes(6)};
    Bytes b = BuildPacket(kUdp6, {.extensions = {header}});
    for (const uint8_t length : Bytes{3, 100, 255}) {
      b[41] = length;
      ExpectMiss(Parse(b), kUdp6, kTruncated);
    }
  }
  // Ends where the packet does: nothing is left for UDP.
  Bytes b = BuildPacket(kUdp6, {.extensions = {{.type = IPPROTO_DSTOPTS, .body = Bytes(6)}}});
  b[41] = 1;
  ExpectMiss(Parse(b), kUdp6, kTruncated);
}

TEST(ParsePacket, Ipv6FragmentBehindOtherHeaders) {
  const ExtensionHeader hop{.type = IPPROTO_HOPOPTS, .body = Bytes(6)};
  const Bytes b = BuildPacket(kTcp6, {.extensions = {hop, FragmentHeader(10, true)}});
  ExpectMiss(Parse(b), kTcp6, ParseOutcome::kFragment);
}

TEST(ParsePacket, BytesBeyondTheTrueLengthDoNotCount) {
  const Bytes whole = BuildPacket(kTcp4);
  ExpectMiss(Parse(whole, 39), kTcp4, kTruncated);
  EXPECT_EQ(Parse(whole, 0).outcome, kTruncated);
}

}  // namespace
}  // namespace utproxy
