// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/anonymizer.h"

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/strip.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace utproxy {
namespace {

constexpr absl::string_view kLinkLocal("\xfe\x80\0\0\0\0\0\0", 8);  // fe80::/64

bool IsAddressByte(char c) { return absl::ascii_isxdigit(c) || c == ':' || c == '.'; }

bool IsMac(absl::string_view word) {
  if (word.size() != 17) return false;
  for (size_t i = 0; i < word.size(); ++i) {
    if (i % 3 == 2 ? word[i] != ':' : !absl::ascii_isxdigit(word[i])) return false;
  }
  return true;
}

// Those first bytes of IPv4 addresses that are masked; other addresses stay.
bool IsMaskedIpv4(uint32_t first) { return first != 0 && first != 127 && first < 224; }

std::string Bytes(const Address& address, size_t from, size_t count) {
  return std::string(reinterpret_cast<const char*>(address.bytes().data()) + from, count);
}

}  // namespace

uint32_t Anonymizer::Ipv4Network(uint32_t n) {
  uint32_t first = 10;
  for (uint32_t left = n >> 16; left > 0;) {
    first = first == 223 ? 1 : first + 1;
    if (IsMaskedIpv4(first)) --left;
  }
  return first << 16 | (n & 0xffff);
}

uint32_t Anonymizer::NumberOf(std::map<std::string, uint32_t>* numbers, std::string key) {
  const auto next = static_cast<uint32_t>(numbers->size() + 1);
  return numbers->emplace(std::move(key), next).first->second;
}

Address Anonymizer::MaskIpv4(const Address& address) {
  const auto& b = address.bytes();
  if (!IsMaskedIpv4(b[12])) return address;
  const std::string net = Bytes(address, 12, 3);
  const uint32_t n = NumberOf(&nets4_, net);
  const uint8_t host = b[15];
  // 254 hosts have numbers enough of their own.
  const uint32_t h = host == 0 || host == 255
                         ? host
                         : NumberOf(&hosts_["4" + net], std::string(1, static_cast<char>(host)));
  const uint32_t front = Ipv4Network(n);
  const std::array<uint8_t, 4> masked = {static_cast<uint8_t>(front >> 16),
                                         static_cast<uint8_t>(front >> 8),
                                         static_cast<uint8_t>(front), static_cast<uint8_t>(h)};
  uint32_t v4 = 0;
  std::memcpy(&v4, masked.data(), sizeof v4);
  return Address::FromIpv4(v4);
}

Address Anonymizer::MaskIpv6(const Address& address) {
  const auto& b = address.bytes();
  const std::string host = Bytes(address, 8, 8);
  const bool low = std::all_of(b.begin(), b.begin() + 15, [](uint8_t x) { return x == 0; });
  if (b[0] == 0xff || (low && b[15] <= 1)) return address;
  std::array<uint8_t, 16> masked{};
  const std::string net = Bytes(address, 0, 8);
  const bool link_local = b[0] == 0xfe && (b[1] & 0xc0) == 0x80;
  // fe80::/10 has more networks than the one that is written.
  const uint32_t n = NumberOf(link_local ? &link_nets6_ : &nets6_, net);
  masked[0] = link_local ? 0xfe : 0xfd;
  masked[1] = link_local ? 0x80 : 0;
  const uint32_t shown = link_local && net == kLinkLocal ? 0 : n;
  for (size_t i = 0; i < 4; ++i) masked[4 + i] = static_cast<uint8_t>(shown >> (8 * (3 - i)));
  if (host.find_first_not_of('\0') != std::string::npos) {
    const uint32_t h = NumberOf(&hosts_["6" + net], host);
    for (size_t i = 0; i < 4; ++i) masked[12 + i] = static_cast<uint8_t>(h >> (8 * (3 - i)));
  }
  return Address::FromIpv6(masked.data());
}

Address Anonymizer::Mask(const Address& address) {
  if (address.IsUnspecified()) return address;
  return address.IsV4Mapped() ? MaskIpv4(address) : MaskIpv6(address);
}

std::string Anonymizer::MaskAddress(const Address& address, bool mapped_text) {
  if (!address.IsV4Mapped()) return Mask(address).ToString(Family::kIpv6);
  return absl::StrCat(mapped_text ? "::ffff:" : "", Mask(address).ToString(Family::kIpv4));
}

std::string Anonymizer::MaskWord(absl::string_view word) {
  if (IsMac(word)) {
    const uint32_t n = NumberOf(&macs_, absl::AsciiStrToLower(word));
    return absl::StrFormat("02:00:%02x:%02x:%02x:%02x", n >> 24, n >> 16 & 0xff, n >> 8 & 0xff,
                           n & 0xff);
  }
  // A sentence's end, and an address with a port behind.
  for (const char* end : {"", ".", ":"}) {
    absl::string_view front = word;
    if (!absl::ConsumeSuffix(&front, end)) continue;
    const std::optional<Address> address = Address::Parse(front);
    if (!address || address->IsUnspecified()) continue;
    return MaskAddress(*address, front.find(':') != front.npos) + end;
  }
  const size_t colon = word.rfind(':');
  if (colon != word.npos && word.find('.') != word.npos) {
    const std::optional<Address> address = Address::Parse(word.substr(0, colon));
    if (address && !address->IsUnspecified()) {
      return absl::StrCat(MaskAddress(*address, word.find(':') != colon), word.substr(colon));
    }
  }
  return std::string(word);
}

std::string Anonymizer::Mask(absl::string_view text) {
  std::string out;
  size_t i = 0;
  while (i < text.size()) {
    size_t end = i;
    while (end < text.size() && IsAddressByte(text[end])) ++end;
    // Part of a longer word is no address.
    const bool word_before = i > 0 && (absl::ascii_isalnum(text[i - 1]) || text[i - 1] == '_');
    const bool word_after =
        end < text.size() && (absl::ascii_isalnum(text[end]) || text[end] == '_');
    if (end == i) {
      out += text[i++];
      continue;
    }
    const absl::string_view word = text.substr(i, end - i);
    if (word_before || word_after) {
      absl::StrAppend(&out, word);
    } else {
      absl::StrAppend(&out, MaskWord(word));
    }
    i = end;
  }
  return out;
}

}  // namespace utproxy
