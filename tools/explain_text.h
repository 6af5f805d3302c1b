// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_EXPLAIN_TEXT_H_
#define UTPROXY_TOOLS_EXPLAIN_TEXT_H_

#include <string>

#include "daemon/json.h"

namespace utproxy::tools {

// The JSON object of an explanation for people, sentences wrapped to `width` columns.
std::string ExplainText(const Json& json, size_t width, bool color);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_EXPLAIN_TEXT_H_
