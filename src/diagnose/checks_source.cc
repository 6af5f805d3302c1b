// SPDX-License-Identifier: GPL-3.0-or-later
// Senders that the kernel refuses as martians.
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cerrno>

#include "diagnose/checks.h"
#include "diagnose/fixes.h"
#include "diagnose/marked_route.h"

namespace utproxy {

void CheckSrcValidMark(const SystemView& view, Findings* findings) {
  ForEachMarked(view, [&](const Entry& entry) {
    if (entry.family != Family::kIpv4) return;
    const bool on = view.src_valid_mark_all != 0 || entry.iif.src_valid_mark != 0;
    const Delivery d = Inspect(view, entry);
    if (!on || (d.probe != nullptr && !d.martian())) return;
    Finding f = FindingAt(entry, "src_valid_mark");
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
    // With src_valid_mark the mark is what refuses them; a blackhole looks the same.
    if (valid_mark || Inspect(view, entry).thief_refuses) return;
    const ProbeFacts* refused = nullptr;
    for (const ProbeFacts& probe : view.probes) {
      const bool here = probe.target == entry.index && probe.family == Family::kIpv4 &&
                        probe.iif == entry.iif.name;
      const bool martian = probe.answer.kind == RouteAnswer::Kind::kRefused &&
                           (probe.answer.error == EINVAL || probe.answer.error == EXDEV);
      // Whether such packets come in here at all, the counter tells.
      if (here && martian && (probe.likely || view.martians > 0)) refused = &probe;
    }
    if (refused == nullptr) return;
    Finding f = FindingAt(entry, "rp_filter");
    f.cause = absl::StrCat(
        "Strict rp_filter on ", entry.iif.name,
        " drops packets whose sender is not reached by the interface they came in by: one from ",
        refused->src.ToString(Family::kIpv4), " is refused",
        view.martians > 0
            ? absl::StrCat("; ", view.martians, " packets were so far (IPReversePathFilter).")
            : ".");
    f.fix = absl::StrCat("sysctl -w net/ipv4/conf/", ShellWord(entry.iif.name), "/rp_filter=2");
    // Who covers every interface need not mean this one.
    if (!refused->likely && entry.target.iifs.empty()) f.severity = Severity::kWarning;
    findings->push_back(std::move(f));
  });
}

}  // namespace utproxy
