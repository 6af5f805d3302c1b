// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_LEGACY_READER_H_
#define UTPROXY_DIAGNOSE_LEGACY_READER_H_

#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <string>

#include "diagnose/ruleset_facts.h"

namespace utproxy {

// The rules of iptables-legacy, which the kernel keeps beside nftables' and tells by getsockopt.
// Their tables are named "legacy mangle", ... here, and their rules have for a handle the number
// that `iptables-legacy -D CHAIN NUMBER` takes.

// "legacy ", in front of a table's name.
inline constexpr absl::string_view kLegacyPrefix = "legacy ";

// Appends the chains of all tables of the calling thread's network namespace. Needs CAP_NET_ADMIN;
// changes nothing. False where there are tables that could not be read.
bool ReadLegacyTables(RulesetFacts* facts);

// One table as the kernel's struct ipt_replace or ip6t_replace describes it: `entries` as
// IPT_SO_GET_ENTRIES and IP6T_SO_GET_ENTRIES give them, and the offsets there of each hook's first
// entry and policy. Offsets that lead out of it end the reading.
struct LegacyTable {
  bool v6 = false;
  std::string name;    // "mangle"
  uint32_t hooks = 0;  // bits of NF_INET_*
  uint32_t hook_entry[5] = {};
  uint32_t underflow[5] = {};
};
void DecodeLegacyTable(const LegacyTable& table, absl::Span<const uint8_t> entries,
                       RulesetFacts* facts);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_LEGACY_READER_H_
