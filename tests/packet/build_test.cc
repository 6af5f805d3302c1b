// SPDX-License-Identifier: GPL-3.0-or-later
#include "packet/build.h"

#include <gtest/gtest.h>
#include <netinet/in.h>

#include <vector>

namespace utproxy {
namespace {

using Bytes = std::vector<uint8_t>;

// The folded one's complement sum; 0xffff where a checksum among the bytes is right.
uint32_t Sum(const Bytes& bytes, uint32_t sum = 0) {
  for (size_t i = 0; i < bytes.size(); ++i) sum += i % 2 == 0 ? bytes[i] << 8 : bytes[i];
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

// RFC 9293's pseudo-header for IPv4, RFC 8200's for IPv6, whose sums differ in the addresses only.
uint32_t PseudoSum(const Packet& p, size_t segment_size) {
  const auto src = p.src.bytes(), dst = p.dst.bytes();
  const size_t from = p.family == Family::kIpv4 ? 12 : 0;
  Bytes b(src.begin() + from, src.end());
  b.insert(b.end(), dst.begin() + from, dst.end());
  return Sum(b, static_cast<uint32_t>(segment_size + p.protocol));
}

Packet Flow(const char* src, const char* dst, uint8_t protocol) {
  Packet p{.src = *Address::Parse(src), .dst = *Address::Parse(dst), .sport = 1, .dport = 2};
  p.family = p.dst.IsV4Mapped() ? Family::kIpv4 : Family::kIpv6;
  p.protocol = protocol;
  return p;
}

TEST(BuildPacket, ChecksumsAreRight) {
  for (const uint8_t protocol : {uint8_t{IPPROTO_TCP}, uint8_t{IPPROTO_UDP}}) {
    for (const Packet& p :
         {Flow("10.0.0.1", "10.0.0.2", protocol), Flow("fd00::1", "::2", protocol)}) {
      for (size_t payload = 0; payload < 5; ++payload) {
        const Bytes b = BuildPacket(p, {.payload = Bytes(payload, 0x5a), .seq = 77, .ack = 78});
        const size_t ip_len = p.family == Family::kIpv4 ? 20 : 40;
        if (p.family == Family::kIpv4) {
          EXPECT_EQ(Sum(Bytes(b.begin(), b.begin() + 20)), 0xffffu);
        }
        const Bytes segment(b.begin() + static_cast<long>(ip_len), b.end());
        EXPECT_EQ(Sum(segment, PseudoSum(p, segment.size())), 0xffffu);
      }
    }
  }
}

TEST(BuildPacket, LengthsOfTheChain) {
  const Packet p = Flow("fd00::1", "fd00::2", IPPROTO_UDP);
  const Bytes b = BuildPacket(
      p, {.extensions = {
              {IPPROTO_HOPOPTS, Bytes(7)}, {IPPROTO_AH, Bytes(10)}, FragmentHeader(3, true, 9)}});
  ASSERT_EQ(b.size(), 40u + 16 + 12 + 8 + 8);
  EXPECT_EQ(b[5], 44);
  EXPECT_EQ(b[6], IPPROTO_HOPOPTS);
  EXPECT_EQ(b[40], IPPROTO_AH);
  EXPECT_EQ(b[41], 1);  // (1 + 1) * 8
  EXPECT_EQ(b[56], IPPROTO_FRAGMENT);
  EXPECT_EQ(b[57], 1);  // (1 + 2) * 4
  EXPECT_EQ(Bytes(b.begin() + 68, b.begin() + 76), (Bytes{IPPROTO_UDP, 0, 0, 25, 0, 0, 0, 9}));
}

}  // namespace
}  // namespace utproxy
