// SPDX-License-Identifier: GPL-3.0-or-later
#include "config_check.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/strip.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/status.h"
#include "daemon/daemon.h"
#include "printable.h"
#include "ruleset/plan.h"
#include "ruleset/validate.h"

namespace utproxy::tools {
namespace {

Mistake At(Place place, std::string text) { return {place.line, place.column, std::move(text)}; }

// The place of the option that the message names first.
Place PlaceNamed(const ParsedTarget& target, const std::string& message) {
  size_t first = std::string::npos;
  Place place = target.header;
  for (const auto& [option, where] : target.places) {
    const size_t at = message.find(option + " ");
    const size_t colon = message.find(option + ":");
    if (std::min(at, colon) >= first) continue;
    first = std::min(at, colon);
    place = where;
  }
  return place;
}

// The place of what the checks of rulesets speak of.
Place PlaceOfSpec(const ParsedTarget& target, absl::string_view message) {
  static constexpr std::pair<const char*, const char*> kWords[] = {
      {"mark ", "--tproxy-mark"},
      {"route table ", "--table"},
      {"interface ", "--iif"},
      {"port", "--dport"},
      {"excluded mark", "--exclude-mark"},
      {"excluded users", "--exclude-uid"},
      {"excluded cgroups", "--exclude-cgroup"},
      {"cgroup ", "--exclude-cgroup"}};
  for (const auto& [word, option] : kWords) {
    if (absl::StartsWith(message, word)) return target.PlaceOf(option);
  }
  if (absl::StartsWith(message, "queues ")) {
    const Place queues = target.PlaceOf("--queues");
    return queues.line != target.header.line ? queues : target.PlaceOf("--queue-balance");
  }
  return target.header;
}

Place PlaceOfQueues(const ParsedTarget& target) {
  for (const char* option : {"--queues", "--queue-num", "--queue-balance"}) {
    if (target.places.contains(option)) return target.PlaceOf(option);
  }
  return target.header;
}

void CheckOne(ParsedTarget& parsed, std::vector<Mistake>* mistakes) {
  if (absl::Status status = parsed.words.Finish(); !status.ok()) {
    const std::string message(status.message());
    mistakes->push_back(
        At(PlaceNamed(parsed, message), Printable(InFileWords(message, parsed.table))));
    return;
  }
  const Target& target = parsed.words.target;
  if (!target.install) return;
  RulesetSpec spec = target.ruleset;
  spec.name.clear();
  const absl::StatusOr<std::vector<Chain>> plan = CompilePlan({&spec, 1});
  if (plan.ok()) return;
  absl::string_view message = plan.status().message();
  absl::ConsumePrefix(&message, "target 1: ");
  mistakes->push_back(
      At(PlaceOfSpec(parsed, message), absl::StrCat(message, " (", RemedyOf(plan.status()), ")")));
}

std::string LineOf(const ParsedTarget& target) {
  return absl::StrCat("target ", target.words.target.name, " (line ", target.header.line, ")");
}

void CheckNames(const ParsedTarget& earlier, const ParsedTarget& later,
                std::vector<Mistake>* mistakes) {
  if (!later.named || earlier.words.target.name != later.words.target.name) return;
  mistakes->push_back(At(later.PlaceOf("--name"), absl::StrCat("name ", later.words.target.name,
                                                               ": is that of the target in line ",
                                                               earlier.header.line, " already")));
}

void CheckQueues(const ParsedTarget& earlier, const ParsedTarget& later,
                 std::vector<Mistake>* mistakes) {
  const Target& a = earlier.words.target;
  const Target& b = later.words.target;
  const uint16_t first = std::max(a.queue_first, b.queue_first);
  if (first > std::min(a.queue_last, b.queue_last)) return;
  mistakes->push_back(
      At(PlaceOfQueues(later), absl::StrCat("queues ", b.queue_first, ":", b.queue_last, ": queue ",
                                            first, " is read for ", LineOf(earlier), " already")));
}

// Whether what `policy` gives a packet that comes without a mark fits the policy rule of `other`.
bool FitsRuleOf(const Policy& policy, const Policy& other) {
  return ((policy.Remark(0) ^ other.mark_value) & other.mark_mask) == 0;
}

// A marked packet follows one policy rule. Where its mark fits two that lead to different tables,
// which one it is would depend on their order.
void CheckMarks(const ParsedTarget& earlier, const ParsedTarget& later,
                std::vector<Mistake>* mistakes) {
  const Target& a = earlier.words.target;
  const Target& b = later.words.target;
  if (!a.install || !b.install || a.ruleset.route_table == b.ruleset.route_table) return;
  const Policy &p = a.policy, &q = b.policy;
  if (!FitsRuleOf(p, q) && !FitsRuleOf(q, p)) return;
  mistakes->push_back(At(
      later.PlaceOf("--tproxy-mark"),
      absl::StrFormat("mark 0x%x/0x%x: cannot be told from 0x%x/0x%x of %s, which leads to table "
                      "%u instead of %u",
                      q.mark_value, q.mark_mask, p.mark_value, p.mark_mask, LineOf(earlier),
                      a.ruleset.route_table, b.ruleset.route_table)));
}

void CheckCount(absl::Span<const std::unique_ptr<ParsedTarget>> targets,
                std::vector<Mistake>* mistakes) {
  size_t queues = 0;
  for (const auto& target : targets) {
    const Target& t = target->words.target;
    queues += t.QueueCount();
    if (queues <= kMaxQueues) continue;
    mistakes->push_back(
        At(PlaceOfQueues(*target),
           absl::StrCat("queues ", t.queue_first, ":", t.queue_last, ": with these there are ",
                        "more than the ", kMaxQueues, " that one process serves, a thread each")));
    return;
  }
}

}  // namespace

void CheckTargets(absl::Span<const std::unique_ptr<ParsedTarget>> targets,
                  std::vector<Mistake>* mistakes) {
  for (const auto& target : targets) CheckOne(*target, mistakes);
  CheckCount(targets, mistakes);
  for (size_t i = 0; i < targets.size(); ++i) {
    const ParsedTarget& target = *targets[i];
    if (targets.size() > 1 && !target.places.contains("--name")) {
      mistakes->push_back(At(target.header, "target: has no name, which it needs beside others"));
    }
    // Against the first that it does not go with: more would say the same.
    for (const auto check : {CheckNames, CheckQueues, CheckMarks}) {
      const size_t told = mistakes->size();
      for (size_t j = 0; j < i && mistakes->size() == told; ++j) {
        check(*targets[j], target, mistakes);
      }
    }
  }
}

std::vector<Mistake> WarningsAbout(absl::Span<const std::unique_ptr<ParsedTarget>> targets) {
  std::vector<Mistake> warnings;
  for (const auto& target : targets) {
    const std::string& option = target->words.first_install_option();
    if (target->words.target.install || option.empty()) continue;
    warnings.push_back(
        At(target->PlaceOf(option),
           absl::StrCat(InFileWords(option, target->table),
                        ": without install = true it is only what you say of your own rules")));
  }
  return warnings;
}

}  // namespace utproxy::tools
