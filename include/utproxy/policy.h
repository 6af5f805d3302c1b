// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_POLICY_H_
#define UTPROXY_POLICY_H_

#include <cstdint>

#include "utproxy/address.h"

namespace utproxy {

enum class OnMiss : uint8_t { kDrop, kAccept };

// What one TPROXY rule says. A plain value; zero means what it means to iptables' TPROXY target.
struct Policy {
  uint16_t on_port = 0;  // host byte order; 0: the packet's own destination port
  Address on_ip4;        // unspecified: the ingress interface's primary address
  Address on_ip6;
  uint32_t mark_value = 0;  // may have bits outside the mask, as in xt_TPROXY
  uint32_t mark_mask = 0xffffffffu;
  OnMiss on_miss = OnMiss::kDrop;

  const Address& on_ip(Family family) const { return family == Family::kIpv4 ? on_ip4 : on_ip6; }
  // The mark of a packet that hit: xt_TPROXY clears the mask's bits, then XORs the value.
  uint32_t Remark(uint32_t mark) const { return (mark & ~mark_mask) ^ mark_value; }

  friend bool operator==(const Policy&, const Policy&) = default;
};

}  // namespace utproxy

#endif  // UTPROXY_POLICY_H_
