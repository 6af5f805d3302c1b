// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ADDRESS_H_
#define UTPROXY_ADDRESS_H_

#include <absl/strings/string_view.h>
#include <netinet/in.h>

#include <array>
#include <compare>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

namespace utproxy {

enum class Family : uint8_t { kIpv4 = 4, kIpv6 = 6 };

// "ipv4" or "ipv6".
constexpr const char* FamilyName(Family family) {
  return family == Family::kIpv4 ? "ipv4" : "ipv6";
}

// An IP address of either family, 16 bytes in network byte order. An IPv4 address a.b.c.d is held
// as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), so that a dual-stack AF_INET6 socket's IPv4 traffic and an
// AF_INET socket's compare equal, as they do in the kernel's established hash. The unspecified
// address of both families is all zeroes, as 0.0.0.0 and :: share a bucket in the kernel's
// listener hash; who needs to know which of the two it was carries the family beside it.
class Address {
 public:
  constexpr Address() = default;

  // `network_order` as in in_addr.s_addr.
  static Address FromIpv4(uint32_t network_order) {
    Address a;
    if (network_order != 0) {
      a.bytes_[10] = a.bytes_[11] = 0xff;
      std::memcpy(&a.bytes_[12], &network_order, 4);
    }
    return a;
  }
  // `bytes`: 16 bytes in network order. A mapped ::ffff:0.0.0.0 becomes unspecified.
  static Address FromIpv6(const void* bytes) {
    Address a;
    std::memcpy(a.bytes_.data(), bytes, 16);
    if (a.IsV4Mapped() && a.Ipv4() == 0) a = Address();
    return a;
  }
  // Reads "192.0.2.1" or "2001:db8::1" (no brackets, no scope). nullopt where it is neither.
  static std::optional<Address> Parse(absl::string_view text);

  bool IsUnspecified() const { return *this == Address(); }
  bool IsV4Mapped() const {
    static constexpr std::array<uint8_t, 12> kPrefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return std::memcmp(bytes_.data(), kPrefix.data(), kPrefix.size()) == 0;
  }
  // The IPv4 address in network byte order; 0 for the unspecified one. Only for mapped addresses.
  uint32_t Ipv4() const {
    uint32_t v;
    std::memcpy(&v, &bytes_[12], 4);
    return v;
  }
  const std::array<uint8_t, 16>& bytes() const { return bytes_; }

  // "192.0.2.1", "2001:db8::1"; the unspecified one as "0.0.0.0" or "::" by `family`.
  std::string ToString(Family family) const;

  friend bool operator==(const Address&, const Address&) = default;
  friend auto operator<=>(const Address&, const Address&) = default;

 private:
  std::array<uint8_t, 16> bytes_{};
};
static_assert(sizeof(Address) == 16);

// "192.0.2.1:53", "[2001:db8::1]:53". `port` in host byte order.
std::string EndpointToString(const Address& address, uint16_t port, Family family);

struct Endpoint {
  Address address;
  uint16_t port = 0;  // host byte order
  Family family = Family::kIpv4;
};

// Reads what EndpointToString writes. nullopt where it is malformed or the port is over 65535.
std::optional<Endpoint> ParseEndpoint(absl::string_view text);

// An address prefix as in "10.0.0.0/8"; a plain address is a prefix of full length.
struct Cidr {
  Address address;  // host bits are zero
  Family family = Family::kIpv4;
  uint8_t prefix_len = 0;  // 0..32 for IPv4, 0..128 for IPv6
  // Whether it is one of the prefix's addresses. An IPv6 prefix takes IPv4 addresses for mapped
  // ones, and the unspecified address is in both families: who knows the family compares it, too.
  bool Contains(const Address& other) const;
  friend bool operator==(const Cidr&, const Cidr&) = default;
};
// nullopt where malformed, or where bits beyond the prefix are set.
std::optional<Cidr> ParseCidr(absl::string_view text);
std::string CidrToString(const Cidr& cidr);

}  // namespace utproxy

#endif  // UTPROXY_ADDRESS_H_
