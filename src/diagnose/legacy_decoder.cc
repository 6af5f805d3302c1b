// SPDX-License-Identifier: GPL-3.0-or-later
// One table of iptables-legacy, as bytes.
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
#include <net/if.h>      // before the tables' headers
// clang-format on

#include <absl/strings/str_cat.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "diagnose/legacy_reader.h"
#include "diagnose/rule_decoder.h"

namespace utproxy {
namespace {

constexpr const char* kHookNames[] = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"};

template <typename T>
bool Read(absl::Span<const uint8_t> bytes, size_t at, T* out) {
  if (at > bytes.size() || bytes.size() - at < sizeof *out) return false;
  std::memcpy(out, bytes.data() + at, sizeof *out);
  return true;
}

template <size_t kSize>
std::string Name(const char (&text)[kSize]) {
  return std::string(text, strnlen(text, kSize));
}

// The common front of xt_entry_match and xt_entry_target.
struct Extension {
  std::string name;
  uint8_t revision = 0;
  size_t size = 0;  // with its own data
  absl::Span<const uint8_t> info;
};
bool ReadExtension(absl::Span<const uint8_t> bytes, size_t at, Extension* out) {
  xt_entry_match header;
  if (!Read(bytes, at, &header) || header.u.user.match_size < sizeof header ||
      header.u.user.match_size > bytes.size() - at) {
    return false;
  }
  out->name = Name(header.u.user.name);
  out->revision = header.u.user.revision;
  out->size = header.u.user.match_size;
  out->info = bytes.subspan(at + sizeof header, out->size - sizeof header);
  return true;
}

void AddName(RuleFacts* rule, Field field, const char (&name)[IFNAMSIZ],
             const unsigned char (&mask)[IFNAMSIZ], bool negated) {
  std::string text = Name(name);
  if (text.empty()) return;
  // The mask covers the zero byte behind the name, but for "lan+" no more than "lan".
  const size_t known = static_cast<size_t>(std::find(mask, mask + IFNAMSIZ, 0) - mask);
  if (known <= text.size() && known < IFNAMSIZ) text = text.substr(0, known) + "*";
  RuleCondition c;
  c.field = field;
  c.negated = negated;
  c.names = {text};
  rule->conditions.push_back(std::move(c));
}

// Addresses from the lowest to the highest of a mask without holes; others are not understood.
template <size_t kSize>
void AddAddress(RuleFacts* rule, Field field, const uint8_t (&address)[kSize],
                const uint8_t (&mask)[kSize], bool negated) {
  RuleCondition c;
  c.field = field;
  c.negated = negated;
  std::array<uint8_t, 16> first{}, last{};
  bool any = false, ended = false, holes = false;
  if (kSize == 4) first[10] = first[11] = last[10] = last[11] = 0xff;
  for (size_t i = 0; i < kSize; ++i) {
    first[16 - kSize + i] = address[i] & mask[i];
    last[16 - kSize + i] = static_cast<uint8_t>(first[16 - kSize + i] | ~mask[i]);
    any |= mask[i] != 0;
    for (int bit = 7; bit >= 0; --bit) {
      const bool set = (mask[i] >> bit & 1) != 0;
      holes |= set && ended;
      ended |= !set;
    }
  }
  if (!any && !negated) return;
  if (holes) {
    c.field = Field::kOther;
    c.what = "mask with holes";
  } else {
    c.addresses = {{Address::FromIpv6(first.data()), Address::FromIpv6(last.data())}};
  }
  rule->conditions.push_back(std::move(c));
}

void AddNumber(RuleFacts* rule, Field field, uint64_t value, bool negated) {
  RuleCondition c;
  c.field = field;
  c.negated = negated;
  c.numbers = {{value, value}};
  rule->conditions.push_back(std::move(c));
}

template <typename T>
void AddAddresses(const T& ip, RuleFacts* rule) {
  uint8_t src[sizeof ip.src], smsk[sizeof ip.src], dst[sizeof ip.src], dmsk[sizeof ip.src];
  std::memcpy(src, &ip.src, sizeof src);
  std::memcpy(smsk, &ip.smsk, sizeof smsk);
  std::memcpy(dst, &ip.dst, sizeof dst);
  std::memcpy(dmsk, &ip.dmsk, sizeof dmsk);
  AddAddress(rule, Field::kSrc, src, smsk, (ip.invflags & IPT_INV_SRCIP) != 0);
  AddAddress(rule, Field::kDst, dst, dmsk, (ip.invflags & IPT_INV_DSTIP) != 0);
  AddName(rule, Field::kIif, ip.iniface, ip.iniface_mask, (ip.invflags & IPT_INV_VIA_IN) != 0);
  AddName(rule, Field::kOif, ip.outiface, ip.outiface_mask, (ip.invflags & IPT_INV_VIA_OUT) != 0);
  if (ip.proto != 0) {
    AddNumber(rule, Field::kL4Proto, ip.proto, (ip.invflags & XT_INV_PROTO) != 0);
  }
}

class Decoder {
 public:
  Decoder(const LegacyTable& table, absl::Span<const uint8_t> bytes)
      : table_(table),
        bytes_(bytes),
        family_(static_cast<uint8_t>(table.v6 ? NFPROTO_IPV6 : NFPROTO_IPV4)) {}

