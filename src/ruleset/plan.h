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

// The fast path. Rules in front of a queueing rule, with its conditions, mark and accept:
//
// - TCP: any segment but a pure SYN that belongs to a transparent connection, from its request
//   socket to its TIME_WAIT. nft's `socket` finds listeners too where there is no connection. Those
//   bound to no address are told by `wildcard`, and what leads there is queued by a rule before:
//   `wildcard 0` instead would not fit request sockets and TIME_WAIT, of which it says neither.
//   Those bound to an address are listed in the sets kListeners, which the daemon keeps, and what
//   goes there is left to the queue.
// - UDP: a datagram of a flow in the set of decided flows, while it leads to a transparent socket.
//   The chain kLearnChain, behind the queue, puts the flows of packets with the mark into that set,
//   so no word need go from the daemon to the kernel. An element's time is not renewed by use: a
//   flow's datagram is decided anew every kFlowTimeoutMs, long before the flow's entry for
//   sk_lookup ends, so that this lives on, and nothing that was decided stands for longer.
//   Where a packet's mark need not mean that it was decided to be a hit (RulesetSpec::misses_pass),
//   flows of packets that come with it, or with another target's, are noted before they are queued,
//   and not learned.
inline constexpr char kLearnChain[] = "learn";
inline constexpr int kLearnPriority = kHookPriority + 1;
inline constexpr uint32_t kFlowTimeoutMs = 20'000;
// Longer than a packet waits in a queue.
inline constexpr uint32_t kPremarkedTimeoutMs = 5'000;
// Elements of 100 to 130 bytes. Flows that find no room go on by way of the queue.
inline constexpr uint32_t kMaxFlows = 131'072;

// The sets of one family: kDecided and kPremarked hold flows (ingress interface, source, source
// port, destination, destination port), kListeners addresses and ports.
enum class SetKind : uint8_t { kDecided, kPremarked, kListeners };
struct NamedSet {
  SetKind kind;
  Family family;
  friend bool operator==(const NamedSet&, const NamedSet&) = default;
};
// "flows4", "premarked6", "listeners4".
std::string SetName(NamedSet set);

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
// These stand after an OfFamily and an OfProtocol of one protocol.
struct NotPureSyn {};   // of FIN, SYN, RST and ACK not just SYN
struct ForWildcard {};  // a full socket that is bound to no address
struct ForTransparent {};
struct InSet {
  NamedSet set;
  bool negated = false;
};
using Condition =
    std::variant<OfFamily, FromInterface, OfProtocol, ToPort, HasMark, HasAddress, OfUser, OfCgroup,
                 ToThisHost, NotPureSyn, ForWildcard, ForTransparent, InSet>;

// Statements.
struct Queue {
  uint16_t first, last;
  bool bypass, cpu_fanout;
};
struct SetMark {  // mark = (mark & ~mask) ^ value
  MarkMatch mark;
};
struct Divert {  // SetMark, and no further rule of this chain
  MarkMatch mark;
};
struct AddToSet {  // the packet's flow; where it is in it, its time is not renewed
  NamedSet set;
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
using Statement = std::variant<Queue, SetMark, Divert, AddToSet, Jump, Return, EnableDefrag>;

struct Rule {
  std::vector<Condition> conditions;
  Statement statement;
  std::string comment;
  bool counted = true;
};

enum class Hook : uint8_t { kNone, kPrerouting, kAfterQueue, kOutputRoute };

struct Chain {
  std::string name;
  Hook hook = Hook::kNone;
  std::vector<Rule> rules;
};

// The sets that the rules name, each once; where there are any, all that the daemon keeps.
std::vector<NamedSet> SetsOf(absl::Span<const Chain> chains);

// Comments of the fast path's rules end in one of these, after the target's name.
inline constexpr char kFastTcp[] = ", fast path tcp";
inline constexpr char kFastUdp[] = ", fast path udp";

// Levels of a cgroup path, as `socket cgroupv2 level` counts them.
int CgroupLevel(absl::string_view path);

// Checks the specs and compiles them: chains that others jump to come first. InvalidArgument names
// what is wrong and how to put it right; nothing outside has been looked at or changed.
absl::StatusOr<std::vector<Chain>> CompilePlan(absl::Span<const RulesetSpec> specs);

}  // namespace utproxy

#endif  // UTPROXY_RULESET_PLAN_H_
