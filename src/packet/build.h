// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_PACKET_BUILD_H_
#define UTPROXY_PACKET_BUILD_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "utproxy/packet.h"

namespace utproxy {

// One IPv6 extension header. `body` is all that follows its first two bytes (next header and
// length, which BuildPacket writes); it is padded with zeroes to the header's unit.
struct ExtensionHeader {
  uint8_t type = 0;  // IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_FRAGMENT, IPPROTO_AH, ...
  std::vector<uint8_t> body;
};

// The parts of a packet that a Packet does not tell of. All numbers in host byte order.
struct BuildOptions {
  std::vector<uint8_t> payload;
  std::vector<uint8_t> ip_options;          // IPv4; padded to a multiple of 4, at most 40 bytes
  std::vector<ExtensionHeader> extensions;  // IPv6, in order
  uint16_t fragment = 0;                    // IPv4's flags and offset field as it stands
  uint8_t ttl = 64;
  uint32_t seq = 0;
  uint32_t ack = 0;
  uint16_t window = 65535;
  std::optional<uint16_t> claimed_length;  // tot_len or payload_len, where it is to be a lie
};

// ParsePacket's inverse: the bytes, from the IP header on, of a packet with this family,
// addresses, protocol, ports and TCP flags. Lengths and checksums are right. Another protocol than
// TCP and UDP has the payload right after the IP headers.
std::vector<uint8_t> BuildPacket(const Packet& packet, const BuildOptions& options = {});

// A fragment header (RFC 8200, 4.5). `offset` in units of 8 bytes.
ExtensionHeader FragmentHeader(uint16_t offset, bool more, uint32_t id = 1);

}  // namespace utproxy

#endif  // UTPROXY_PACKET_BUILD_H_