  std::vector<ChainFacts> Take() {
    NameChains();
    ChainFacts* chain = nullptr;
    for (size_t at = 0; at < bytes_.size();) {
      Entry entry;
      if (!ReadEntry(at, &entry)) break;
      if (const auto it = starts_.find(at); it != starts_.end()) {
        chains_.push_back(NewChain(it->second));
        chain = &chains_.back();
      }
      const bool head = entry.target.name == XT_ERROR_TARGET;  // of a chain, or the table's end
      if (chain != nullptr && !head) TakeRule(at, entry, chain);
      at += entry.size;
    }
    return std::move(chains_);
  }

 private:
  struct Entry {
    size_t size = 0, target_at = 0;
    bool is_goto = false;
    Extension target;
    RuleFacts rule;
  };

  template <typename T>
  bool ReadHeader(size_t at, Entry* entry) {
    T header;
    if (!Read(bytes_, at, &header) || header.next_offset < sizeof header ||
        header.next_offset > bytes_.size() - at || header.target_offset < sizeof header ||
        header.target_offset > header.next_offset) {
      return false;
    }
    entry->size = header.next_offset;
    entry->target_at = at + header.target_offset;
    return ReadFields(header, entry) && ReadMatches(at + sizeof header, entry) &&
           ReadExtension(bytes_.subspan(0, at + entry->size), entry->target_at, &entry->target);
  }
  static bool ReadFields(const ipt_entry& header, Entry* entry) {
    AddAddresses(header.ip, &entry->rule);
    entry->is_goto = (header.ip.flags & IPT_F_GOTO) != 0;
    if ((header.ip.flags & IPT_F_FRAG) != 0) Unknown("fragment", &entry->rule);
    return true;
  }
  static bool ReadFields(const ip6t_entry& header, Entry* entry) {
    AddAddresses(header.ipv6, &entry->rule);
    entry->is_goto = (header.ipv6.flags & IP6T_F_GOTO) != 0;
    if ((header.ipv6.flags & IP6T_F_TOS) != 0) Unknown("tos", &entry->rule);
    return true;
  }
  bool ReadEntry(size_t at, Entry* entry) {
    return table_.v6 ? ReadHeader<ip6t_entry>(at, entry) : ReadHeader<ipt_entry>(at, entry);
  }

  static void Unknown(const std::string& what, RuleFacts* rule) {
    RuleCondition c;
    c.what = what;
    rule->conditions.push_back(std::move(c));
  }

  bool ReadMatches(size_t at, Entry* entry) {
    while (at < entry->target_at) {
      Extension match;
      if (!ReadExtension(bytes_.subspan(0, entry->target_at), at, &match)) return false;
      if (!DecodeXtMatch(match.name, match.revision, match.info, &entry->rule)) {
        Unknown(match.name, &entry->rule);
      }
      at += match.size;
    }
    return true;
  }

