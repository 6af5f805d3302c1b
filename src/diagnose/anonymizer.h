// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_ANONYMIZER_H_
#define UTPROXY_DIAGNOSE_ANONYMIZER_H_

#include <absl/strings/string_view.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "utproxy/address.h"

namespace utproxy {

// Puts made-up addresses in the place of those in a text. The same address becomes the same one
// throughout an object's life, and no other one becomes it: there are as many masks as addresses,
// of IPv6 2^32 networks of 2^32 addresses, more than fit in memory. Addresses of one /24 (IPv4) or
// /64 (IPv6) stay in one, and so do a network's first and IPv4's last address. IPv4's masks are of
// 10/8, but where there are more than 65,535 networks. Loopback, unspecified and multicast
// addresses stay as they are; hardware addresses are masked, too. Names are not. One thread.
class Anonymizer {
 public:
  std::string Mask(absl::string_view text);
  Address Mask(const Address& address);

  // The first 24 bits of the n-th network's mask, n from 1 to kIpv4Networks: those of 10/8, then of
  // 11/8, and so on, in the end of 9/8. As many as there are networks to mask.
  static constexpr uint32_t kIpv4Networks = 222U << 16;
  static uint32_t Ipv4Network(uint32_t n);

 private:
  std::string MaskWord(absl::string_view word);
  std::string MaskAddress(const Address& address, bool mapped_text);
  Address MaskIpv4(const Address& address);
  Address MaskIpv6(const Address& address);
  // The number of `key` in the order of first appearance, from 1 on.
  static uint32_t NumberOf(std::map<std::string, uint32_t>* numbers, std::string key);

  std::map<std::string, uint32_t> nets4_, nets6_, link_nets6_, macs_;
  std::map<std::string, std::map<std::string, uint32_t>> hosts_;  // by network
};

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_ANONYMIZER_H_
