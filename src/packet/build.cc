// SPDX-License-Identifier: GPL-3.0-or-later
#include "packet/build.h"

#include <netinet/in.h>

#include <algorithm>
#include <cstddef>

namespace utproxy {
namespace {

using Bytes = std::vector<uint8_t>;

void Put8(Bytes* b, unsigned v) { b->push_back(static_cast<uint8_t>(v)); }
void Put16(Bytes* b, unsigned v) {
  Put8(b, v >> 8 & 0xff);
  Put8(b, v & 0xff);
}
void Put32(Bytes* b, uint32_t v) {
  Put16(b, v >> 16);
  Put16(b, v & 0xffff);
}
void PutBytes(Bytes* b, const Bytes& more) { b->insert(b->end(), more.begin(), more.end()); }
void PutAddress(Bytes* b, const Address& address, Family family) {
  const auto& bytes = address.bytes();
  b->insert(b->end(), bytes.begin() + (family == Family::kIpv4 ? 12 : 0), bytes.end());
}
void PadTo(Bytes* b, size_t unit) { b->resize((b->size() + unit - 1) / unit * unit); }
void Set16(Bytes* b, size_t at, unsigned v) {
  (*b)[at] = static_cast<uint8_t>(v >> 8);
  (*b)[at + 1] = static_cast<uint8_t>(v);
}

// The one's complement sum of RFC 1071, complemented.
uint16_t Checksum(const Bytes& bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i) sum += i % 2 == 0 ? bytes[i] << 8 : bytes[i];
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

uint16_t TransportChecksum(const Packet& packet, const Bytes& segment) {
  Bytes sum;
  PutAddress(&sum, packet.src, packet.family);
  PutAddress(&sum, packet.dst, packet.family);
  Put32(&sum, static_cast<uint32_t>(segment.size()));
  Put32(&sum, packet.protocol);
  PutBytes(&sum, segment);
  const uint16_t checksum = Checksum(sum);
  const bool would_mean_none = packet.protocol == IPPROTO_UDP && checksum == 0;
  return would_mean_none ? uint16_t{0xffff} : checksum;
}

Bytes BuildTransport(const Packet& packet, const BuildOptions& options) {
  if (packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP) return options.payload;
  Bytes b;
  Put16(&b, packet.sport);
  Put16(&b, packet.dport);
  const size_t checksum_at = packet.protocol == IPPROTO_TCP ? 16 : 6;
  if (packet.protocol == IPPROTO_TCP) {
    Put32(&b, options.seq);
    Put32(&b, options.ack);
    Put8(&b, 5 << 4);
    Put8(&b, packet.tcp_flags);
    Put16(&b, options.window);
    Put32(&b, 0);  // checksum and urgent pointer
  } else {
    Put16(&b, static_cast<unsigned>(8 + options.payload.size()));
    Put16(&b, 0);
  }
  PutBytes(&b, options.payload);
  Set16(&b, checksum_at, TransportChecksum(packet, b));
  return b;
}

Bytes BuildExtension(const ExtensionHeader& header, uint8_t next) {
  const size_t unit = header.type == IPPROTO_AH ? 4 : 8;
  Bytes b = {next, 0};
  PutBytes(&b, header.body);
  PadTo(&b, unit);
  if (b.size() < 8) b.resize(8);
  if (header.type == IPPROTO_AH) {
    b[1] = static_cast<uint8_t>(b.size() / 4 - 2);
  } else if (header.type != IPPROTO_FRAGMENT) {
    b[1] = static_cast<uint8_t>(b.size() / 8 - 1);
  }
  return b;
}

Bytes BuildIpv4(const Packet& packet, const BuildOptions& options, size_t transport_size) {
  Bytes ip_options = options.ip_options;
  PadTo(&ip_options, 4);
  ip_options.resize(std::min<size_t>(ip_options.size(), 40));
  const size_t header_len = 20 + ip_options.size();
  const size_t length = options.claimed_length.value_or(header_len + transport_size);
  Bytes b;
  Put8(&b, static_cast<unsigned>(0x40 | header_len / 4));
  Put8(&b, 0);
  Put16(&b, length > 0xffff ? 0u : static_cast<unsigned>(length));
  Put16(&b, 0);
  Put16(&b, options.fragment);
  Put8(&b, options.ttl);
  Put8(&b, packet.protocol);
  Put16(&b, 0);
  PutAddress(&b, packet.src, packet.family);
  PutAddress(&b, packet.dst, packet.family);
  PutBytes(&b, ip_options);
  Set16(&b, 10, Checksum(b));
  return b;
}

Bytes BuildIpv6(const Packet& packet, const BuildOptions& options, size_t transport_size) {
  Bytes chain;
  for (size_t i = 0; i < options.extensions.size(); ++i) {
    const bool last = i + 1 == options.extensions.size();
    PutBytes(&chain, BuildExtension(options.extensions[i],
                                    last ? packet.protocol : options.extensions[i + 1].type));
  }
  const size_t length = options.claimed_length.value_or(chain.size() + transport_size);
  Bytes b;
  Put32(&b, 6u << 28);
  Put16(&b, length > 0xffff ? 0u : static_cast<unsigned>(length));
  Put8(&b, options.extensions.empty() ? packet.protocol : options.extensions[0].type);
  Put8(&b, options.ttl);
  PutAddress(&b, packet.src, packet.family);
  PutAddress(&b, packet.dst, packet.family);
  PutBytes(&b, chain);
  return b;
}

}  // namespace

std::vector<uint8_t> BuildPacket(const Packet& packet, const BuildOptions& options) {
  const Bytes transport = BuildTransport(packet, options);
  Bytes b = packet.family == Family::kIpv4 ? BuildIpv4(packet, options, transport.size())
                                           : BuildIpv6(packet, options, transport.size());
  PutBytes(&b, transport);
  return b;
}

ExtensionHeader FragmentHeader(uint16_t offset, bool more, uint32_t id) {
  ExtensionHeader header{.type = IPPROTO_FRAGMENT, .body = {}};
  Put16(&header.body, static_cast<unsigned>(offset) << 3 | (more ? 1u : 0u));
  Put32(&header.body, id);
  return header;
}

}  // namespace utproxy