  // Where chains begin: at a hook's first entry, or behind the head of one of the user's.
  void NameChains() {
    for (size_t hook = 0; hook < 5; ++hook) {
      if ((table_.hooks >> hook & 1) != 0) starts_[table_.hook_entry[hook]] = kHookNames[hook];
    }
    for (size_t at = 0; at < bytes_.size();) {
      Entry entry;
      if (!ReadEntry(at, &entry)) return;
      at += entry.size;
      if (entry.target.name != XT_ERROR_TARGET || at >= bytes_.size()) continue;
      const auto* name = reinterpret_cast<const char*>(entry.target.info.data());
      starts_[at] = std::string(name, strnlen(name, entry.target.info.size()));
    }
  }

  ChainFacts NewChain(const std::string& name) const {
    ChainFacts chain;
    chain.family = family_;
    chain.table = absl::StrCat(kLegacyPrefix, table_.name);
    chain.name = name;
    chain.type = table_.name == "nat" ? "nat" : "filter";
    for (int hook = 0; hook < 5; ++hook) {
      if ((table_.hooks >> hook & 1) == 0 || name != kHookNames[hook]) continue;
      chain.hook = hook;
      chain.priority = Priority(hook);
      if (table_.name == "mangle" && hook == NF_INET_LOCAL_OUT) chain.type = "route";
    }
    return chain;
  }

  // As in the kernel's enum nf_ip_hook_priorities.
  int Priority(int hook) const {
    if (table_.name == "raw") return -300;
    if (table_.name == "mangle") return -150;
    if (table_.name == "security") return 50;
    if (table_.name != "nat") return 0;
    return hook == NF_INET_POST_ROUTING || hook == NF_INET_LOCAL_IN ? 100 : -100;
  }

  void TakeRule(size_t at, Entry entry, ChainFacts* chain) const {
    RuleFacts& rule = entry.rule;
    if (!entry.target.name.empty()) {
      DecodeXtTarget(entry.target.name, entry.target.revision, entry.target.info, family_, &rule);
    } else if (!Verdict(at, entry, &rule)) {
      Unknown("verdict", &rule);
    }
    if (chain->hook != kNoHook && at == table_.underflow[chain->hook]) {
      chain->policy_drop = rule.verdict == RuleVerdict::kDrop;
      return;
    }
    // Each of the user's chains ends with a RETURN of the kernel's own, which does no harm.
    rule.handle = chain->rules.size() + 1;
    chain->rules.push_back(std::move(rule));
  }

  // The standard target: -1 - NF_*, RETURN, or where it jumps to.
  bool Verdict(size_t at, const Entry& entry, RuleFacts* rule) const {
    int32_t verdict = 0;
    if (!Read(entry.target.info, 0, &verdict)) return false;
    if (verdict == XT_RETURN) {
      rule->verdict = RuleVerdict::kReturn;
    } else if (verdict == -NF_DROP - 1) {
      rule->verdict = RuleVerdict::kDrop;
    } else if (verdict == -NF_ACCEPT - 1) {
      rule->verdict = RuleVerdict::kAccept;
    } else if (verdict == -NF_QUEUE - 1) {
      rule->queue = QueueStatement{};
    } else if (verdict >= 0 && static_cast<size_t>(verdict) != at + entry.size) {
      const auto it = starts_.find(static_cast<size_t>(verdict));
      if (it == starts_.end()) return false;
      rule->verdict = entry.is_goto ? RuleVerdict::kGoto : RuleVerdict::kJump;
      rule->jump_to = it->second;
    }
    return true;  // to the next rule: without a target
  }

  const LegacyTable& table_;
  const absl::Span<const uint8_t> bytes_;
  const uint8_t family_;
  std::map<size_t, std::string> starts_;
  std::vector<ChainFacts> chains_;
};

}  // namespace

void DecodeLegacyTable(const LegacyTable& table, absl::Span<const uint8_t> entries,
                       RulesetFacts* facts) {
  for (ChainFacts& chain : Decoder(table, entries).Take())
    facts->chains.push_back(std::move(chain));
}

}  // namespace utproxy
