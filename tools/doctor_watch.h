// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_DOCTOR_WATCH_H_
#define UTPROXY_TOOLS_DOCTOR_WATCH_H_

#include <absl/status/status.h>

#include <string>
#include <vector>

#include "command.h"
#include "diagnose/doctor.h"
#include "doctor_source.h"

namespace utproxy::tools {

// Something that became different between two looks.
struct DoctorChange {
  // "appeared" and "mended" with a finding; "listener_restarted", "queue_dropping", "daemon_gone"
  // and "daemon_back" with words.
  std::string event;
  Finding finding;
};

// What changed from one look to the next. A policy rule that the earlier view had and the later one
// lacks turns no_fwmark_rule into rule_removed, in `findings`. No I/O.
std::vector<DoctorChange> CompareViews(const SystemView& before, const Findings& old_findings,
                                       const SystemView& now, Findings* findings);

// Looks again whenever rules, routes or the ruleset change, and each second; writes what changed.
// A utproxy that ends is told and waited for. Returns when the output is closed, or with an error
// that stays.
absl::Status WatchDoctor(DoctorSource& source, SystemView view, Findings findings, bool json,
                         Environment& env);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_DOCTOR_WATCH_H_
