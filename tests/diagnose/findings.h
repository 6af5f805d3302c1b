// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_DIAGNOSE_FINDINGS_H_
#define UTPROXY_TESTS_DIAGNOSE_FINDINGS_H_

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <linux/netfilter.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "diagnose/chain_reach.h"
#include "diagnose/doctor.h"
#include "views.h"

// What doctor finds in a view, and views with rules around the target's.
namespace utproxy {

using Set = std::set<std::string>;

// As the ruleset is now.
inline Findings DiagnoseNow(SystemView view) {
  if (!view.ruleset.chains.empty()) FollowTargets(&view);
  return Diagnose(view);
}

inline Set Ids(const SystemView& view, Severity severity = Severity::kError) {
  Set ids;
  for (const Finding& f : DiagnoseNow(view)) {
    if (f.severity == severity) ids.insert(f.id);
  }
  return ids;
}

inline std::string CauseOf(const SystemView& view, const std::string& id) {
  for (const Finding& f : DiagnoseNow(view)) {
    if (f.id == id) return f.cause;
  }
  return "";
}

inline std::string FixOf(const SystemView& view, const std::string& id) {
  for (const Finding& f : DiagnoseNow(view)) {
    if (f.id == id) return f.fix;
  }
  return "";
}

inline RuleCondition Numbers(Field field, uint64_t first, uint64_t last) {
  RuleCondition c;
  c.field = field;
  c.numbers = {{first, last}};
  return c;
}

inline RuleFacts Rule(RuleVerdict verdict, std::vector<RuleCondition> conditions = {}) {
  RuleFacts rule;
  rule.handle = 9;
  rule.verdict = verdict;
  rule.conditions = std::move(conditions);
  return rule;
}

// An IPv4 chain of the prerouting hook, without rules.
inline ChainFacts BaseChain(const std::string& table, int priority,
                            const std::string& type = "filter") {
  return {.family = NFPROTO_IPV4,
          .table = table,
          .name = "PREROUTING",
          .hook = NF_INET_PRE_ROUTING,
          .priority = priority,
          .type = type};
}

// HealthyView() with the TPROXY rules themselves, handle 4, `first` in front of IPv4's.
inline SystemView Behind(std::vector<RuleFacts> first) {
  SystemView view = HealthyView();
  for (const uint8_t family : {NFPROTO_IPV4, NFPROTO_IPV6}) {
    ChainFacts chain{.family = family,
                     .table = "mangle",
                     .name = "PREROUTING",
                     .hook = NF_INET_PRE_ROUTING,
                     .priority = -150,
                     .type = "filter"};
    RuleFacts tproxy;
    tproxy.handle = 4;
    tproxy.tproxy = TproxyStatement{
        .xt = true, .v4 = true, .v6 = false, .address = {}, .port = 12345, .mark = {1, 1}};
    tproxy.conditions = {Numbers(Field::kL4Proto, IPPROTO_TCP, IPPROTO_TCP),
                         Numbers(Field::kDport, 8080, 8080)};
    if (family == NFPROTO_IPV4) chain.rules = std::move(first);
    chain.rules.push_back(tproxy);
    view.ruleset.chains.push_back(chain);
  }
  FollowTargets(&view);
  return view;
}

}  // namespace utproxy

#endif  // UTPROXY_TESTS_DIAGNOSE_FINDINGS_H_
