// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/rule_decoder.h"

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <libnftnl/expr.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "diagnose/rule_values.h"

namespace utproxy {
namespace {

// A name compared in full has its closing zero; "lan*" is compared without.
std::string ToName(const std::string& bytes) {
  const size_t end = bytes.find('\0');
  return end == std::string::npos ? bytes + "*" : bytes.substr(0, end);
}

Field MetaField(uint32_t key) {
  switch (key) {
    case NFT_META_IIFNAME:
      return Field::kIif;
    case NFT_META_IIF:
      return Field::kIifIndex;
    case NFT_META_OIFNAME:
      return Field::kOif;
    case NFT_META_NFPROTO:
      return Field::kNfProto;
    case NFT_META_L4PROTO:
      return Field::kL4Proto;
    case NFT_META_MARK:
      return Field::kMark;
    case NFT_META_SKUID:
      return Field::kUid;
    case NFT_META_SKGID:
      return Field::kGid;
    case NFT_META_CGROUP:
      return Field::kCgroup;
    default:
      return Field::kOther;
  }
}

}  // namespace

void RuleDecoder::Load(uint32_t reg, Register value) { registers_[reg] = std::move(value); }

const RuleDecoder::Register* RuleDecoder::Loaded(uint32_t reg) const {
  const auto it = registers_.find(reg);
  return it == registers_.end() ? nullptr : &it->second;
}

void RuleDecoder::AddUnknown(absl::string_view what) {
  RuleCondition unknown;
  unknown.what = std::string(what);
  rule_.conditions.push_back(std::move(unknown));
}

void RuleDecoder::Meta(const nftnl_expr* expr) {
  const uint32_t key = Number(expr, NFTNL_EXPR_META_KEY);
  if (nftnl_expr_is_set(expr, NFTNL_EXPR_META_DREG)) {
    Register loaded;
    loaded.field = MetaField(key);
    loaded.what = "meta";
    loaded.bare_mark = key == NFT_META_MARK;
    Load(Number(expr, NFTNL_EXPR_META_DREG), std::move(loaded));
    return;
  }
  if (key != NFT_META_MARK) return;
  const Register* from = Loaded(Number(expr, NFTNL_EXPR_META_SREG));
  MarkChange change;
  if (from != nullptr && from->immediate && from->data.size() == 4) {
    change.value = static_cast<uint32_t>(ToNumber(Field::kMark, from->data));
  } else if (from != nullptr && from->bare_mark && from->mask.size() == 4) {
    change.mask = ~static_cast<uint32_t>(ToNumber(Field::kMark, from->mask));
    change.value = static_cast<uint32_t>(ToNumber(Field::kMark, from->flip));
  } else {
    rule_.mark_unknown = true;  // from a map or from conntrack
    return;
  }
  rule_.mark = change;
}

bool RuleDecoder::AsksForFamily(uint8_t family) const {
  for (const RuleCondition& c : rule_.conditions) {
    if (c.field == Field::kNfProto && !c.negated && c.numbers.size() == 1 &&
        c.numbers[0].first == family && c.numbers[0].last == family) {
      return true;
    }
  }
  return false;
}

void RuleDecoder::Payload(const nftnl_expr* expr) {
  if (!nftnl_expr_is_set(expr, NFTNL_EXPR_PAYLOAD_DREG)) return;
  const uint32_t base = Number(expr, NFTNL_EXPR_PAYLOAD_BASE);
  const uint32_t offset = Number(expr, NFTNL_EXPR_PAYLOAD_OFFSET);
  const uint32_t len = Number(expr, NFTNL_EXPR_PAYLOAD_LEN);
  Register loaded;
  loaded.what = "payload";
  loaded.len = len;
  if (base == NFT_PAYLOAD_TRANSPORT_HEADER && len == 2 && offset <= 2) {
    loaded.field = offset == 0 ? Field::kSport : Field::kDport;
  } else if (base == NFT_PAYLOAD_NETWORK_HEADER) {
    // IPv4's addresses stand at 12 and 16, IPv6's at 8 and 24. In an inet table the rule has a
    // condition on the family before.
    const bool v4 = family_ == NFPROTO_IPV4 || AsksForFamily(NFPROTO_IPV4);
    const bool v6 = family_ == NFPROTO_IPV6 || AsksForFamily(NFPROTO_IPV6);
    if (v4 && len <= 4 && (offset == 12 || offset == 16)) {
      loaded.field = offset == 12 ? Field::kSrc : Field::kDst;
      loaded.len = 4;
    } else if (v6 && len <= 16 && (offset == 8 || offset == 24)) {
      loaded.field = offset == 8 ? Field::kSrc : Field::kDst;
      loaded.len = 16;
    }
  }
  Load(Number(expr, NFTNL_EXPR_PAYLOAD_DREG), std::move(loaded));
}

void RuleDecoder::Bitwise(const nftnl_expr* expr) {
  const Register* from = Loaded(Number(expr, NFTNL_EXPR_BITWISE_SREG));
  Register result = from != nullptr ? *from : Register();
  const std::string mask = Bytes(expr, NFTNL_EXPR_BITWISE_MASK);
  const std::string flip = Bytes(expr, NFTNL_EXPR_BITWISE_XOR);
  if (result.immediate || !result.mask.empty() || mask.size() != flip.size() || mask.empty()) {
    result = Register();
    result.what = "bitwise";
  } else {
    result.mask = mask;
    result.flip = flip;
  }
  Load(Number(expr, NFTNL_EXPR_BITWISE_DREG), std::move(result));
}

void RuleDecoder::AddRanges(const Register& from, const std::vector<ByteRange>& ranges,
                            bool negated) {
  RuleCondition condition;
  condition.field = from.field;
  condition.negated = negated;
  const bool flipped = from.flip.find_first_not_of('\0') != std::string::npos;
  if (from.field == Field::kOther || from.immediate || flipped || ranges.empty()) {
    return AddUnknown(from.what);
  }
  for (const ByteRange& range : ranges) {
    if (from.field == Field::kSrc || from.field == Field::kDst) {
      const size_t size = range.first.size();
      if (size > from.len || size == 0) return AddUnknown("address");
      std::string last = range.last;
      // A prefix written as mask and value covers all that the mask leaves open.
      for (size_t i = 0; i < last.size() && i < from.mask.size(); ++i) {
        last[i] = static_cast<char>(last[i] | ~from.mask[i]);
      }
      condition.addresses.push_back({ToAddress(range.first, from.len, '\0'),
                                     ToAddress(last, from.len, static_cast<char>(0xff))});
    } else if (from.field == Field::kIif || from.field == Field::kOif) {
      condition.names.push_back(ToName(range.first));
    } else {
      condition.numbers.push_back(
          {ToNumber(from.field, range.first), ToNumber(from.field, range.last)});
    }
  }
  if (!from.mask.empty() && condition.addresses.empty()) {
    condition.mask = ToNumber(from.field, from.mask);
  }
  // "ct state new": whether any of the bits is set is a comparison with 0, the other way round.
  const bool with_zero = condition.numbers.size() == 1 && condition.numbers[0].first == 0 &&
                         condition.numbers[0].last == 0;
  if (!from.mask.empty() && with_zero) {
    condition.any_bit = true;
    condition.negated = !negated;
    condition.numbers.clear();
  }
  rule_.conditions.push_back(std::move(condition));
}

void RuleDecoder::Cmp(const nftnl_expr* expr) {
  const Register* from = Loaded(Number(expr, NFTNL_EXPR_CMP_SREG));
  const uint32_t op = Number(expr, NFTNL_EXPR_CMP_OP);
  const std::string data = Bytes(expr, NFTNL_EXPR_CMP_DATA);
  if (from == nullptr || data.empty() || (op != NFT_CMP_EQ && op != NFT_CMP_NEQ)) {
    return AddUnknown("comparison");
  }
  AddRanges(*from, {{data, data}}, op == NFT_CMP_NEQ);
}

void RuleDecoder::Range(const nftnl_expr* expr) {
  const Register* from = Loaded(Number(expr, NFTNL_EXPR_RANGE_SREG));
  const std::string first = Bytes(expr, NFTNL_EXPR_RANGE_FROM_DATA);
  const std::string last = Bytes(expr, NFTNL_EXPR_RANGE_TO_DATA);
  if (from == nullptr || first.empty() || first.size() != last.size()) return AddUnknown("range");
  AddRanges(*from, {{first, last}}, Number(expr, NFTNL_EXPR_RANGE_OP) == NFT_RANGE_NEQ);
}

void RuleDecoder::Lookup(const nftnl_expr* expr) {
  if (nftnl_expr_is_set(expr, NFTNL_EXPR_LOOKUP_DREG)) {
    if (Number(expr, NFTNL_EXPR_LOOKUP_DREG) == NFT_REG_VERDICT) return VerdictMap(expr);
    Register mapped;
    mapped.what = "map";
    Load(Number(expr, NFTNL_EXPR_LOOKUP_DREG), std::move(mapped));
    return AddUnknown("map");
  }
  const Register* from = Loaded(Number(expr, NFTNL_EXPR_LOOKUP_SREG));
  const char* name = nftnl_expr_get_str(expr, NFTNL_EXPR_LOOKUP_SET);
  const bool negated = (Number(expr, NFTNL_EXPR_LOOKUP_FLAGS) & NFT_LOOKUP_F_INV) != 0;
  const auto elements = name != nullptr ? elements_(name) : std::nullopt;
  if (from == nullptr || !elements) return AddUnknown("set");
  AddRanges(*from, *elements, negated);
}

void RuleDecoder::VerdictMap(const nftnl_expr* expr) {
  const Register* from = Loaded(Number(expr, NFTNL_EXPR_LOOKUP_SREG));
  const char* name = nftnl_expr_get_str(expr, NFTNL_EXPR_LOOKUP_SET);
  auto elements = name != nullptr ? elements_(name) : std::nullopt;
  if (!elements) return AddUnknown("map");
  map_key_ = from != nullptr ? *from : Register();
  map_ = std::move(*elements);
}

std::vector<RuleFacts> RuleDecoder::Finish() {
  if (!map_key_) return {std::move(rule_)};
  std::vector<RuleFacts> rules;
  const RuleFacts before = rule_;
  for (const ByteRange& element : map_) {
    rule_ = before;
    AddRanges(*map_key_, {element}, false);
    rule_.verdict = element.verdict;
    rule_.jump_to = element.jump_to;
    rules.push_back(std::move(rule_));
  }
  return rules;
}

void RuleDecoder::Take(const nftnl_expr* expr) {
  const char* raw = nftnl_expr_get_str(expr, NFTNL_EXPR_NAME);
  const std::string name = raw != nullptr ? raw : "";
  if (name == "meta") return Meta(expr);
  if (name == "payload") return Payload(expr);
  if (name == "bitwise") return Bitwise(expr);
  if (name == "cmp") return Cmp(expr);
  if (name == "range") return Range(expr);
  if (name == "lookup") return Lookup(expr);
  if (name == "immediate") return Immediate(expr);
  if (name == "tproxy") return Tproxy(expr);
  if (name == "queue") return Queue(expr);
  if (name == "socket") return Socket(expr);
  if (name == "fib") return Fib(expr);
  if (name == "counter" || name == "log" || name == "objref") return;
  if (name == "nat" || name == "redir") {
    rule_.dnat = name == "redir" || Number(expr, NFTNL_EXPR_NAT_TYPE) == NFT_NAT_DNAT;
    return;
  }
  if (name == "notrack") {
    rule_.notrack = true;
    return;
  }
  if (name == "flow_offload") {
    const char* table = nftnl_expr_get_str(expr, NFTNL_EXPR_FLOW_TABLE_NAME);
    rule_.flowtable = table != nullptr ? table : "?";
    return;
  }
  if (name == "ct") {
    rule_.defrags = true;
    Register loaded;
    loaded.what = "ct";
    if (Number(expr, NFTNL_EXPR_CT_KEY) == NFT_CT_STATE) loaded.field = Field::kCtState;
    if (nftnl_expr_is_set(expr, NFTNL_EXPR_CT_DREG)) {
      Load(Number(expr, NFTNL_EXPR_CT_DREG), std::move(loaded));
    }
    return;
  }
  if (name == "match") {
    const std::string info = Bytes(expr, NFTNL_EXPR_MT_INFO);
    const char* match = nftnl_expr_get_str(expr, NFTNL_EXPR_MT_NAME);
    const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(info.data()),
                                          info.size());
    if (match == nullptr || !DecodeXtMatch(match, Number(expr, NFTNL_EXPR_MT_REV), bytes, &rule_)) {
      AddUnknown(match != nullptr ? match : "match");
    }
    return;
  }
  if (name == "target") {
    const std::string info = Bytes(expr, NFTNL_EXPR_TG_INFO);
    const char* target = nftnl_expr_get_str(expr, NFTNL_EXPR_TG_NAME);
    const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(info.data()),
                                          info.size());
    if (target != nullptr) {
      (void)DecodeXtTarget(target, Number(expr, NFTNL_EXPR_TG_REV), bytes, family_, &rule_);
    }
    return;
  }
  // limit, quota, connlimit, numgen, ...: whatever they do, the rule may not fit every packet.
  AddUnknown(name);
}

}  // namespace utproxy
