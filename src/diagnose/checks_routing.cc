// SPDX-License-Identifier: GPL-3.0-or-later
// Where routing leads the packets that a target has marked.
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <cerrno>

#include "diagnose/checks.h"
#include "diagnose/fixes.h"

namespace utproxy {
namespace {

constexpr uint32_t kLoopbackIndex = 1;  // in every network namespace

bool HasLocalDefault(const SystemView& view, Family family, uint32_t table) {
  return std::any_of(view.routes.begin(), view.routes.end(), [&](const RouteFacts& r) {
    return r.family == family && r.table == table && r.type == RTN_LOCAL && r.oif == kLoopbackIndex;
  });
}

bool HasDefault(const SystemView& view, Family family, uint32_t table) {
  return std::any_of(view.routes.begin(), view.routes.end(),
                     [&](const RouteFacts& r) { return r.family == family && r.table == table; });
}

// What is found out about one entry's way to the local sockets.
struct Delivery {
  const RouteAnswer* probe = nullptr;
  std::vector<const PolicyRule*> marked;  // fwmark rules that fit, by priority
  const PolicyRule* ours = nullptr;       // the first of them that delivers
  const PolicyRule* thief = nullptr;      // a rule before it that leads elsewhere
  bool delivered() const {
    return probe != nullptr &&
           (probe->kind == RouteAnswer::Kind::kLocal || probe->kind == RouteAnswer::Kind::kMany);
  }
  bool martian() const {
    return probe != nullptr && probe->kind == RouteAnswer::Kind::kRefused &&
           (probe->error == EINVAL || probe->error == EXDEV);
  }
};

bool FitsMark(const PolicyRule& rule, uint32_t mark) {
  return rule.mark && ((mark ^ *rule.mark) & *rule.mask) == 0;
}

Delivery Inspect(const SystemView& view, const Entry& entry) {
  Delivery d;
  for (const ProbeFacts& probe : view.probes) {
    if (probe.target == entry.index && probe.family == entry.family &&
        probe.iif == entry.iif.name && probe.mark == MarkOf(entry.target)) {
      d.probe = &probe.answer;
      break;
    }
  }
  for (const PolicyRule& rule : view.rules) {
    const bool iif = rule.iif.empty() || rule.iif == entry.iif.name;
    if (rule.family != entry.family || !rule.to_table || rule.inverted || !iif) continue;
    const bool marked = FitsMark(rule, MarkOf(entry.target));
    if (marked) d.marked.push_back(&rule);
    if (d.ours != nullptr || rule.narrowed || (rule.mark && !marked)) continue;
    if (marked && HasLocalDefault(view, entry.family, rule.table)) {
      d.ours = &rule;
    } else if (d.thief == nullptr && HasDefault(view, entry.family, rule.table)) {
      d.thief = &rule;
    }
  }
  return d;
}

// Where the mark is not known, nothing is told about its way.
void ForEachMarked(const SystemView& view, absl::FunctionRef<void(const Entry&)> fn) {
  ForEachEntry(view, [&](const Entry& entry) {
    if (entry.target.policy_known && entry.target.mark_set) fn(entry);
  });
}

// A table that has the local route already, so that only the rule is missing.
uint32_t DeliveryTable(const SystemView& view, const Entry& entry) {
  if (HasLocalDefault(view, entry.family, entry.target.table)) return entry.target.table;
  for (const RouteFacts& r : view.routes) {
    if (r.family == entry.family && r.table < 253 && r.type == RTN_LOCAL &&
        r.oif == kLoopbackIndex) {
      return r.table;
    }
  }
  return entry.target.table;
}

std::string AddRule(const Entry& entry, uint32_t table, const char* more = "") {
  return absl::StrCat(IpTool(entry.family), " rule add fwmark ", MarkMaskText(entry.target),
                      " lookup ", table, more);
}

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

Finding At(const Entry& entry, const char* id) {
  Finding f;
  f.id = id;
  f.where = WhereText(entry);
  f.family = entry.family;
  f.target = entry.index;
  return f;
}

}  // namespace

void CheckFwmarkRule(const SystemView& view, Findings* findings) {
  ForEachMarked(view, [&](const Entry& entry) {
    const Delivery d = Inspect(view, entry);
    if (d.delivered() || !d.marked.empty() || WasThere(view, entry)) return;
    Finding f = At(entry, "no_fwmark_rule");
    f.cause = absl::StrCat("No policy rule leads packets with mark ", MarkMaskText(entry.target),
                           " to a table of their own, so they are forwarded instead of delivered.");
    f.fix = AddRule(entry, DeliveryTable(view, entry));
    findings->push_back(std::move(f));
  });
}

void CheckRuleRemoved(const SystemView& view, Findings* findings) {
  ForEachMarked(view, [&](const Entry& entry) {
    const Delivery d = Inspect(view, entry);
    if (d.delivered() || !d.marked.empty() || !WasThere(view, entry)) return;
    Finding f = At(entry, "rule_removed");
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
    f.fix = AddRule(entry, DeliveryTable(view, entry), own ? " priority 117 protocol 117" : "");
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
    Finding f = At(entry, "no_local_route");
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
      const uint32_t before = d.thief->priority > 0 ? d.thief->priority - 1 : 0;
      Finding f = At(entry, "mark_overlap");
      f.cause = absl::StrFormat(
          "Packets with mark %s also fit the rule with priority %u (fwmark 0x%x/0x%x lookup %u), "
          "which comes before the one that delivers them (priority %u) and leads elsewhere.",
          MarkMaskText(entry.target), d.thief->priority, d.thief->mark.value_or(0),
          d.thief->mask.value_or(0), d.thief->table, d.ours->priority);
      f.fix = AddRule(entry, d.ours->table, absl::StrCat(" priority ", before).c_str());
      findings->push_back(std::move(f));
      return;
    }
    for (const PolicyRule& rule : view.rules) {
      const bool other = rule.family == entry.family && rule.mark && rule.table != d.ours->table;
      if (!other || (*rule.mask & *d.ours->mask) == 0 || d.ours->priority > rule.priority ||
          ((*rule.mark ^ *d.ours->mark) & *rule.mask & *d.ours->mask) != 0) {
        continue;
      }
      Finding f = At(entry, "mark_overlap");
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

void CheckSrcValidMark(const SystemView& view, Findings* findings) {
  ForEachMarked(view, [&](const Entry& entry) {
    if (entry.family != Family::kIpv4) return;
    const bool on = view.src_valid_mark_all != 0 || entry.iif.src_valid_mark != 0;
    const Delivery d = Inspect(view, entry);
    if (!on || (d.probe != nullptr && !d.martian())) return;
    Finding f = At(entry, "src_valid_mark");
    f.cause = absl::StrCat(
        "src_valid_mark is 1 (", view.src_valid_mark_all != 0 ? "all" : entry.iif.name,
        "), so the kernel looks up the sender with the packet's mark, too, meets the local default "
        "route and refuses every marked packet as a martian.");
    f.fix = absl::StrCat("sysctl -w net.ipv4.conf.all.src_valid_mark=0 net/ipv4/conf/",
                         ShellWord(entry.iif.name), "/src_valid_mark=0");
    findings->push_back(std::move(f));
  });
}

void CheckRpFilter(const SystemView& view, Findings* findings) {
  ForEachEntry(view, [&](const Entry& entry) {
    const bool strict = std::max(view.rp_filter_all, entry.iif.rp_filter) == 1;
    const bool valid_mark = view.src_valid_mark_all != 0 || entry.iif.src_valid_mark != 0;
    if (entry.family != Family::kIpv4 || !strict) return;
    const ProbeFacts* refused = nullptr;
    for (const ProbeFacts& probe : view.probes) {
      const bool here = probe.target == entry.index && probe.family == Family::kIpv4 &&
                        probe.iif == entry.iif.name;
      const bool martian = probe.answer.error == EINVAL || probe.answer.error == EXDEV;
      if (here && martian && !valid_mark) refused = &probe;
    }
    if (refused == nullptr && (view.martians == 0 || valid_mark)) return;
    Finding f = At(entry, "rp_filter");
    f.cause = absl::StrCat(
        "Strict rp_filter on ", entry.iif.name,
        " drops packets whose sender is not reached by the interface they came in by: ",
        refused != nullptr ? absl::StrCat("one from ", refused->src.ToString(Family::kIpv4), " is")
                           : absl::StrCat(view.martians, " packets were (IPReversePathFilter)"),
        ".");
    f.fix = absl::StrCat("sysctl -w net/ipv4/conf/", ShellWord(entry.iif.name), "/rp_filter=2");
    findings->push_back(std::move(f));
  });
}

void CheckIpv6(const SystemView& view, Findings* findings) {
  for (size_t i = 0; i < view.targets.size(); ++i) {
    const ProxyTarget& target = view.targets[i];
    if (!target.policy_known || target.rules.empty() || !target.v4) continue;
    const bool rule6 = std::any_of(view.rules.begin(), view.rules.end(), [&](const PolicyRule& r) {
      return r.family == Family::kIpv6 && FitsMark(r, MarkOf(target));
    });
    for (const InterfaceFacts& iif : view.interfaces) {
      if (!iif.up || iif.loopback || !target.CoversInterface(iif.name) || !rule6) continue;
      Finding f;
      f.id = "ipv6_missing";
      f.where = absl::StrCat("IPv6, ", iif.name);
      f.target = i;
      if (target.v6 && iif.ipv6_disabled && iif.Has(Family::kIpv4)) {
        f.severity = Severity::kWarning;
        f.cause = absl::StrCat("The rules are there for IPv6, too, but IPv6 is switched off on ",
                               iif.name, ".");
        f.fix = absl::StrCat("sysctl -w net/ipv6/conf/", ShellWord(iif.name), "/disable_ipv6=0");
        findings->push_back(std::move(f));
      } else if (!target.v6 && iif.Has(Family::kIpv6) && IsIptables(target.rules.front()) &&
                 std::none_of(view.targets.begin(), view.targets.end(), [&](const ProxyTarget& o) {
                   return o.v6 && o.kind == target.kind &&
                          o.policy.on_port == target.policy.on_port;
                 })) {
        const std::string words =
            target.kind == ProxyTarget::Kind::kQueue
                ? "-j NFQUEUE"
                : absl::StrCat("-j TPROXY --on-port ", target.policy.on_port, " ");
        f.cause = absl::StrCat(
            "The mark has a policy rule for IPv6, and ", iif.name,
            " has an IPv6 address, but no ip6tables rule takes IPv6 packets to the proxy.");
        f.fix = absl::StrCat("{ echo '*mangle'; iptables-save -t mangle | grep -e '", words,
                             "' | sed 's/--on-ip [^ ]*/--on-ip ::/'; echo COMMIT; } | "
                             "ip6tables-restore --noflush");
        findings->push_back(std::move(f));
      }
    }
  }
}

}  // namespace utproxy
