// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/marked_route.h"

#include <absl/strings/str_cat.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <cerrno>

#include "diagnose/fixes.h"

namespace utproxy {
namespace {

constexpr uint32_t kLoopbackIndex = 1;  // in every network namespace

Fit Known(bool fits) { return fits ? Fit::kYes : Fit::kNo; }

Fit FitPrefix(const std::optional<Cidr>& cidr, const std::optional<Address>& address) {
  if (!cidr || cidr->prefix_len == 0) return Fit::kYes;
  return address ? Known(cidr->Contains(*address)) : Fit::kMaybe;
}

const ProbeFacts* ProbeOf(const SystemView& view, const Entry& entry) {
  for (const ProbeFacts& probe : view.probes) {
    if (probe.target == entry.index && probe.family == entry.family &&
        probe.iif == entry.iif.name && probe.mark == MarkAt(entry)) {
      return &probe;
    }
  }
  return nullptr;
}

bool Refuses(uint8_t route_type) {
  return route_type == RTN_BLACKHOLE || route_type == RTN_UNREACHABLE || route_type == RTN_PROHIBIT;
}

// The table's default route refuses whatever gets there.
bool DefaultRefuses(const SystemView& view, Family family, uint32_t table) {
  return std::any_of(view.routes.begin(), view.routes.end(), [&](const RouteFacts& r) {
    return r.family == family && r.table == table && Refuses(r.type);
  });
}

// The rule surely or, where the kernel's answer says so, by that answer leads to another place.
bool LeadsAway(const SystemView& view, const Entry& entry, const PolicyRule& rule, Fit fit,
               const RouteAnswer* answer) {
  if (!rule.to_table) {
    return fit == Fit::kYes && rule.action != FR_ACT_NOP && rule.action != FR_ACT_GOTO;
  }
  if (answer != nullptr && answer->kind != RouteAnswer::Kind::kRefused) {
    return rule.table == answer->table;
  }
  return fit == Fit::kYes && HasDefault(view, entry.family, rule.table);
}

}  // namespace

Fit FitsPacket(const PolicyRule& rule, const RoutedPacket& packet) {
  if (rule.family != packet.family) return Fit::kNo;
  Fit fit = Known((rule.iif.empty() || rule.iif == packet.iif) &&
                  (!rule.mark || FitsMark(rule, packet.mark)));
  fit = std::min({fit, FitPrefix(rule.from, packet.src), FitPrefix(rule.to, packet.dst)});
  if (rule.ip_proto) {
    fit = std::min(fit, packet.ip_proto ? Known(*rule.ip_proto == *packet.ip_proto) : Fit::kMaybe);
  }
  if (rule.narrowed) fit = std::min(fit, Fit::kMaybe);
  if (!rule.inverted || fit == Fit::kMaybe) return fit;
  return Known(fit == Fit::kNo);
}

bool FitsMark(const PolicyRule& rule, uint32_t mark) {
  return rule.mark && ((mark ^ *rule.mark) & *rule.mask) == 0;
}

bool HasLocalDefault(const SystemView& view, Family family, uint32_t table) {
  return std::any_of(view.routes.begin(), view.routes.end(), [&](const RouteFacts& r) {
    return r.family == family && r.table == table && r.type == RTN_LOCAL && r.oif == kLoopbackIndex;
  });
}

bool HasDefault(const SystemView& view, Family family, uint32_t table) {
  return std::any_of(view.routes.begin(), view.routes.end(),
                     [&](const RouteFacts& r) { return r.family == family && r.table == table; });
}

bool Delivery::delivered() const {
  return probe != nullptr &&
         (probe->kind == RouteAnswer::Kind::kLocal || probe->kind == RouteAnswer::Kind::kMany);
}

bool Delivery::martian() const {
  return probe != nullptr && probe->kind == RouteAnswer::Kind::kRefused && !thief_refuses &&
         (probe->error == EINVAL || probe->error == EXDEV);
}

Delivery Inspect(const SystemView& view, const Entry& entry) {
  Delivery d;
  const ProbeFacts* probe = ProbeOf(view, entry);
  RoutedPacket packet{.family = entry.family,
                      .mark = MarkAt(entry),
                      .iif = entry.iif.name,
                      .src = std::nullopt,
                      .dst = std::nullopt,
                      .ip_proto = std::nullopt};
  if (probe != nullptr) {
    d.probe = &probe->answer;
    packet.src = probe->src;
    packet.dst = probe->dst;
    packet.ip_proto = probe->ip_proto;
  }
  for (const PolicyRule& rule : view.rules) {
    const Fit fit = FitsPacket(rule, packet);
    if (fit == Fit::kNo) continue;
    const bool marked = !rule.inverted && rule.to_table && FitsMark(rule, packet.mark);
    if (marked) d.marked.push_back(&rule);
    if (d.ours != nullptr) continue;
    if (marked && fit == Fit::kYes && HasLocalDefault(view, entry.family, rule.table)) {
      d.ours = &rule;
    } else if (d.thief == nullptr && LeadsAway(view, entry, rule, fit, d.probe)) {
      d.thief = &rule;
      d.thief_refuses = !rule.to_table || DefaultRefuses(view, entry.family, rule.table);
    }
  }
  return d;
}

void ForEachMarked(const SystemView& view, absl::FunctionRef<void(const Entry&)> fn) {
  ForEachEntry(view, [&](const Entry& entry) {
    const ProxyTarget& target = entry.target;
    const Arrival* arrival = ArrivalAt(entry);
    if (arrival != nullptr && arrival->remarked) return;
    if (target.policy_known && target.mark_set && target.mark_known) fn(entry);
  });
}

uint32_t DeliveryTable(const SystemView& view, const Entry& entry) {
  if (HasLocalDefault(view, entry.family, entry.target.table)) return entry.target.table;
  for (const RouteFacts& r : view.routes) {
    if (r.family == entry.family && r.table < RT_TABLE_DEFAULT && r.type == RTN_LOCAL &&
        r.oif == kLoopbackIndex) {
      return r.table;
    }
  }
  return entry.target.table;
}

std::string AddRuleCommand(const Entry& entry, uint32_t table, const std::string& more) {
  return absl::StrCat(IpTool(entry.family), " rule add fwmark ", MarkMaskText(entry.target),
                      " lookup ", table, more);
}

Finding FindingAt(const Entry& entry, const char* id) {
  Finding f;
  f.id = id;
  f.where = WhereText(entry);
  f.family = entry.family;
  f.target = entry.index;
  return f;
}

}  // namespace utproxy
