// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_TARGET_MATCH_H_
#define UTPROXY_DAEMON_TARGET_MATCH_H_

#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include "daemon/target.h"
#include "utproxy/packet.h"

namespace utproxy {

// Whether the rules that `target` installs (ruleset/plan.h) queue the packet, as far as it shows
// that: `iif` is the name of the interface it came in by. What leaves this host (local_output) is
// known by the mark that the output chain gave it.
bool RulesTake(const Target& target, const Packet& packet, absl::string_view iif);

// The first target whose installed rules take it, as the kernel goes through them; null where none
// does.
const Target* FirstToTake(absl::Span<const Target> targets, const Packet& packet,
                          absl::string_view iif);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_TARGET_MATCH_H_
