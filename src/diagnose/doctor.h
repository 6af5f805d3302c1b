// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_DOCTOR_H_
#define UTPROXY_DIAGNOSE_DOCTOR_H_

#include <absl/types/span.h>

#include <optional>
#include <string>
#include <vector>

#include "diagnose/system_view.h"

namespace utproxy {

enum class Severity : uint8_t { kError, kWarning, kInfo };
// "error", "warning", "info".
const char* SeverityName(Severity severity);

// One thing that is wrong.
struct Finding {
  std::string id;  // of one of DoctorChecks()
  Severity severity = Severity::kError;
  std::string where;  // "IPv4, lan0", "pid 42 (sing-box)", ...
  std::string cause;  // a sentence with the evidence
  std::string fix;    // a command for a root shell
  // Which part of which target, where it is about one: an IPv6 part that alone is missing is told
  // as ipv6_missing.
  std::optional<Family> family;
  size_t target = 0;
};
using Findings = std::vector<Finding>;

// Every id there is, each with the check that finds it.
struct DoctorCheck {
  const char* id;
  void (*check)(const SystemView& view, Findings* findings);
};
absl::Span<const DoctorCheck> DoctorChecks();

// All checks over one view: errors first, the same thing only once. No I/O.
Findings Diagnose(const SystemView& view);

// Whether none is an error.
bool Healthy(const Findings& findings);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_DOCTOR_H_
