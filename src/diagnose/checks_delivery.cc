// SPDX-License-Identifier: GPL-3.0-or-later
// The last check: where a target's packets would not arrive and nothing else says why. Each entry
// is followed from its interface through the prerouting chains and routing to the local sockets.
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <absl/strings/strip.h>

#include <algorithm>
#include <array>

#include "diagnose/checks.h"
#include "diagnose/fixes.h"
#include "diagnose/marked_route.h"

namespace utproxy {
namespace {

constexpr const char* kId = "not_delivered";

bool IsRoutingError(const Finding& f) {
  constexpr std::array kIds = {"no_fwmark_rule",
                               "no_local_route",
                               "rule_removed",
                               "mark_overlap",
                               "src_valid_mark",
                               "rp_filter",
                               kId};
  return f.severity == Severity::kError &&
         std::any_of(kIds.begin(), kIds.end(), [&](const char* id) { return f.id == id; });
}

bool RoutingNamed(const Findings& findings, const Entry& entry) {
  return std::any_of(findings.begin(), findings.end(), [&](const Finding& f) {
    return IsRoutingError(f) && f.target == entry.index && f.family == entry.family;
  });
}

bool AnyError(const Findings& findings, size_t target) {
  return std::any_of(findings.begin(), findings.end(), [&](const Finding& f) {
    return f.severity == Severity::kError && f.target == target;
  });
}

Finding About(size_t target, std::string where, std::string cause, std::string fix) {
  Finding f;
  f.id = kId;
  f.target = target;
  f.where = std::move(where);
  f.cause = std::move(cause);
  f.fix = std::move(fix);
  return f;
}

// Nothing says what would be proxied.
void TellNoTarget(const SystemView& view, Findings* findings) {
  const char* legacy =
      view.legacy_unread ? " iptables-legacy has rules here, which can't be read: name the target "
                           "with --on-port, --tproxy-mark and --iif, or use iptables-nft."
                         : "";
  findings->push_back(
      About(0, "prerouting",
            absl::StrCat("No prerouting rule queues or TPROXYs anything, and no target was "
                         "given: there is nothing to look at.",
                         legacy),
            "utproxy run --help"));
}

// The user named a target that no rule leads to.
void TellNoRule(const SystemView& view, size_t index, Findings* findings) {
  const ProxyTarget& target = view.targets[index];
  // Rules that can't be read may do it: those of iptables-legacy, and what filled the queue.
  const bool fed = std::any_of(view.queues.begin(), view.queues.end(), [&](const QueueFacts& q) {
    return q.packets > 0 && target.queue_first <= q.number && q.number <= target.queue_last;
  });
  if (!view.ruleset_read || fed || AnyError(*findings, index)) return;
  std::string options = target.options;
  options = std::string(absl::StripPrefix(options, "--install "));
  Finding f = About(index, "prerouting", "No rule queues or TPROXYs packets for this target.",
                    absl::StrCat("utproxy ruleset install ", options));
  if (view.legacy_unread) {
    f.severity = Severity::kWarning;
    absl::StrAppend(&f.cause, " If one does in iptables-legacy, it can't be read.");
  }
  findings->push_back(std::move(f));
}

bool IsNamed(const std::string& pattern, const InterfaceFacts& iif) {
  ProxyTarget only;
  only.iifs = {pattern};
  return only.CoversInterface(iif.name);
}

// Interfaces that the rule names and that are not there, down, or part of another one.
void TellInterfaces(const SystemView& view, size_t index, Findings* findings) {
  const ProxyTarget& target = view.targets[index];
  size_t usable = 0;
  std::vector<Finding> wrong;
  for (const std::string& pattern : target.iifs) {
    const InterfaceFacts* found = nullptr;
    for (const InterfaceFacts& each : view.interfaces) {
      if (IsNamed(pattern, each) && (found == nullptr || !found->up)) found = &each;
    }
    const std::string name = ShellWord(pattern);
    if (found == nullptr) {
      wrong.push_back(About(index, pattern,
                            absl::StrCat("The rule is for packets from interface ", pattern,
                                         ", which does not exist."),
                            "ip -br link"));
    } else if (!found->up) {
      wrong.push_back(
          About(index, pattern,
                absl::StrCat("The rule is for packets from ", found->name, ", which is down."),
                absl::StrCat("ip link set ", ShellWord(found->name), " up")));
    } else {
      const auto master = std::find_if(view.interfaces.begin(), view.interfaces.end(),
                                       [&](const auto& i) { return i.index == found->master; });
      if (found->master == 0 || master == view.interfaces.end() || master->kind != "bridge") {
        ++usable;
        continue;
      }
      wrong.push_back(About(
          index, pattern,
          absl::StrCat("The rule is for packets from ", found->name,
                       ", which is a port of the bridge ", master->name, ": they come in by that."),
          absl::StrCat("ip link set ", ShellWord(found->name), " nomaster")));
    }
  }
  for (Finding& f : wrong) {
    if (usable > 0) f.severity = Severity::kWarning;
    findings->push_back(std::move(f));
  }
}

// A mark that a rule already leads to the local sockets; "0x1/0x1" where none does.
std::string MarkToUse(const SystemView& view, Family family) {
  for (const PolicyRule& rule : view.rules) {
    if (rule.family == family && rule.mark && HasLocalDefault(view, family, rule.table)) {
      return absl::StrFormat("0x%x/0x%x", *rule.mark, *rule.mask);
    }
  }
  return "0x1/0x1";
}

void TellRouting(const SystemView& view, const Entry& entry, Findings* findings) {
  const ProxyTarget& target = entry.target;
  const bool told = target.kind != ProxyTarget::Kind::kNone || target.mark_set;
  if (!target.policy_known || !target.mark_known || !told || RoutingNamed(*findings, entry)) return;
  const Delivery d = Inspect(view, entry);
  const Arrival* arrival = ArrivalAt(entry);
  const bool remarked = arrival != nullptr && arrival->remarked;
  if (d.probe == nullptr || d.delivered() || remarked) return;
  Finding f = FindingAt(entry, kId);
  const std::string answer = AnswerText(view, *d.probe);
  if (!target.mark_set) {
    f.cause =
        absl::StrCat("The target sets no mark, so routing treats its packets as all others: it ",
                     answer, " instead of delivering them to this host's sockets.");
    f.fix = SetTargetMark(view, target, entry.family, MarkToUse(view, entry.family));
  } else {
    f.cause = absl::StrCat("Packets with mark ", MarkMaskText(target),
                           " are not delivered to this host's sockets: the kernel's routing ",
                           answer, ".");
    if (d.thief != nullptr) {
      absl::StrAppend(&f.cause, " The rule with priority ", d.thief->priority, " decides.");
    }
    const Address from = entry.iif.Primary(entry.family).value_or(Address());
    f.fix = absl::StrCat(IpTool(entry.family), " rule; ", IpTool(entry.family), " route get ",
                         SampleDestination(target, entry.family).ToString(entry.family), " from ",
                         NeighbourOf(from, entry.family).ToString(entry.family), " iif ",
                         ShellWord(entry.iif.name), " mark ", MarkAt(entry));
  }
  findings->push_back(std::move(f));
}

// A target that no interface has been looked at for.
void TellNoEntry(const SystemView& view, size_t index, Findings* findings) {
  const ProxyTarget& target = view.targets[index];
  bool any = false;
  ForEachEntry(view, [&](const Entry& entry) { any |= entry.index == index; });
  const auto lo = std::find_if(view.interfaces.begin(), view.interfaces.end(),
                               [](const auto& i) { return i.loopback; });
  const bool own = !target.iifs.empty() && lo != view.interfaces.end() &&
                   target.CoversInterface(lo->name);  // for what the host itself sends
  if (any || own || AnyError(*findings, index)) return;
  const std::string families = target.v4 && target.v6 ? "IPv4 or IPv6"
                               : target.v4            ? "IPv4"
                                                      : "IPv6";
  Finding f = About(index, families,
                    absl::StrCat("No interface that the target is for is up and has an ", families,
                                 " address, so there is nothing to look at."),
                    "ip -br address");
  // Rules for IPv6 often stand ready where there is none, and an interface can go by the address
  // of another one.
  const bool unnumbered =
      std::any_of(view.interfaces.begin(), view.interfaces.end(), [&](const InterfaceFacts& iif) {
        return iif.up && !iif.loopback && target.CoversInterface(iif.name) &&
               ((target.v4 && iif.routed4) || (target.v6 && iif.routed6));
      });
  const bool elsewhere =
      std::any_of(view.interfaces.begin(), view.interfaces.end(), [&](const InterfaceFacts& iif) {
        return std::any_of(iif.addresses.begin(), iif.addresses.end(), [&](const auto& a) {
          const bool v4 = a.family == Family::kIpv4;
          return target.Covers(a.family) && !a.link_local && (!v4 || a.address.bytes()[12] != 127);
        });
      });
  if (!target.v4 || (unnumbered && elsewhere)) f.severity = Severity::kWarning;
  findings->push_back(std::move(f));
}

}  // namespace

void CheckDelivered(const SystemView& view, Findings* findings) {
  if (view.targets.empty()) return TellNoTarget(view, findings);
  for (size_t i = 0; i < view.targets.size(); ++i) {
    TellInterfaces(view, i, findings);
    CheckArrivals(view, i, findings);
    if (view.targets[i].kind == ProxyTarget::Kind::kNone) TellNoRule(view, i, findings);
    TellNoEntry(view, i, findings);
  }
  ForEachEntry(view, [&](const Entry& entry) { TellRouting(view, entry, findings); });
  CheckAnswers(view, findings);
  CheckStopped(view, findings);
}

}  // namespace utproxy
