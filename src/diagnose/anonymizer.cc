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

bool IsAddressByte(char c) { return absl::ascii_isxdigit(c) || c == ':' || c == '.'; }

bool IsMac(absl::string_view word) {
  if (word.size() != 17) return false;
  for (size_t i = 0; i < word.size(); ++i) {
    if (i % 3 == 2 ? word[i] != ':' : !absl::ascii_isxdigit(word[i])) return false;
  }
  return true;
}

std::string Bytes(const Address& address, size_t from, size_t count) {
  return std::string(reinterpret_cast<const char*>(address.bytes().data()) + from, count);
}

}  // namespace

uint32_t Anonymizer::NumberOf(std::map<std::string, uint32_t>* numbers, std::string key) {
  const auto next = static_cast<uint32_t>(numbers->size() + 1);
  return numbers->emplace(std::move(key), next).first->second;
}

Address Anonymizer::MaskIpv4(const Address& address) {
  const auto& b = address.bytes();
  if (b[12] == 127 || b[12] == 0 || b[12] >= 224) return address;
  const std::string net = Bytes(address, 12, 3);
  const uint32_t n = NumberOf(&nets4_, net);
  const uint8_t host = b[15];
  // 254 hosts have numbers enough of their own.
  const uint32_t h = host == 0 || host == 255
                         ? host
                         : NumberOf(&hosts_["4" + net], std::string(1, static_cast<char>(host)));
  const std::array<uint8_t, 4> masked = {10, static_cast<uint8_t>(n >> 8), static_cast<uint8_t>(n),
                                         static_cast<uint8_t>(h)};
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
  if (b[0] == 0xfe && (b[1] & 0xc0) == 0x80) {
    masked[0] = 0xfe;
    masked[1] = 0x80;
  } else {
    const uint32_t n = NumberOf(&nets6_, net);
    masked[0] = 0xfd;
    for (size_t i = 0; i < 4; ++i) masked[4 + i] = static_cast<uint8_t>(n >> (8 * (3 - i)));
  }
  if (host.find_first_not_of('\0') != std::string::npos) {
    const uint32_t h = NumberOf(&hosts_["6" + net], host);
    for (size_t i = 0; i < 4; ++i) masked[12 + i] = static_cast<uint8_t>(h >> (8 * (3 - i)));
  }
  return Address::FromIpv6(masked.data());
}

std::string Anonymizer::MaskAddress(const Address& address, bool mapped_text) {
  if (!address.IsV4Mapped()) return MaskIpv6(address).ToString(Family::kIpv6);
  return absl::StrCat(mapped_text ? "::ffff:" : "", MaskIpv4(address).ToString(Family::kIpv4));
}

std::string Anonymizer::MaskWord(absl::string_view word) {
  if (IsMac(word)) {
    const uint32_t n = NumberOf(&macs_, absl::AsciiStrToLower(word));
    return absl::StrFormat("02:00:00:00:%02x:%02x", n >> 8 & 0xff, n & 0xff);
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
