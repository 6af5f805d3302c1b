// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: the expressions of a rule of the ruleset, x_tables' matches and targets among
// them, as libnftnl hands them over (which itself takes the kernel's messages on trust, and ends
// the program where they are malformed). A byte for the family, one for what sets hold; then for
// each expression its number, the bits of the attributes that are set, and their values.
// clang-format off
#include <cstdio>  // before libnftnl/expr.h
// clang-format on

#include <libnftnl/expr.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "diagnose/rule_decoder.h"

namespace {

using namespace utproxy;  // NOLINT

constexpr size_t kMaxData = 16;  // of a register

enum class Kind : uint8_t { kNone, kU16, kU32, kData, kName, kInfo };
struct Attribute {
  uint16_t type = 0;
  Kind kind = Kind::kNone;
};
struct Expression {
  const char* name;
  std::array<Attribute, 4> attributes;
};

constexpr Expression kExpressions[] = {
    {"meta",
     {{{NFTNL_EXPR_META_KEY, Kind::kU32},
       {NFTNL_EXPR_META_DREG, Kind::kU32},
       {NFTNL_EXPR_META_SREG, Kind::kU32}}}},
    {"payload",
     {{{NFTNL_EXPR_PAYLOAD_DREG, Kind::kU32},
       {NFTNL_EXPR_PAYLOAD_BASE, Kind::kU32},
       {NFTNL_EXPR_PAYLOAD_OFFSET, Kind::kU32},
       {NFTNL_EXPR_PAYLOAD_LEN, Kind::kU32}}}},
    {"bitwise",
     {{{NFTNL_EXPR_BITWISE_SREG, Kind::kU32},
       {NFTNL_EXPR_BITWISE_DREG, Kind::kU32},
       {NFTNL_EXPR_BITWISE_MASK, Kind::kData},
       {NFTNL_EXPR_BITWISE_XOR, Kind::kData}}}},
    {"cmp",
     {{{NFTNL_EXPR_CMP_SREG, Kind::kU32},
       {NFTNL_EXPR_CMP_OP, Kind::kU32},
       {NFTNL_EXPR_CMP_DATA, Kind::kData}}}},
    {"range",
     {{{NFTNL_EXPR_RANGE_SREG, Kind::kU32},
       {NFTNL_EXPR_RANGE_OP, Kind::kU32},
       {NFTNL_EXPR_RANGE_FROM_DATA, Kind::kData},
       {NFTNL_EXPR_RANGE_TO_DATA, Kind::kData}}}},
    {"lookup",
     {{{NFTNL_EXPR_LOOKUP_SREG, Kind::kU32},
       {NFTNL_EXPR_LOOKUP_DREG, Kind::kU32},
       {NFTNL_EXPR_LOOKUP_SET, Kind::kName},
       {NFTNL_EXPR_LOOKUP_FLAGS, Kind::kU32}}}},
    {"immediate", {{{NFTNL_EXPR_IMM_DREG, Kind::kU32}, {NFTNL_EXPR_IMM_DATA, Kind::kData}}}},
    {"immediate", {{{NFTNL_EXPR_IMM_VERDICT, Kind::kU32}}}},
    {"tproxy",
     {{{NFTNL_EXPR_TPROXY_FAMILY, Kind::kU32},
       {NFTNL_EXPR_TPROXY_REG_ADDR, Kind::kU32},
       {NFTNL_EXPR_TPROXY_REG_PORT, Kind::kU32}}}},
    {"queue",
     {{{NFTNL_EXPR_QUEUE_NUM, Kind::kU16},
       {NFTNL_EXPR_QUEUE_TOTAL, Kind::kU16},
       {NFTNL_EXPR_QUEUE_FLAGS, Kind::kU16}}}},
    {"socket", {{{NFTNL_EXPR_SOCKET_KEY, Kind::kU32}, {NFTNL_EXPR_SOCKET_DREG, Kind::kU32}}}},
    {"fib",
     {{{NFTNL_EXPR_FIB_DREG, Kind::kU32},
       {NFTNL_EXPR_FIB_RESULT, Kind::kU32},
       {NFTNL_EXPR_FIB_FLAGS, Kind::kU32}}}},
    {"ct", {{{NFTNL_EXPR_CT_DREG, Kind::kU32}, {NFTNL_EXPR_CT_KEY, Kind::kU32}}}},
    {"match",
     {{{NFTNL_EXPR_MT_NAME, Kind::kName},
       {NFTNL_EXPR_MT_REV, Kind::kU32},
       {NFTNL_EXPR_MT_INFO, Kind::kInfo}}}},
    {"target",
     {{{NFTNL_EXPR_TG_NAME, Kind::kName},
       {NFTNL_EXPR_TG_REV, Kind::kU32},
       {NFTNL_EXPR_TG_INFO, Kind::kInfo}}}},
    {"flow_offload", {{{NFTNL_EXPR_FLOW_TABLE_NAME, Kind::kName}}}},
    {"notrack", {}},
};

// Of matches and targets; the others are names of sets and chains.
constexpr const char* kNames[] = {"tcp",   "udp",   "multiport", "mark",     "conntrack",
                                  "state", "owner", "socket",    "addrtype", "TPROXY",
                                  "MARK",  "CT",    "NFQUEUE",   "NOTRACK",  "t"};

class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(data, size) {}
  bool empty() const { return rest_.empty(); }
  uint8_t Byte() {
    if (rest_.empty()) return 0;
    const uint8_t byte = rest_[0];
    rest_.remove_prefix(1);
    return byte;
  }
  absl::Span<const uint8_t> Bytes(size_t max) {
    const size_t length = std::min({size_t{Byte()}, max, rest_.size()});
    const absl::Span<const uint8_t> bytes = rest_.first(length);
    rest_.remove_prefix(length);
    return bytes;
  }

