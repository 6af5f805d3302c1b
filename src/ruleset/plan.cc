// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/plan.h"

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>

#include <algorithm>
#include <cstring>

#include "base/status.h"
#include "ruleset/replies.h"
#include "ruleset/validate.h"

namespace utproxy {
namespace {

using Bytes = std::array<uint8_t, 16>;

AddressRange RangeOf(const Cidr& cidr) {
  AddressRange range;
  const size_t size = AddressBytes(cidr.family);
  // IPv4 stands in the last four bytes of an Address, also where all sixteen are zero.
  std::memcpy(range.first.data(), cidr.address.bytes().data() + (16 - size), size);
  range.last = range.first;
  for (size_t bit = cidr.prefix_len; bit < size * 8; ++bit) {
    range.last[bit / 8] = static_cast<uint8_t>(range.last[bit / 8] | (0x80u >> (bit % 8)));
  }
  return range;
}

// The address after `bytes`; false where there is none.
bool Increment(Bytes& bytes, size_t size) {
  for (size_t i = size; i-- > 0;) {
    if (++bytes[i] != 0) return true;
  }
  return false;
}

bool Touches(const AddressRange& a, const AddressRange& b, size_t size) {
  if (b.first <= a.last) return true;
  Bytes next = a.last;
  return Increment(next, size) && b.first == next;
}

// The ranges of one family, sorted, overlapping and adjacent ones merged, as interval sets and
// iptables need them.
std::vector<AddressRange> RangesOf(const std::vector<Cidr>& cidrs, Family family) {
  std::vector<AddressRange> all, merged;
  for (const Cidr& cidr : cidrs) {
    if (cidr.family == family) all.push_back(RangeOf(cidr));
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const AddressRange& range : all) {
    if (!merged.empty() && Touches(merged.back(), range, AddressBytes(family))) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

std::vector<PortRange> MergePorts(std::vector<PortRange> ports) {
  std::sort(ports.begin(), ports.end(),
            [](const PortRange& a, const PortRange& b) { return a.first < b.first; });
  std::vector<PortRange> merged;
  for (const PortRange& range : ports) {
    if (!merged.empty() && range.first <= merged.back().last + 1) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

template <typename T>
std::vector<T> SortedUnique(std::vector<T> values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

bool IsEverything(const std::vector<AddressRange>& ranges, Family family) {
  return ranges.size() == 1 && PrefixLength(ranges[0], family) == 0;
}

// Appends the condition that one list of prefixes means to packets of `family`. False where no
// packet of that family can fit.
bool AppendAddresses(const std::vector<Cidr>& cidrs, Family family, Side side, bool negated,
                     std::vector<Condition>& conditions) {
  if (cidrs.empty()) return true;
  std::vector<AddressRange> ranges = RangesOf(cidrs, family);
  if (ranges.empty()) return negated;
  if (IsEverything(ranges, family)) return !negated;
  conditions.push_back(HasAddress{family, side, negated, std::move(ranges)});
  return true;
}

// The address conditions, one list for each rule needed: none restricts -> one empty list; else
// one list for each family that can fit.
std::vector<std::vector<Condition>> AddressAlternatives(const Match& match) {
  if (match.src.empty() && match.dst.empty() && match.not_src.empty() && match.not_dst.empty()) {
    return {{}};
  }
  std::vector<std::vector<Condition>> alternatives;
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    std::vector<Condition> conditions = {OfFamily{family}};
    if (AppendAddresses(match.src, family, Side::kSource, false, conditions) &&
        AppendAddresses(match.dst, family, Side::kDestination, false, conditions) &&
        AppendAddresses(match.not_src, family, Side::kSource, true, conditions) &&
        AppendAddresses(match.not_dst, family, Side::kDestination, true, conditions)) {
      alternatives.push_back(std::move(conditions));
    }
  }
  return alternatives;
}

void AppendTransport(const Match& match, std::vector<Condition>& conditions) {
  std::vector<Proto> protos = match.protos;
  if (protos.empty()) protos = {Proto::kTcp, Proto::kUdp};
  conditions.push_back(OfProtocol{SortedUnique(std::move(protos))});
  std::vector<PortRange> ports = MergePorts(match.dports);
  const bool all_ports = ports.size() == 1 && ports[0].first == 0 && ports[0].last == 65535;
  if (!ports.empty() && !all_ports) conditions.push_back(ToPort{std::move(ports)});
}

// The target's name as both nft's and the shell's quoting bear it, and as the kernel's limit of
// 128 bytes for a comment does.
std::string CommentOf(const RulesetSpec& spec, size_t index) {
  std::string name = spec.name.empty() ? absl::StrCat("target ", index + 1) : spec.name;
  // What is said after it takes up to 35.
  name.resize(std::min<size_t>(name.size(), 90));
  for (char& c : name) {
    if (!absl::ascii_isalnum(c) && std::strchr(" -_.,:/@+", c) == nullptr) c = '_';
  }
  return name;
}

MarkMatch RoutedMark(const RulesetSpec& spec) {
  return {spec.mark_value & spec.mark_mask, spec.mark_mask};
}

bool Contains(const std::vector<std::string>& names, const char* name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Appends to `chain` one rule for each family alternative of the match.
void AppendRules(const RulesetSpec& spec, std::vector<Condition> first, const Statement& statement,
                 const std::string& comment, Chain& chain) {
  AppendTransport(spec.match, first);
  for (const std::vector<Condition>& addresses : AddressAlternatives(spec.match)) {
    Rule rule{first, statement, comment};
    rule.conditions.insert(rule.conditions.end(), addresses.begin(), addresses.end());
    chain.rules.push_back(std::move(rule));
  }
}

// Appends one rule for packets of this protocol and family, with the match's conditions between
// those of the two lists; none where no such packet fits.
void AppendFastRule(const RulesetSpec& spec, Proto proto, Family family,
                    const std::vector<Condition>& first, const std::vector<Condition>& last,
                    const Statement& statement, const std::string& comment, Chain& chain) {
  Match match = spec.match;
  const auto& protos = match.protos;
  if (!protos.empty() && std::find(protos.begin(), protos.end(), proto) == protos.end()) return;
  match.protos = {proto};
  for (const std::vector<Condition>& addresses : AddressAlternatives(match)) {
    Rule rule{first, statement, comment};
    AppendTransport(match, rule.conditions);
    if (addresses.empty()) rule.conditions.push_back(OfFamily{family});
    rule.conditions.insert(rule.conditions.end(), addresses.begin(), addresses.end());
    rule.conditions.insert(rule.conditions.end(), last.begin(), last.end());
    // Each list of addresses begins with its family.
    if (addresses.empty() || std::get<OfFamily>(addresses[0]).family == family) {
      chain.rules.push_back(std::move(rule));
    }
  }
}

// In front of the queueing rule with these first conditions (see "The fast path").
void AppendFastPath(const RulesetSpec& spec, const std::vector<Condition>& first,
                    const Queue& queue, const std::string& comment, Chain& chain) {
  if (!spec.fast_path) return;
  const Divert divert{{spec.mark_value, spec.mark_mask}};
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    AppendFastRule(spec, Proto::kTcp, family, first, {NotPureSyn{}, ForWildcard{}}, queue,
                   comment + ", no connection", chain);
    AppendFastRule(spec, Proto::kTcp, family, first,
                   {NotPureSyn{}, InSet{{SetKind::kListeners, family}, true}, ForTransparent{}},
                   divert, comment + kFastTcp, chain);
    AppendFastRule(spec, Proto::kUdp, family, first,
                   {InSet{{SetKind::kDecided, family}}, ForTransparent{}}, divert,
                   comment + kFastUdp, chain);
  }
}

// The marks that flows are learned by, of all targets, where packets may come out of a queue with a
// mark that they came with; else none.
std::vector<MarkMatch> AmbiguousMarks(absl::Span<const RulesetSpec> specs) {
  const auto passes = [](const RulesetSpec& spec) { return spec.misses_pass; };
  std::vector<MarkMatch> marks;
  if (std::none_of(specs.begin(), specs.end(), passes)) return marks;
  for (const RulesetSpec& spec : specs) {
    const MarkMatch mark = RoutedMark(spec);
    const bool known = std::find(marks.begin(), marks.end(), mark) != marks.end();
    if (spec.fast_path && !known) marks.push_back(mark);
  }
  return marks;
}

// In front of the queueing rule of a target whose misses pass: targets' matches may overlap, so
// what this one lets pass another could learn.
void AppendPremarked(const RulesetSpec& spec, const std::vector<Condition>& first,
                     absl::Span<const MarkMatch> marks, const std::string& comment, Chain& chain) {
  if (!spec.misses_pass) return;
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    for (const MarkMatch& mark : marks) {
      std::vector<Condition> premarked = first;
      premarked.push_back(HasMark{mark});
      AppendFastRule(spec, Proto::kUdp, family, premarked, {},
                     AddToSet{{SetKind::kPremarked, family}}, comment + ", comes with the mark",
                     chain);
    }
  }
}

// Behind the queue, with the queueing rule's first conditions. `ambiguous`: AmbiguousMarks() has
// some.
void AppendLearning(const RulesetSpec& spec, std::vector<Condition> first, bool ambiguous,
                    const std::string& comment, Chain& chain) {
  if (!spec.fast_path) return;
  first.push_back(HasMark{RoutedMark(spec)});
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    std::vector<Condition> last;
    if (ambiguous) last.push_back(InSet{{SetKind::kPremarked, family}, true});
    AppendFastRule(spec, Proto::kUdp, family, first, last, AddToSet{{SetKind::kDecided, family}},
                   comment + ", decided", chain);
  }
}

void AppendPrerouting(const RulesetSpec& spec, absl::Span<const MarkMatch> ambiguous,
                      const std::string& comment, Chain& chain, Chain& learn) {
  const Queue queue{spec.queue_first, spec.queue_last, spec.queue_bypass,
                    spec.queue_cpu_fanout && spec.queue_first != spec.queue_last};
  std::vector<Condition> interface;
  if (!spec.match.iifs.empty()) {
    interface.push_back(FromInterface{SortedUnique(spec.match.iifs)});
  } else if (spec.local_output) {
    // What comes in on lo is this host's own: there the output chain has decided, with its
    // exclusions. Without this the answers of the proxy to local clients would be queued too.
    interface.push_back(FromInterface{{"lo"}, true});
  }
  const auto append = [&](std::vector<Condition> first, const std::string& text) {
    AppendFastPath(spec, first, queue, text, chain);
    AppendPremarked(spec, first, ambiguous, text, chain);
    AppendLearning(spec, first, !ambiguous.empty(), text, learn);
    AppendRules(spec, std::move(first), queue, text, chain);
  };
  append(std::move(interface), comment);
  if (spec.local_output && !Contains(spec.match.iifs, "lo")) {
    append({FromInterface{{"lo"}}, HasMark{RoutedMark(spec)}}, comment + ", local output");
  }
}

// The chain that the output chain jumps to with what fits: exclusions one rule each, since a
// `socket cgroupv2` or `meta skuid` that cannot be read ends its rule, negated or not.
Chain LocalChain(const RulesetSpec& spec, size_t index, const std::string& comment) {
  Chain chain{absl::StrCat("local_", index)};
  const auto exclude = [&](Condition condition) {
    chain.rules.push_back(Rule{{std::move(condition)}, Return{}, comment});
  };
  exclude(HasMark{RoutedMark(spec)});
  for (const MarkMatch& mark : spec.exclude_marks) exclude(HasMark{mark});
  if (!spec.exclude_uids.empty()) exclude(OfUser{SortedUnique(spec.exclude_uids)});
  for (absl::string_view path : spec.exclude_cgroups) {
    absl::ConsumePrefix(&path, "/");
    absl::ConsumeSuffix(&path, "/");
    exclude(OfCgroup{std::string(path)});
  }
  exclude(ToThisHost{});
  chain.rules.push_back(Rule{{}, SetMark{RoutedMark(spec)}, comment});
  return chain;
}

}  // namespace

int PrefixLength(const AddressRange& range, Family family) {
  const int bits = static_cast<int>(AddressBytes(family)) * 8;
  const auto bit = [](const Bytes& bytes, int i) { return (bytes[i / 8] >> (7 - i % 8)) & 1; };
  int length = 0;
  while (length < bits && bit(range.first, length) == bit(range.last, length)) ++length;
  for (int i = length; i < bits; ++i) {
    if (bit(range.first, i) != 0 || bit(range.last, i) != 1) return -1;
  }
  return length;
}

std::string SetName(NamedSet set) {
  const char* name = set.kind == SetKind::kDecided     ? "flows"
                     : set.kind == SetKind::kPremarked ? "premarked"
                                                       : "listeners";
  return absl::StrCat(name, set.family == Family::kIpv4 ? 4 : 6);
}

std::vector<NamedSet> SetsOf(absl::Span<const Chain> chains) {
  std::vector<NamedSet> sets;
  const auto add = [&sets](NamedSet set) {
    if (std::find(sets.begin(), sets.end(), set) == sets.end()) sets.push_back(set);
  };
  for (const Chain& chain : chains) {
    for (const Rule& rule : chain.rules) {
      if (const auto* s = std::get_if<AddToSet>(&rule.statement)) add(s->set);
      for (const Condition& c : rule.conditions) {
        if (const auto* in = std::get_if<InSet>(&c)) add(in->set);
      }
    }
  }
  if (sets.empty()) return sets;
  // The daemon keeps these of both families, whatever the rules take.
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    add({SetKind::kDecided, family});
    add({SetKind::kListeners, family});
  }
  return sets;
}

int CgroupLevel(absl::string_view path) {
  return 1 + static_cast<int>(std::count(path.begin(), path.end(), '/'));
}

absl::StatusOr<std::vector<Chain>> CompilePlan(absl::Span<const RulesetSpec> specs) {
  RETURN_IF_ERROR(ValidateSpecs(specs));
  std::vector<Chain> chains;
  Chain prerouting{kPreroutingChain, Hook::kPrerouting};
  Chain learn{kLearnChain, Hook::kAfterQueue};
  Chain output{kOutputChain, Hook::kOutputRoute};
  const std::vector<MarkMatch> ambiguous = AmbiguousMarks(specs);
  for (size_t i = 0; i < specs.size(); ++i) {
    const RulesetSpec& spec = specs[i];
    if (AddressAlternatives(spec.match).empty()) {
      return WithRemedy(absl::InvalidArgumentError(absl::StrCat(
                            TargetName(spec, i), ": no packet can fit all its address conditions")),
                        "give sources and destinations of the same family, not all excluded");
    }
    const std::string comment = CommentOf(spec, i);
    AppendPrerouting(spec, ambiguous, comment, prerouting, learn);
    if (!spec.local_output) continue;
    chains.push_back(LocalChain(spec, i, comment));
    AppendRules(spec, {}, Jump{chains.back().name}, comment, output);
  }
  if (std::optional<Chain> replies = RepliesChain(specs)) {
    // What comes in on lo is this host's own and needs no help.
    prerouting.rules.push_back(
        Rule{{FromInterface{{"lo"}, true}}, Jump{replies->name}, "answers to the proxy"});
    chains.push_back(*std::move(replies));
  }
  chains.push_back(
      {kDefragChain, Hook::kNone, {Rule{{}, EnableDefrag{}, "defragmentation", false}}});
  chains.push_back(std::move(prerouting));
  if (!learn.rules.empty()) chains.push_back(std::move(learn));
  if (!output.rules.empty()) chains.push_back(std::move(output));
  return chains;
}

}  // namespace utproxy
