// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_PLAN_H_
#define UTPROXY_RULESET_PLAN_H_

#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "ruleset/spec.h"

// What a list of targets means as an nftables table, as plain values: the one place that decides
// it. The kernel's form (nft_table.h), nft's text (nft_text.h) and iptables' (iptables_text.h) are
// written from it. No I/O.
namespace utproxy {

inline constexpr char kTableName[] = "utproxy";
inline constexpr char kPreroutingChain[] = "prerouting";
inline constexpr char kOutputChain[] = "output";
inline constexpr char kDefragChain[] = "defrag";
// NF_IP_PRI_MANGLE: after defragmentation and conntrack, before DNAT, as iptables' mangle.
inline constexpr int kHookPriority = -150;

// Both ends included, network byte order; an IPv4 address takes the first four bytes.
struct AddressRange {
  std::array<uint8_t, 16> first{};
  std::array<uint8_t, 16> last{};
  friend bool operator==(const AddressRange&, const AddressRange&) = default;
};
// 4 or 16.
inline size_t AddressBytes(Family family) { return family == Family::kIpv4 ? 4 : 16; }
// The prefix length where the range is a prefix, else -1.
int PrefixLength(const AddressRange& range, Family family);

enum class Side : uint8_t { kSource, kDestination };

// Conditions. A packet fits when it has one of the values listed (none of them if `negated`).
// Lists are sorted, disjoint, and not empty.
struct OfFamily {
  Family family;
};
struct FromInterface {
  std::vector<std::string> names;
  bool negated = false;
};
struct OfProtocol {
  std::vector<Proto> protos;
};
struct ToPort {
  std::vector<PortRange> ports;
};
struct HasMark {
  MarkMatch mark;
};
struct HasAddress {  // stands after an OfFamily of its family
  Family family;
  Side side;
  bool negated;
  std::vector<AddressRange> ranges;
};
struct OfUser {
  std::vector<uint32_t> uids;
};
struct OfCgroup {
  std::string path;  // relative to the root of the cgroup v2 tree, without slashes at its ends
};
struct ToThisHost {};  // a local, broadcast, anycast or multicast destination
using Condition = std::variant<OfFamily, FromInterface, OfProtocol, ToPort, HasMark, HasAddress,
                               OfUser, OfCgroup, ToThisHost>;

// Statements.
struct Queue {
  uint16_t first, last;
  bool bypass, cpu_fanout;
};
struct SetMark {  // mark = (mark & ~mask) | value; value has no bits outside of the mask
  MarkMatch mark;
};
struct Jump {
  std::string chain;
};
struct Return {};
// Makes the kernel reassemble fragments before any chain sees them, which a queue alone does not: a
// later fragment has no ports to match. Stands in a chain that nothing jumps to; the rule being
// there is what counts. nft's tproxy expression does it for both families without switching
// connection tracking on, and leaves again with the rule (tried on 6.1 and 6.18).
struct EnableDefrag {};
using Statement = std::variant<Queue, SetMark, Jump, Return, EnableDefrag>;

struct Rule {
  std::vector<Condition> conditions;
  Statement statement;
  std::string comment;
  bool counted = true;
};

enum class Hook : uint8_t { kNone, kPrerouting, kOutputRoute };

struct Chain {
  std::string name;
  Hook hook = Hook::kNone;
  std::vector<Rule> rules;
};

// Levels of a cgroup path, as `socket cgroupv2 level` counts them.
int CgroupLevel(absl::string_view path);

// Checks the specs and compiles them: chains that others jump to come first. InvalidArgument names
// what is wrong and how to put it right; nothing outside has been looked at or changed.
absl::StatusOr<std::vector<Chain>> CompilePlan(absl::Span<const RulesetSpec> specs);

}  // namespace utproxy

#endif  // UTPROXY_RULESET_PLAN_H_
