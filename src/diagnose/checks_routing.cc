// SPDX-License-Identifier: GPL-3.0-or-later
// Where routing leads the packets that a target has marked.
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>

#include <algorithm>

#include "diagnose/checks.h"
#include "diagnose/fixes.h"
#include "diagnose/marked_route.h"

namespace utproxy {
namespace {

// Sockets of proxied connections, at addresses that are not the host's: it has worked before.
size_t ProxiedConnections(const SystemView& view, const Entry& entry) {
  return static_cast<size_t>(
      std::count_if(view.sockets.begin(), view.sockets.end(), [&](const SocketFacts& s) {
        const Family family = s.socket.local.IsV4Mapped() ? Family::kIpv4 : Family::kIpv6;
        return s.socket.proto == Proto::kTcp && s.socket.connected() && family == entry.family &&
               !s.socket.local.IsUnspecified() && !view.IsLocal(s.socket.local);
      }));
}

// utproxy's own table is there, so its policy rule was, too.
bool OwnTableIsThere(const SystemView& view, const Entry& entry) {
  return std::any_of(entry.target.rules.begin(), entry.target.rules.end(),
                     [](const RuleRef& r) { return r.table == "utproxy" && r.owned; }) &&
         view.ruleset_read;
}

bool WasThere(const SystemView& view, const Entry& entry) {
  return ProxiedConnections(view, entry) > 0 || OwnTableIsThere(view, entry);
}

bool NetworkManagerRuns(const SystemView& view) {
  return std::any_of(view.processes.begin(), view.processes.end(),
                     [](const auto& p) { return p.second.comm.rfind("systemd-network", 0) == 0; });
}

// "fwmark 0x1/0xff lookup main", "from 10.0.0.0/8 blackhole": a rule as `ip rule` shows it.
std::string RuleText(const PolicyRule& rule) {
  std::string text;
  if (rule.inverted) absl::StrAppend(&text, "not ");
  if (rule.from && rule.from->prefix_len > 0) {
    absl::StrAppend(&text, "from ", CidrToString(*rule.from), " ");
  }
  if (rule.to && rule.to->prefix_len > 0) {
    absl::StrAppend(&text, "to ", CidrToString(*rule.to), " ");
  }
  if (rule.mark) absl::StrAppendFormat(&text, "fwmark 0x%x/0x%x ", *rule.mark, *rule.mask);
  if (!rule.iif.empty()) absl::StrAppend(&text, "iif ", rule.iif, " ");
  if (rule.to_table) {
    const std::string table = rule.table == RT_TABLE_MAIN ? "main" : absl::StrCat(rule.table);
    return absl::StrCat(text, "lookup ", table);
  }
  return text + (rule.action == FR_ACT_BLACKHOLE     ? "blackhole"
                 : rule.action == FR_ACT_UNREACHABLE ? "unreachable"
                                                     : "prohibit");
}

// The next priority before `rule` that no rule has; a new one would land behind those of the same.
// 0 where there is none.
uint32_t FreePriorityBefore(const SystemView& view, const PolicyRule& rule) {
  const auto taken = [&](uint32_t priority) {
    return std::any_of(view.rules.begin(), view.rules.end(), [&](const PolicyRule& other) {
      return other.family == rule.family && other.priority == priority;
    });
  };
  uint32_t priority = rule.priority;
  while (priority > 0 && taken(priority)) --priority;
  return priority;
}

// A rule that comes before the one that delivers takes the packets.
Finding Overtaken(const SystemView& view, const Entry& entry, const PolicyRule& thief,
                  const PolicyRule& ours) {
  Finding f = FindingAt(entry, thief.mark || thief.to_table ? "mark_overlap" : "not_delivered");
  const std::string mark = MarkMaskText(entry.target);
  if (thief.mark) {
    f.cause = absl::StrFormat(
        "Packets with mark %s also fit the rule with priority %u (%s), which comes before the one "
        "that delivers them (priority %u) and %s.",
        mark, thief.priority, RuleText(thief), ours.priority,
        thief.to_table ? "leads elsewhere" : "refuses them");
  } else if (thief.to_table) {
    f.cause = absl::StrFormat(
        "The rule for mark %s (priority %u, lookup %u) is looked at after the one with priority %u "
        "(%s), which already has a route for such packets, so they are not delivered.",
        mark, ours.priority, ours.table, thief.priority, RuleText(thief));
  } else {
    f.cause = absl::StrFormat(
        "`ip rule` %u (%s) catches packets with mark %s before the rule for it (priority %u).",
        thief.priority, RuleText(thief), mark, ours.priority);
  }
  // One that refuses whatever there is takes the answers, too; and nothing comes before priority 0.
  const bool all = !thief.to_table && !thief.mark && !thief.from && !thief.to && thief.iif.empty();
  const uint32_t priority = FreePriorityBefore(view, thief);
  f.fix = priority > 0 && !all
              ? AddRuleCommand(entry, ours.table, absl::StrCat(" priority ", priority))
              : absl::StrCat(IpTool(entry.family), " rule del priority ", thief.priority, " ",
                             RuleText(thief));
  return f;
}

}  // namespace

void CheckFwmarkRule(const SystemView& view, Findings* findings) {
  ForEachMarked(view, [&](const Entry& entry) {
    const Delivery d = Inspect(view, entry);
    if (d.delivered() || !d.marked.empty() || WasThere(view, entry)) return;
    Finding f = FindingAt(entry, "no_fwmark_rule");
    f.cause = absl::StrCat("No policy rule leads packets with mark ", MarkMaskText(entry.target),
                           " to a table of their own, so they are forwarded instead of delivered.");
    if (MarkAt(entry) != MarkOf(entry.target)) {
      absl::StrAppendFormat(&f.cause, " They carry 0x%x, as rules before give them a mark, too.",
                            MarkAt(entry));
    }
    f.fix = AddRuleCommand(entry, DeliveryTable(view, entry));
    findings->push_back(std::move(f));
  });
}

void CheckRuleRemoved(const SystemView& view, Findings* findings) {
  ForEachMarked(view, [&](const Entry& entry) {
    const Delivery d = Inspect(view, entry);
    if (d.delivered() || !d.marked.empty() || !WasThere(view, entry)) return;
    Finding f = FindingAt(entry, "rule_removed");
    const size_t connections = ProxiedConnections(view, entry);
    f.cause = absl::StrCat(
        "The policy rule for mark ", MarkMaskText(entry.target), " is gone, but it was there: ",
        connections > 0 ? absl::StrCat(connections, " proxied connections exist")
                        : "utproxy's own table is in place",
        ". Somebody removed it",
        NetworkManagerRuns(view)
            ? "; systemd-networkd runs, which removes rules it does not know: "
              "set ManageForeignRoutingPolicyRules=no in networkd.conf."
            : ", such as a network manager that removes rules it does not know.");
    const bool own = OwnTableIsThere(view, entry);
    f.fix =
        AddRuleCommand(entry, DeliveryTable(view, entry), own ? " priority 117 protocol 117" : "");
    findings->push_back(std::move(f));
  });
}

void CheckLocalRoute(const SystemView& view, Findings* findings) {
  ForEachMarked(view, [&](const Entry& entry) {
    const Delivery d = Inspect(view, entry);
    if (d.delivered() || d.ours != nullptr || d.martian()) return;
    uint32_t table = entry.target.table;
    if (d.marked.empty()) {
      // With the rule missing as well, both are told where no table has the route.
      if (HasLocalDefault(view, entry.family, DeliveryTable(view, entry))) return;
    } else {
      // The rule for the very mark rather than one whose mask happens to take it in.
      const auto exact = std::find_if(d.marked.begin(), d.marked.end(), [&](const PolicyRule* r) {
        return *r->mask == entry.target.policy.mark_mask || *r->mask == 0xffffffffu;
      });
      table = (exact != d.marked.end() ? *exact : d.marked.front())->table;
    }
    Finding f = FindingAt(entry, "no_local_route");
    f.cause =
        absl::StrCat("Table ", table, ", where packets with mark ", MarkMaskText(entry.target),
                     " are looked up, has no local default route, so they are not delivered "
                     "to this host's sockets.");
    f.fix = absl::StrCat(IpTool(entry.family), " route replace local ", AnyAddress(entry.family),
                         " dev lo table ", table);
    findings->push_back(std::move(f));
  });
}

void CheckMarkOverlap(const SystemView& view, Findings* findings) {
  ForEachMarked(view, [&](const Entry& entry) {
    const Delivery d = Inspect(view, entry);
    if (d.ours == nullptr) return;
    if (d.thief != nullptr && !d.delivered()) {
      findings->push_back(Overtaken(view, entry, *d.thief, *d.ours));
      return;
    }
    for (const PolicyRule& rule : view.rules) {
      const bool other = rule.family == entry.family && rule.mark && rule.table != d.ours->table;
      if (!other || (*rule.mask & *d.ours->mask) == 0 || d.ours->priority > rule.priority ||
          ((*rule.mark ^ *d.ours->mark) & *rule.mask & *d.ours->mask) != 0) {
        continue;
      }
      Finding f = FindingAt(entry, "mark_overlap");
      f.severity = Severity::kWarning;
      f.cause = absl::StrFormat(
          "Packets with mark 0x%x/0x%x of another rule (priority %u, table %u) can also fit the "
          "proxy's (0x%x/0x%x), which comes first.",
          *rule.mark, *rule.mask, rule.priority, rule.table, *d.ours->mark, *d.ours->mask);
      f.fix = absl::StrFormat("%s rule show", IpTool(entry.family));
      findings->push_back(std::move(f));
    }
  });
}

}  // namespace utproxy
