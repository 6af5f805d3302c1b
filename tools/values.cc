// SPDX-License-Identifier: GPL-3.0-or-later
#include "values.h"

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <net/if.h>
#include <sched.h>

#include <algorithm>
#include <charconv>

#include "base/status.h"
#include "daemon/accounts.h"

namespace utproxy::tools {
namespace {

// std::from_chars takes neither blanks nor signs for an unsigned number.
std::optional<uint64_t> Digits(absl::string_view text, int base) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "A" or "A-B" with both ends `min` to `max`.
absl::StatusOr<std::pair<uint32_t, uint32_t>> ParseRange(absl::string_view text, char separator,
                                                         absl::string_view what, uint32_t min,
                                                         uint32_t max) {
  const std::pair<absl::string_view, absl::string_view> ends =
      absl::StrSplit(text, absl::MaxSplits(separator, 1));
  const bool range = absl::StrContains(text, separator);
  ASSIGN_OR_RETURN(const uint32_t first, ParseNumber(ends.first, what, min, max));
  ASSIGN_OR_RETURN(const uint32_t last,
                   ParseNumber(range ? ends.second : ends.first, what, min, max));
  if (first > last) {
    return absl::InvalidArgumentError(
        absl::StrCat("range ", text, " is the wrong way round: first must not be over last"));
  }
  return std::pair(first, last);
}

}  // namespace

absl::StatusOr<uint32_t> ParseNumber(absl::string_view text, absl::string_view what, uint32_t min,
                                     uint32_t max) {
  const std::optional<uint64_t> value = Digits(text, 10);
  if (!value || *value < min || *value > max) {
    return absl::InvalidArgumentError(absl::StrCat(what, " must be ", min, " to ", max));
  }
  return static_cast<uint32_t>(*value);
}

absl::StatusOr<uint32_t> ParseMark(absl::string_view text) {
  absl::string_view digits = text;
  int base = 10;
  if (absl::StartsWithIgnoreCase(digits, "0x")) {
    digits.remove_prefix(2);
    base = 16;
  } else if (digits.size() > 1 && digits[0] == '0') {
    base = 8;
  }
  const std::optional<uint64_t> value = Digits(digits, base);
  if (value && *value <= 0xffffffffu) return static_cast<uint32_t>(*value);
  const bool digits_only =
      !digits.empty() && std::all_of(digits.begin(), digits.end(), [&](char c) {
        const auto u = static_cast<unsigned char>(c);
        return base == 16 ? absl::ascii_isxdigit(u) : (c >= '0' && c < '0' + base);
      });
  return absl::InvalidArgumentError(digits_only
                                        ? "mark does not fit 32 bits"
                                        : "mark must be a number such as 1, 0x1 or 0x1/0xff");
}

absl::StatusOr<MarkMask> ParseMarkMask(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits('/', 1));
  MarkMask mark;
  ASSIGN_OR_RETURN(mark.value, ParseMark(parts.first));
  if (absl::StrContains(text, '/')) {
    ASSIGN_OR_RETURN(mark.mask, ParseMark(parts.second));
  }
  return mark;
}

absl::StatusOr<std::vector<PortRange>> ParsePortList(absl::string_view text) {
  std::vector<PortRange> ports;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    ASSIGN_OR_RETURN(const auto range, ParseRange(item, '-', "port", 0, 65535));
    ports.push_back(
        {.first = static_cast<uint16_t>(range.first), .last = static_cast<uint16_t>(range.second)});
  }
  return ports;
}

absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text) {
  std::vector<int> cpus;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    ASSIGN_OR_RETURN(const auto range, ParseRange(item, '-', "cpu", 0, CPU_SETSIZE - 1));
    for (uint32_t cpu = range.first; cpu <= range.second; ++cpu) {
      cpus.push_back(static_cast<int>(cpu));
    }
  }
  return cpus;
}

absl::StatusOr<std::pair<uint16_t, uint16_t>> ParseQueueRange(absl::string_view text) {
  if (!absl::StrContains(text, ':')) {
    return absl::InvalidArgumentError("queues must be a range N:M such as 0:3");
  }
  ASSIGN_OR_RETURN(const auto range, ParseRange(text, ':', "queue number", 0, 65535));
  return std::pair(static_cast<uint16_t>(range.first), static_cast<uint16_t>(range.second));
}

absl::StatusOr<std::string> ParseInterfaceName(absl::string_view text) {
  const bool valid = !text.empty() && text.size() < IFNAMSIZ && text != "." && text != ".." &&
                     std::none_of(text.begin(), text.end(), [](char c) {
                       return c == '/' || c == ':' || c == '\0' ||
                              absl::ascii_isspace(static_cast<unsigned char>(c));
                     });
  if (!valid) {
    return absl::InvalidArgumentError(
        "interface name must have 1 to 15 characters, without blanks, ':' and '/'");
  }
  return std::string(text);
}

absl::StatusOr<uint32_t> ParseUser(absl::string_view text) {
  // 0xffffffff is (uid_t)-1, which stands for no user.
  if (const auto number = ParseNumber(text, "user", 0, 0xfffffffeu); number.ok()) return *number;
  ASSIGN_OR_RETURN(const Account account, FindUser(std::string(text)));
  return account.uid;
}

absl::StatusOr<std::string> ParseCgroup(absl::string_view text) {
  while (absl::ConsumePrefix(&text, "/")) {
  }
  while (absl::ConsumeSuffix(&text, "/")) {
  }
  for (const absl::string_view part : absl::StrSplit(text, '/')) {
    if (part.empty() || part == "." || part == "..") {
      return absl::InvalidArgumentError(
          "must be a path below the cgroup v2 root such as system.slice/proxy.service");
    }
  }
  return std::string(text);
}

absl::StatusOr<Cidr> ParsePrefix(absl::string_view text) {
  const std::optional<Cidr> cidr = ParseCidr(text);
  if (!cidr) {
    return absl::InvalidArgumentError(
        "must be an address or a prefix such as 10.0.0.0/8, with no bits set beyond its length");
  }
  return *cidr;
}

absl::StatusOr<Endpoint> ParseAddressPort(absl::string_view text) {
  const std::optional<Endpoint> endpoint = ParseEndpoint(text);
  if (!endpoint) {
    return absl::InvalidArgumentError(
        "must be an address and a port such as 192.0.2.1:53 or [2001:db8::1]:53");
  }
  if (endpoint->family == Family::kIpv6 && endpoint->address.IsV4Mapped()) {
    return absl::InvalidArgumentError("is an IPv4-mapped address; write it as IPv4");
  }
  return *endpoint;
}

absl::StatusOr<FamilyAddress> ParseFamilyAddress(absl::string_view text) {
  const std::optional<Address> address = Address::Parse(text);
  if (!address) {
    return absl::InvalidArgumentError("must be an address such as 192.0.2.1 or 2001:db8::1");
  }
  const Family family = absl::StrContains(text, ':') ? Family::kIpv6 : Family::kIpv4;
  if (family == Family::kIpv6 && address->IsV4Mapped()) {
    return absl::InvalidArgumentError("is an IPv4-mapped address; write it as IPv4");
  }
  return FamilyAddress{.address = *address, .family = family};
}

absl::StatusOr<Proto> ParseProto(absl::string_view text) {
  if (text == "tcp") return Proto::kTcp;
  if (text == "udp") return Proto::kUdp;
  return absl::InvalidArgumentError("protocol must be tcp or udp");
}

}  // namespace utproxy::tools
