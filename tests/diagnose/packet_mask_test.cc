// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/packet_mask.h"

#include <gtest/gtest.h>
#include <netinet/in.h>

#include <algorithm>
#include <random>
#include <string>

#include "packet/build.h"
#include "utproxy/parse.h"

namespace utproxy {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr char kSecret[] = "the secret";

Packet Parsed(const Bytes& bytes, size_t true_length) {
  Packet packet;
  ParsePacket(bytes, static_cast<uint32_t>(true_length), &packet);
  return packet;
}

bool Holds(const Bytes& bytes, absl::string_view part) {
  return std::search(bytes.begin(), bytes.end(), part.begin(), part.end()) != bytes.end();
}

Packet Make(Family family, uint8_t protocol) {
  Packet packet;
  packet.family = family;
  packet.src = *Address::Parse(family == Family::kIpv4 ? "198.51.100.7" : "2001:db8::80");
  packet.dst = *Address::Parse(family == Family::kIpv4 ? "203.0.113.80" : "2001:db8:1::80");
  packet.sport = 40000;
  packet.dport = 443;
  packet.protocol = protocol;
  if (protocol == IPPROTO_TCP) packet.tcp_flags = kTcpSyn | kTcpAck;
  return packet;
}

// Masks, and expects that all but the addresses is read as before, and nothing else is there.
Bytes ExpectMasked(const Bytes& whole, size_t captured) {
  Bytes bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(captured));
  const Packet before = Parsed(bytes, whole.size());
  Anonymizer anonymizer;
  MaskPacket(static_cast<uint32_t>(whole.size()), &anonymizer, &bytes);
  const Packet after = Parsed(bytes, whole.size());
  EXPECT_EQ(after.outcome, before.outcome);
  EXPECT_EQ(after.family, before.family);
  EXPECT_EQ(after.protocol, before.protocol);
  EXPECT_EQ(after.sport, before.sport);
  EXPECT_EQ(after.dport, before.dport);
  EXPECT_EQ(after.tcp_flags, before.tcp_flags);
  Anonymizer same;
  EXPECT_EQ(after.src, same.Mask(before.src));
  EXPECT_EQ(after.dst, same.Mask(before.dst));
  EXPECT_FALSE(Holds(bytes, kSecret));
  for (const Address& address : {before.src, before.dst}) {
    const auto& b = address.bytes();
    const size_t from = before.family == Family::kIpv4 ? 12 : 0;
    const absl::string_view text(reinterpret_cast<const char*>(b.data()) + from, 16 - from);
    EXPECT_TRUE(address.IsUnspecified() || !Holds(bytes, text));
  }
  return bytes;
}

TEST(PacketMask, KeepsWhatIsReadAndNothingElse) {
  const Bytes secret(kSecret, kSecret + sizeof kSecret);
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    for (const uint8_t protocol : {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP}) {
      BuildOptions options{.payload = secret};
      const Bytes plain = BuildPacket(Make(family, protocol), options);
      for (size_t captured = 1; captured <= plain.size(); ++captured) ExpectMasked(plain, captured);
      options.ip_options = {7, 7, 4, 198, 51, 100, 7};  // record route, with the sender
      options.extensions = {{.type = IPPROTO_DSTOPTS, .body = secret},
                            {.type = IPPROTO_ROUTING, .body = secret}};
      const Bytes full = BuildPacket(Make(family, protocol), options);
      ExpectMasked(full, full.size());
    }
  }
}

TEST(PacketMask, Fragments) {
  const Bytes secret(kSecret, kSecret + sizeof kSecret);
  ExpectMasked(
      BuildPacket(Make(Family::kIpv4, IPPROTO_UDP), {.payload = secret, .fragment = 0x2001}), 38);
  const Bytes six = BuildPacket(Make(Family::kIpv6, IPPROTO_UDP),
                                {.payload = secret, .extensions = {FragmentHeader(1, true)}});
  ExpectMasked(six, six.size());
}

TEST(PacketMask, TheHeaderOfUdpIsAllThatIsLeft) {
  const Bytes bytes = BuildPacket(Make(Family::kIpv4, IPPROTO_UDP), {.payload = Bytes(60, 1)});
  const Bytes masked = ExpectMasked(bytes, bytes.size());
  EXPECT_EQ(masked.size(), 28u);
  EXPECT_EQ(masked[26] | masked[27] | masked[10] | masked[11], 0)
      << "a checksum tells of addresses";
}

TEST(PacketMask, AnyBytes) {
  std::mt19937 random(5);
  for (int i = 0; i < 20'000; ++i) {
    Bytes bytes(random() % 121);
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
    if (!bytes.empty()) bytes[0] = static_cast<uint8_t>(random() % 2 != 0 ? 0x45 : 0x60);
    if (bytes.size() > 6) bytes[6] = static_cast<uint8_t>(random() % 64);
    const auto true_length = static_cast<uint32_t>(bytes.size() + random() % 3000);
    const Packet before = Parsed(bytes, true_length);
    const size_t size = bytes.size();
    Anonymizer anonymizer;
    MaskPacket(true_length, &anonymizer, &bytes);
    ASSERT_LE(bytes.size(), size);
    const Packet after = Parsed(bytes, true_length);
    ASSERT_EQ(after.outcome, before.outcome);
    ASSERT_EQ(after.dport, before.dport);
    ASSERT_EQ(after.tcp_flags, before.tcp_flags);
  }
}

}  // namespace
}  // namespace utproxy
