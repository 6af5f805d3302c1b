// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_JSON_LINE_H_
#define UTPROXY_DAEMON_JSON_LINE_H_

#include <absl/strings/string_view.h>

#include "daemon/json.h"

namespace utproxy {

// Reads a line that another program wrote: the other end of the control socket, a snapshot, a
// capture. Nothing of this program is nested deeper than 8; what is deeper than 10 is left out,
// since who walks through it would exhaust the stack. Where it is no JSON, is_discarded().
Json ParseLine(absl::string_view line);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_JSON_LINE_H_
