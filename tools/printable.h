// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_PRINTABLE_H_
#define UTPROXY_TOOLS_PRINTABLE_H_

#include <absl/strings/string_view.h>

#include <string>

#include "daemon/json.h"

namespace utproxy::tools {

// For terminals: names of processes, interfaces and files come from others. Each byte of control
// characters (C0, DEL, C1), of characters that format text and are not seen (Unicode's category Cf,
// among them those that turn its direction; line and paragraph separators, tags), of those that are
// no characters, and of what is not UTF-8 becomes \xNN. All else stays.
std::string Printable(absl::string_view text);

// The same for all strings of `json`, but not for keys.
Json PrintableStrings(Json json);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_PRINTABLE_H_
