// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_RULE_DECODER_H_
#define UTPROXY_DIAGNOSE_RULE_DECODER_H_

#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "diagnose/ruleset_facts.h"

struct nftnl_expr;

namespace utproxy {

// One set's elements as bytes, both ends included, as wide as the set's key. nullopt: unknown.
struct ByteRange {
  std::string first, last;
  RuleVerdict verdict = RuleVerdict::kNone;  // of a verdict map
  std::string jump_to;
};
using SetElements = std::function<std::optional<std::vector<ByteRange>>(const std::string& name)>;

// Reads the expressions of one rule, in order, into RuleFacts. Follows the registers: which field a
// value came from, what mask it went through. Lengths of all data are checked: a short one makes
// the condition unknown.
class RuleDecoder {
 public:
  // `elements` finds a set of the rule's table.
  RuleDecoder(uint8_t family, SetElements elements)
      : family_(family), elements_(std::move(elements)) {}

  void Take(const nftnl_expr* expr);
  // The rule; one that ends with a verdict map is a rule for each of its elements.
  std::vector<RuleFacts> Finish();

 private:
  struct Register {
    bool immediate = false;
    std::string data;  // where immediate
    Field field = Field::kOther;
    std::string what;
    size_t len = 0;
    std::string mask, flip;  // a bitwise operation after the load; empty: none
    bool bare_mark = false;  // nothing but the mark, masked and flipped
  };

  void Load(uint32_t reg, Register value);
  const Register* Loaded(uint32_t reg) const;
  void Meta(const nftnl_expr* expr);
  void Payload(const nftnl_expr* expr);
  void Bitwise(const nftnl_expr* expr);
  void Cmp(const nftnl_expr* expr);
  void Range(const nftnl_expr* expr);
  void Lookup(const nftnl_expr* expr);
  void VerdictMap(const nftnl_expr* expr);
  void Immediate(const nftnl_expr* expr);
  void Tproxy(const nftnl_expr* expr);
  void Queue(const nftnl_expr* expr);
  void Socket(const nftnl_expr* expr);
  void Fib(const nftnl_expr* expr);
  void AddRanges(const Register& from, const std::vector<ByteRange>& ranges, bool negated);
  bool AsksForFamily(uint8_t family) const;
  void AddUnknown(absl::string_view what);

  const uint8_t family_;
  SetElements elements_;
  std::map<uint32_t, Register> registers_;
  RuleFacts rule_;
  std::optional<Register> map_key_;
  std::vector<ByteRange> map_;
};

// What an xt match or target says, appended to `rule`; `info` is the extension's own structure.
// False where it is not known; the caller then adds an unknown condition (of a match).
bool DecodeXtMatch(absl::string_view name, uint32_t revision, absl::Span<const uint8_t> info,
                   RuleFacts* rule);
bool DecodeXtTarget(absl::string_view name, uint32_t revision, absl::Span<const uint8_t> info,
                    uint8_t family, RuleFacts* rule);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_RULE_DECODER_H_
