// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/nft_text.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <arpa/inet.h>

namespace utproxy {
namespace {

// "x" for one value, "{ x, y }" for several.
std::string ListText(const std::vector<std::string>& values) {
  if (values.size() == 1) return values[0];
  return absl::StrCat("{ ", absl::StrJoin(values, ", "), " }");
}

template <typename T, typename Write>
std::string ListOf(const std::vector<T>& values, Write write) {
  std::vector<std::string> texts;
  texts.reserve(values.size());
  for (const T& value : values) texts.push_back(write(value));
  return ListText(texts);
}

std::string PortText(const PortRange& range) {
  if (range.first == range.last) return absl::StrCat(range.first);
  return absl::StrCat(range.first, "-", range.last);
}

std::string Quoted(const std::string& text) { return absl::StrCat("\"", text, "\""); }

const char* Ip(Family family) { return family == Family::kIpv4 ? "ip" : "ip6"; }

// What of a packet is an element of the set.
std::string KeyText(NamedSet set) {
  const char* ip = Ip(set.family);
  if (set.kind == SetKind::kListeners) return absl::StrCat(ip, " daddr . tcp dport");
  return absl::StrCat("iif . ", ip, " saddr . udp sport . ", ip, " daddr . udp dport");
}

std::string MarkText(const MarkMatch& mark) {
  if (mark.mask == 0xffffffffu) return absl::StrFormat("meta mark set 0x%x", mark.value);
  return absl::StrFormat("meta mark set meta mark & 0x%x ^ 0x%x", ~mark.mask, mark.value);
}

struct ConditionText {
  std::string operator()(const OfFamily& c) const {
    return absl::StrCat("meta nfproto ", FamilyName(c.family));
  }
  std::string operator()(const FromInterface& c) const {
    return absl::StrCat("iifname ", c.negated ? "!= " : "", ListOf(c.names, Quoted));
  }
  std::string operator()(const OfProtocol& c) const {
    return absl::StrCat("meta l4proto ",
                        ListOf(c.protos, [](Proto p) { return std::string(ProtoName(p)); }));
  }
  std::string operator()(const ToPort& c) const {
    return absl::StrCat("th dport ", ListOf(c.ports, PortText));
  }
  std::string operator()(const HasMark& c) const {
    if (c.mark.mask == 0xffffffffu) return absl::StrFormat("meta mark 0x%x", c.mark.value);
    return absl::StrFormat("meta mark & 0x%x == 0x%x", c.mark.mask, c.mark.value);
  }
  std::string operator()(const HasAddress& c) const {
    return absl::StrCat(
        c.family == Family::kIpv4 ? "ip " : "ip6 ", c.side == Side::kSource ? "saddr " : "daddr ",
        c.negated ? "!= " : "",
        ListOf(c.ranges, [&](const AddressRange& r) { return RangeToString(r, c.family); }));
  }
  std::string operator()(const OfUser& c) const {
    return absl::StrCat("meta skuid ", ListOf(c.uids, [](uint32_t u) { return absl::StrCat(u); }));
  }
  std::string operator()(const OfCgroup& c) const {
    return absl::StrCat("socket cgroupv2 level ", CgroupLevel(c.path), " ", Quoted(c.path));
  }
  std::string operator()(const ToThisHost&) const {
    return "fib daddr type { local, broadcast, anycast, multicast }";
  }
  std::string operator()(const NotPureSyn&) const {
    return "tcp flags & (fin | syn | rst | ack) != syn";
  }
  std::string operator()(const ForWildcard&) const { return "socket wildcard 1"; }
  std::string operator()(const ForTransparent&) const { return "socket transparent 1"; }
  std::string operator()(const InSet& c) const {
    return absl::StrCat(KeyText(c.set), c.negated ? " != @" : " @", SetName(c.set));
  }
};

struct StatementText {
  // The older spelling: nft before 1.0 does not know `queue flags ... to`.
  std::string operator()(const Queue& s) const {
    std::string text = absl::StrCat("queue num ", s.first);
    if (s.last != s.first) absl::StrAppend(&text, "-", s.last);
    if (s.bypass) absl::StrAppend(&text, " bypass");
    if (s.cpu_fanout) absl::StrAppend(&text, s.bypass ? "," : " ", "fanout");
    return text;
  }
  std::string operator()(const SetMark& s) const { return MarkText(s.mark); }
  std::string operator()(const Divert& s) const {
    return absl::StrCat(MarkText(s.mark), " accept");
  }
  std::string operator()(const AddToSet& s) const {
    return absl::StrCat("add @", SetName(s.set), " { ", KeyText(s.set), " }");
  }
  std::string operator()(const Jump& s) const { return absl::StrCat("jump ", s.chain); }
  std::string operator()(const Return&) const { return "return"; }
  std::string operator()(const EnableDefrag&) const {
    return "meta l4proto { tcp, udp } tproxy to :1";
  }
};

const char* HookText(Hook hook) {
  switch (hook) {
    case Hook::kPrerouting:
      return "type filter hook prerouting priority mangle; policy accept;";
    case Hook::kAfterQueue:
      return "type filter hook prerouting priority mangle + 1; policy accept;";
    case Hook::kOutputRoute:
      return "type route hook output priority mangle; policy accept;";
    case Hook::kNone:
      break;
  }
  return nullptr;
}

std::string SetText(NamedSet set) {
  const char* address = set.family == Family::kIpv4 ? "ipv4_addr" : "ipv6_addr";
  std::string text = absl::StrCat("\n\tset ", SetName(set), " {\n\t\ttype ");
  if (set.kind == SetKind::kListeners) {
    return absl::StrCat(text, address, " . inet_service\n\t}\n");
  }
  const uint32_t ms = set.kind == SetKind::kDecided ? kFlowTimeoutMs : kPremarkedTimeoutMs;
  return absl::StrCat(text, "iface_index . ", address, " . inet_service . ", address,
                      " . inet_service\n\t\tsize ", kMaxFlows,
                      "\n\t\tflags dynamic,timeout\n\t\ttimeout ", ms / 1000, "s\n\t}\n");
}

// Not by way of Address, which does not tell ::ffff:0.0.0.0 from ::.
std::string AddressText(const std::array<uint8_t, 16>& bytes, Family family) {
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(family == Family::kIpv4 ? AF_INET : AF_INET6, bytes.data(), text, sizeof text);
  return text;
}

}  // namespace

std::string RangeToString(const AddressRange& range, Family family) {
  const std::string first = AddressText(range.first, family);
  if (range.first == range.last) return first;
  const int length = PrefixLength(range, family);
  if (length >= 0) return absl::StrCat(first, "/", length);
  return absl::StrCat(first, "-", AddressText(range.last, family));
}

std::string RuleToNft(const Rule& rule) {
  std::vector<std::string> words;
  for (const Condition& c : rule.conditions) words.push_back(std::visit(ConditionText(), c));
  if (rule.counted) words.push_back("counter");
  words.push_back(std::visit(StatementText(), rule.statement));
  words.push_back(absl::StrCat("comment ", Quoted(rule.comment)));
  return absl::StrJoin(words, " ");
}

std::string TableToNft(absl::Span<const Chain> chains, absl::string_view table_comment) {
  std::string text =
      absl::StrCat("table inet ", kTableName, "\ndelete table inet ", kTableName, "\ntable inet ",
                   kTableName, " {\n\tcomment \"", table_comment, "\"\n");
  for (const NamedSet& set : SetsOf(chains)) absl::StrAppend(&text, SetText(set));
  for (const Chain& chain : chains) {
    absl::StrAppend(&text, "\n\tchain ", chain.name, " {\n");
    if (const char* hook = HookText(chain.hook)) absl::StrAppend(&text, "\t\t", hook, "\n");
    for (const Rule& rule : chain.rules) absl::StrAppend(&text, "\t\t", RuleToNft(rule), "\n");
    absl::StrAppend(&text, "\t}\n");
  }
  return absl::StrCat(text, "}\n");
}

}  // namespace utproxy
