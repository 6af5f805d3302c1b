// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/json_line.h"

namespace utproxy {

Json ParseLine(absl::string_view line) {
  const auto shallow = [](int depth, Json::parse_event_t, Json&) { return depth <= 10; };
  return Json::parse(line.begin(), line.end(), shallow, /*allow_exceptions=*/false);
}

}  // namespace utproxy
