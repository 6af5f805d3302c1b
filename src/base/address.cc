// SPDX-License-Identifier: GPL-3.0-or-later
#include "utproxy/address.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <arpa/inet.h>

namespace utproxy {
namespace {

// absl::SimpleAtoi takes blanks and signs; a port or a prefix length has neither.
std::optional<uint32_t> ParseDecimal(absl::string_view text, uint32_t max) {
  uint32_t value = 0;
  if (text.empty() || text.size() > 5) return std::nullopt;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
  }
  if (!absl::SimpleAtoi(text, &value) || value > max) return std::nullopt;
  return value;
}

bool HostBitsAreZero(const Address& address, unsigned first_host_bit) {
  for (unsigned bit = first_host_bit; bit < 128; ++bit) {
    if ((address.bytes()[bit / 8] >> (7 - bit % 8) & 1) != 0) return false;
  }
  return true;
}

}  // namespace

std::optional<Address> Address::Parse(absl::string_view text) {
  const std::string copy(text);
  if (in_addr v4{}; inet_pton(AF_INET, copy.c_str(), &v4) == 1) return FromIpv4(v4.s_addr);
  if (in6_addr v6{}; inet_pton(AF_INET6, copy.c_str(), &v6) == 1) return FromIpv6(&v6);
  return std::nullopt;
}

std::string Address::ToString(Family family) const {
  char buffer[INET6_ADDRSTRLEN];
  if (family == Family::kIpv4) {
    const uint32_t v4 = Ipv4();
    inet_ntop(AF_INET, &v4, buffer, sizeof buffer);
  } else {
    inet_ntop(AF_INET6, bytes_.data(), buffer, sizeof buffer);
  }
  return buffer;
}

std::string EndpointToString(const Address& address, uint16_t port, Family family) {
  if (family == Family::kIpv4) return absl::StrCat(address.ToString(family), ":", port);
  return absl::StrCat("[", address.ToString(family), "]:", port);
}

std::optional<Endpoint> ParseEndpoint(absl::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return std::nullopt;
  absl::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const bool has_colon = host.find(':') != absl::string_view::npos;
  if (has_colon != bracketed) return std::nullopt;
  const std::optional<Address> address = Address::Parse(host);
  const std::optional<uint32_t> port = ParseDecimal(text.substr(colon + 1), 65535);
  if (!address || !port) return std::nullopt;
  return Endpoint{.address = *address,
                  .port = static_cast<uint16_t>(*port),
                  .family = bracketed ? Family::kIpv6 : Family::kIpv4};
}

std::optional<Cidr> ParseCidr(absl::string_view text) {
  const size_t slash = text.find('/');
  const std::optional<Address> address = Address::Parse(text.substr(0, slash));
  if (!address) return std::nullopt;
  Cidr cidr{.address = *address};
  const bool v6 = text.substr(0, slash).find(':') != absl::string_view::npos;
  cidr.family = v6 ? Family::kIpv6 : Family::kIpv4;
  const uint32_t full = v6 ? 128 : 32;
  uint32_t len = full;
  if (slash != absl::string_view::npos) {
    const std::optional<uint32_t> parsed = ParseDecimal(text.substr(slash + 1), full);
    if (!parsed) return std::nullopt;
    len = *parsed;
  }
  cidr.prefix_len = static_cast<uint8_t>(len);
  if (!cidr.address.IsUnspecified() && !HostBitsAreZero(cidr.address, 128 - full + len)) {
    return std::nullopt;
  }
  return cidr;
}

bool Cidr::Contains(const Address& other) const {
  const bool v4 = family == Family::kIpv4;
  if (v4 && !other.IsV4Mapped() && !other.IsUnspecified()) return false;
  const std::array<uint8_t, 16>&a = address.bytes(), &b = other.bytes();
  const size_t first = v4 ? 12 : 0;  // an IPv4 address stands in the last four bytes
  for (size_t bit = 0; bit < prefix_len; bit += 8) {
    const size_t left = prefix_len - bit, at = first + bit / 8;
    const auto mask = static_cast<uint8_t>(left >= 8 ? 0xff : 0xff << (8 - left));
    if (((a[at] ^ b[at]) & mask) != 0) return false;
  }
  return true;
}

std::string CidrToString(const Cidr& cidr) {
  const unsigned full = cidr.family == Family::kIpv6 ? 128 : 32;
  std::string text = cidr.address.ToString(cidr.family);
  if (cidr.prefix_len != full) absl::StrAppend(&text, "/", static_cast<unsigned>(cidr.prefix_len));
  return text;
}

}  // namespace utproxy
