// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_VALUES_H_
#define UTPROXY_TOOLS_VALUES_H_

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ruleset/spec.h"
#include "utproxy/address.h"

// Readers of the values that options take. Errors are bare reasons, as options.h wants them.
namespace utproxy::tools {

// Decimal without sign, blanks or leading words, `min` to `max`; `what` names it in the error:
// "port must be 0 to 65535".
absl::StatusOr<uint32_t> ParseNumber(absl::string_view text, absl::string_view what, uint32_t min,
                                     uint32_t max);
// Decimal, 0x hexadecimal or 0 octal, as iptables reads marks; must fit 32 bits.
absl::StatusOr<uint32_t> ParseMark(absl::string_view text);

// "VALUE[/MASK]"; the mask is all ones where absent.
struct MarkMask {
  uint32_t value = 0;
  uint32_t mask = 0xffffffffu;
};
absl::StatusOr<MarkMask> ParseMarkMask(absl::string_view text);

// "53,80,1000-2000".
absl::StatusOr<std::vector<PortRange>> ParsePortList(absl::string_view text);
// "0,2,4-7" in the order given.
absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text);
// "N:M" with N not over M.
absl::StatusOr<std::pair<uint16_t, uint16_t>> ParseQueueRange(absl::string_view text);
// A name that an interface can have (dev_valid_name in net/core/dev.c); it need not exist.
absl::StatusOr<std::string> ParseInterfaceName(absl::string_view text);
// A user's name or number.
absl::StatusOr<uint32_t> ParseUser(absl::string_view text);
// A path below the cgroup v2 root, with or without the leading slash; returned without.
absl::StatusOr<std::string> ParseCgroup(absl::string_view text);
absl::StatusOr<Cidr> ParsePrefix(absl::string_view text);
absl::StatusOr<Endpoint> ParseAddressPort(absl::string_view text);
// An address together with its family; an IPv4-mapped IPv6 address is refused.
struct FamilyAddress {
  Address address;
  Family family = Family::kIpv4;
};
absl::StatusOr<FamilyAddress> ParseFamilyAddress(absl::string_view text);
absl::StatusOr<Proto> ParseProto(absl::string_view text);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_VALUES_H_