 private:
  absl::Span<const uint8_t> rest_;
};

void Set(nftnl_expr* expr, const Attribute& attribute, Input* input) {
  switch (attribute.kind) {
    case Kind::kNone:
      return;
    case Kind::kU16:
      return nftnl_expr_set_u16(expr, attribute.type, input->Byte());
    case Kind::kU32:
      // Small ones, and from 0x80 on those just below 0: verdicts such as NFT_JUMP.
      return nftnl_expr_set_u32(expr, attribute.type,
                                static_cast<uint32_t>(static_cast<int8_t>(input->Byte())));
    case Kind::kData: {
      const absl::Span<const uint8_t> bytes = input->Bytes(kMaxData);
      nftnl_expr_set(expr, attribute.type, bytes.data(), static_cast<uint32_t>(bytes.size()));
      return;
    }
    case Kind::kName:
      (void)nftnl_expr_set_str(expr, attribute.type, kNames[input->Byte() % std::size(kNames)]);
      return;
    case Kind::kInfo: {
      // The expression's own from then on.
      const absl::Span<const uint8_t> bytes = input->Bytes(255);
      void* info = std::malloc(bytes.size());
      if (!bytes.empty()) std::memcpy(info, bytes.data(), bytes.size());
      nftnl_expr_set(expr, attribute.type, info, static_cast<uint32_t>(bytes.size()));
      return;
    }
  }
}

std::optional<std::vector<ByteRange>> ElementsOf(uint8_t choice) {
  if (choice == 0) return std::nullopt;
  const size_t size = choice % 32;
  return std::vector<ByteRange>(choice / 32, {std::string(size, '\0'), std::string(size, '\x7f')});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const uint8_t family = input.Byte();
  const uint8_t choice = input.Byte();
  RuleDecoder decoder(family, [&](const std::string&) { return ElementsOf(choice); });
  while (!input.empty()) {
    const Expression& expression = kExpressions[input.Byte() % std::size(kExpressions)];
    const uint8_t set = input.Byte();
    const std::unique_ptr<nftnl_expr, decltype(&nftnl_expr_free)> expr(
        nftnl_expr_alloc(expression.name), &nftnl_expr_free);
    if (!expr) std::abort();
    for (size_t i = 0; i < expression.attributes.size(); ++i) {
      if ((set >> i & 1) != 0) Set(expr.get(), expression.attributes[i], &input);
    }
    decoder.Take(expr.get());
  }
  for (const RuleFacts& rule : decoder.Finish()) {
    for (const RuleCondition& condition : rule.conditions) {
      if (condition.any_bit && !condition.numbers.empty()) std::abort();
    }
  }
  return 0;
}
