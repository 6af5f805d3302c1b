// SPDX-License-Identifier: GPL-3.0-or-later
#include "parse_seeds.h"

#include <netinet/in.h>

#include <utility>

#include "packet/build.h"

namespace utproxy {
namespace {

using Bytes = std::vector<uint8_t>;

Packet Flow(bool v4, uint8_t protocol) {
  return Packet{.src = *Address::Parse(v4 ? "192.0.2.1" : "2001:db8::1"),
                .dst = *Address::Parse(v4 ? "198.51.100.7" : "2001:db8::2"),
                .sport = 40000,
                .dport = 53,
                .family = v4 ? Family::kIpv4 : Family::kIpv6,
                .protocol = protocol,
                .tcp_flags = protocol == IPPROTO_TCP ? kTcpSyn : uint8_t{0}};
}

Seed Whole(std::string name, const Packet& packet, const BuildOptions& options = {}) {
  Bytes bytes = {0, 0};
  const Bytes built = BuildPacket(packet, options);
  bytes.insert(bytes.end(), built.begin(), built.end());
  return {std::move(name), std::move(bytes)};
}

// The first `size` bytes of it, as a copy range leaves them.
Seed Copied(std::string name, const Packet& packet, const BuildOptions& options, size_t size) {
  Seed seed = Whole(std::move(name), packet, options);
  const size_t beyond = seed.bytes.size() - 2 - size;
  seed.bytes.resize(2 + size);
  seed.bytes[0] = static_cast<uint8_t>(beyond >> 8);
  seed.bytes[1] = static_cast<uint8_t>(beyond);
  return seed;
}

}  // namespace

std::vector<Seed> ParseSeeds() {
  const Packet tcp4 = Flow(true, IPPROTO_TCP), udp4 = Flow(true, IPPROTO_UDP);
  const Packet tcp6 = Flow(false, IPPROTO_TCP), udp6 = Flow(false, IPPROTO_UDP);
  const ExtensionHeader hop{.type = IPPROTO_HOPOPTS, .body = Bytes(6)};
  const ExtensionHeader routing{.type = IPPROTO_ROUTING, .body = Bytes(22)};
  const ExtensionHeader dst{.type = IPPROTO_DSTOPTS, .body = Bytes(14)};
  const ExtensionHeader ah{.type = IPPROTO_AH, .body = Bytes(10)};
  const ExtensionHeader atomic = FragmentHeader(0, false);
  return {
      Whole("ipv4_tcp", tcp4),
      Whole("ipv4_udp", udp4, {.payload = Bytes(4, 'x')}),
      Whole("ipv4_options", udp4, {.ip_options = Bytes(12, 1)}),
      Whole("ipv4_first_fragment", udp4, {.fragment = 0x2000}),
      Whole("ipv4_later_fragment", udp4, {.fragment = 0x00b9}),
      Whole("ipv4_icmp", Flow(true, IPPROTO_ICMP), {.payload = {8, 0, 0, 0, 0, 1, 0, 1}}),
      Whole("ipv4_claims_less", tcp4, {.claimed_length = uint16_t{30}}),
      Whole("ipv4_claims_more", tcp4, {.claimed_length = uint16_t{400}}),
      Copied("ipv4_big_tcp", tcp4, {.payload = Bytes(65520)}, 64),
      Copied("ipv4_copied", tcp4, {.payload = Bytes(1400)}, 96),
      Copied("ipv4_copied_too_short", tcp4, {.payload = Bytes(1400)}, 33),
      Whole("ipv6_tcp", tcp6),
      Whole("ipv6_udp", udp6, {.payload = Bytes(4, 'x')}),
      Whole("ipv6_hop_by_hop", tcp6, {.extensions = {hop}}),
      Whole("ipv6_chain", udp6, {.extensions = {hop, routing, atomic, ah, dst}}),
      Whole("ipv6_fragment", udp6, {.extensions = {FragmentHeader(185, true)}}),
      Whole("ipv6_esp", Flow(false, IPPROTO_ESP), {.payload = Bytes(24, 9)}),
      Whole("ipv6_none", Flow(false, IPPROTO_NONE)),
      Whole("ipv6_jumbo_claim", udp6, {.extensions = {hop}, .claimed_length = uint16_t{0}}),
      Whole("ipv6_claims_less", udp6, {.extensions = {dst}, .claimed_length = uint16_t{12}}),
      Copied("ipv6_copied", tcp6, {.payload = Bytes(1400), .extensions = {dst}}, 96),
  };
}

}  // namespace utproxy
