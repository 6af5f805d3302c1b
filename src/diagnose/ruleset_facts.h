// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_RULESET_FACTS_H_
#define UTPROXY_DIAGNOSE_RULESET_FACTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "utproxy/address.h"

namespace utproxy {

// The nftables ruleset, that of iptables-nft included, as far as doctor's checks read it: plain
// values. Ports, marks and addresses in host byte order (Address as everywhere). What is not
// understood is there as a condition of field kOther, never left out: a rule never looks wider than
// it is.

enum class Field : uint8_t {
  kOther,
  kIif,
  kIifIndex,  // by number; kIif once names are known, see NameInterfaces()
  kOif,
  kNfProto,
  kL4Proto,
  kSrc,
  kDst,
  kSport,
  kDport,
  kMark,
  kCtState,  // bits of the kernel's ct state: kCtNew, ...
  kUid,
  kGid,
  kCgroup,
  kDstType,  // RTN_*
};

// NF_CT_STATE_BIT() of the kernel's conntrack states; 1 is invalid, 4 related, 64 untracked.
inline constexpr uint32_t kCtEstablished = 2, kCtNew = 8;

struct NumberRange {
  uint64_t first = 0, last = 0;  // both ends included
};
struct AddressInterval {
  Address first, last;
};

// Fits where the packet's field, masked, is one of the values; the other way round where negated.
struct RuleCondition {
  Field field = Field::kOther;
  bool negated = false;
  uint64_t mask = ~uint64_t{0};
  bool any_bit = false;  // fits where (field & mask) is not 0; no numbers
  std::vector<NumberRange> numbers;
  std::vector<std::string> names;  // of interfaces; "lan*" stands for a prefix
  std::vector<AddressInterval> addresses;
  std::string what;  // of kOther: the expression's or match's name
};

struct MarkChange {  // mark = (mark & ~mask) ^ value
  uint32_t value = 0, mask = 0xffffffffu;
};
struct TproxyStatement {
  bool xt = false;
  bool v4 = false, v6 = false;
  Address address;  // unspecified: the interface's
  uint16_t port = 0;
  MarkChange mark;  // of xt
};
struct QueueStatement {
  uint16_t first = 0, last = 0;
  bool bypass = false;
};

enum class RuleVerdict : uint8_t { kNone, kAccept, kDrop, kReturn, kJump, kGoto };

struct RuleFacts {
  uint64_t handle = 0;
  std::vector<RuleCondition> conditions;
  RuleVerdict verdict = RuleVerdict::kNone;
  std::string jump_to;
  std::optional<MarkChange> mark;
  bool mark_unknown = false;  // sets it to what is not known beforehand
  bool dnat = false;          // changes the destination: dnat, redirect
  std::optional<TproxyStatement> tproxy;
  std::optional<QueueStatement> queue;
  bool socket_match = false;  // nft or xt `socket`
  bool socket_transparent = false;
  bool notrack = false;
  bool defrags = false;   // its being there switches defragmentation on
  std::string flowtable;  // `flow add @...`
};

// NF_INET_PRE_ROUTING ... as numbers; kNoHook for chains that are only jumped to.
inline constexpr int kNoHook = -1;

struct ChainFacts {
  uint8_t family = 0;  // NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, ...
  std::string table, name;
  int hook = kNoHook;
  int priority = 0;
  std::string type;  // "filter", "route", "nat"
  bool policy_drop = false;
  std::vector<std::string> devices;  // of an ingress hook
  std::vector<RuleFacts> rules;
};

struct TableFacts {
  uint8_t family = 0;
  std::string name;
  uint32_t owner = 0;  // netlink port id of the process that it belongs to; 0: anybody's
};

struct FlowtableFacts {
  uint8_t family = 0;
  std::string table, name;
  std::vector<std::string> devices;
};

struct RulesetFacts {
  std::vector<TableFacts> tables;
  std::vector<ChainFacts> chains;
  std::vector<FlowtableFacts> flowtables;

  const ChainFacts* FindChain(uint8_t family, const std::string& table,
                              const std::string& name) const;
  const TableFacts* FindTable(uint8_t family, const std::string& name) const;
};

// "ip", "ip6", "inet", as nft names the family of a table.
const char* TableFamilyName(uint8_t family);
// Whether chains of a table of this family see packets of `packet`.
bool SeesFamily(uint8_t table_family, Family packet);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_RULESET_FACTS_H_
