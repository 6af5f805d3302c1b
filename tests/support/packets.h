// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_SUPPORT_PACKETS_H_
#define UTPROXY_TESTS_SUPPORT_PACKETS_H_

#include <netinet/in.h>

#include <cstdint>
#include <vector>

#include "packet/build.h"

namespace utproxy::testing {

// The bytes of a query for names, from port 4000 to port 53, from its IP header on; the addresses
// are of the same family.
inline std::vector<uint8_t> Datagram(const char* src = "10.77.1.2",
                                     const char* dst = "203.0.113.80") {
  Packet packet;
  packet.src = *Address::Parse(src);
  packet.dst = *Address::Parse(dst);
  packet.family = packet.src.IsV4Mapped() ? Family::kIpv4 : Family::kIpv6;
  packet.sport = 4000;
  packet.dport = 53;
  packet.protocol = IPPROTO_UDP;
  return BuildPacket(packet);
}

}  // namespace utproxy::testing

#endif  // UTPROXY_TESTS_SUPPORT_PACKETS_H_
