// SPDX-License-Identifier: GPL-3.0-or-later
#include "doctor_text.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>

#include "diagnose/checks.h"
#include "printable.h"
#include "text.h"

namespace utproxy::tools {
namespace {

Color ColorOf(Severity severity) {
  switch (severity) {
    case Severity::kError:
      return Color::kBad;
    case Severity::kWarning:
      return Color::kWarning;
    case Severity::kInfo:
      break;
  }
  return Color::kFaint;
}

const char* HeadingOf(Severity severity) {
  switch (severity) {
    case Severity::kError:
      return "Errors";
    case Severity::kWarning:
      return "Warnings";
    case Severity::kInfo:
      break;
  }
  return "Notes";
}

std::string KindText(const ProxyTarget& target) {
  switch (target.kind) {
    case ProxyTarget::Kind::kXt:
      return "xt TPROXY";
    case ProxyTarget::Kind::kNft:
      return "nft tproxy";
    default:
      break;
  }
  std::string text = absl::StrCat("queue ", target.queue_first);
  if (target.queue_last != target.queue_first) absl::StrAppend(&text, "-", target.queue_last);
  return target.kind == ProxyTarget::Kind::kNone ? text + " (no rule leads there)" : text;
}

}  // namespace

std::string TargetText(const ProxyTarget& target) {
  std::string text =
      absl::StrCat(KindText(target), ":", target.tcp ? " tcp" : "", target.udp ? " udp" : "");
  if (!target.dports.empty()) {
    absl::StrAppend(&text, " port ",
                    absl::StrJoin(target.dports, ",", [](std::string* out, const NumberRange& r) {
                      absl::StrAppend(out, r.first);
                      if (r.last != r.first) absl::StrAppend(out, "-", r.last);
                    }));
  }
  if (!target.iifs.empty()) {
    absl::StrAppend(&text, " from ", Printable(absl::StrJoin(target.iifs, ",")));
  }
  if (target.policy_known) {
    absl::StrAppend(&text, " to ",
                    target.spread.active()       ? absl::StrCat("ports ", target.spread.ToString())
                    : target.policy.on_port == 0 ? "the same port"
                                                 : absl::StrCat("port ", target.policy.on_port));
    if (target.mark_set) absl::StrAppend(&text, ", mark ", MarkMaskText(target));
  }
  return absl::StrCat(text, ", ", target.v4 ? "IPv4" : "", target.v4 && target.v6 ? " and " : "",
                      target.v6 ? "IPv6" : "");
}

std::string FindingText(const Finding& finding, size_t width, bool color) {
  std::string text = absl::StrCat("  ", Paint(finding.id, ColorOf(finding.severity), color));
  if (!finding.where.empty()) absl::StrAppend(&text, "  ", Printable(finding.where));
  absl::StrAppend(&text, "\n", Wrap(finding.cause, width, 6));
  if (!finding.fix.empty()) {
    absl::StrAppend(&text, "      ", Paint("fix:", Color::kHeading, color), " ",
                    Printable(finding.fix), "\n");
  }
  return text;
}

std::string DoctorText(const SystemView& view, const Findings& findings, size_t width, bool color) {
  std::string text;
  for (const ProxyTarget& target : view.targets) {
    absl::StrAppend(&text, Wrap(TargetText(target), width, 0));
  }
  for (const Severity severity : {Severity::kError, Severity::kWarning, Severity::kInfo}) {
    bool first = true;
    for (const Finding& finding : findings) {
      if (finding.severity != severity) continue;
      if (first) {
        absl::StrAppend(&text, "\n", Paint(HeadingOf(severity), Color::kHeading, color), "\n");
      }
      first = false;
      absl::StrAppend(&text, FindingText(finding, width, color));
    }
  }
  if (Healthy(findings)) {
    absl::StrAppend(&text, "\n", Paint("No error found.", Color::kGood, color), "\n");
  }
  return text;
}

}  // namespace utproxy::tools
