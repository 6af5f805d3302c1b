// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_VALIDATE_H_
#define UTPROXY_RULESET_VALIDATE_H_

#include <absl/status/status.h>
#include <absl/types/span.h>

#include "ruleset/spec.h"

namespace utproxy {

// Limits of one list of one target. The kernel would take more; a list beyond these belongs into a
// named set of the user's own ruleset.
inline constexpr size_t kMaxPortRanges = 1024;
inline constexpr size_t kMaxCidrs = 16384;
inline constexpr size_t kMaxNames = 1024;
inline constexpr size_t kMaxTargets = 256;

// InvalidArgument, with a remedy, for the first thing that is wrong. No I/O.
absl::Status ValidateSpecs(absl::Span<const RulesetSpec> specs);

// "target 'dns'", or "target 2" where it has no name.
std::string TargetName(const RulesetSpec& spec, size_t index);

}  // namespace utproxy

#endif  // UTPROXY_RULESET_VALIDATE_H_
