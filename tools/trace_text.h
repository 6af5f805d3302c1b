// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_TRACE_TEXT_H_
#define UTPROXY_TOOLS_TRACE_TEXT_H_

#include <absl/time/time.h>

#include <array>
#include <cstddef>
#include <string>

#include "daemon/json.h"

namespace utproxy::tools {

// Decisions for people, one line each, as they come: columns get wider where something does not
// fit, and never narrower, so that lines below each other stay aligned.
//
//   12:00:01.123  drop    no_socket  udp    10.77.1.2:40000 > 203.0.113.80:53
//
// From kWide columns on also the interface, the mark before and after, the socket and its process,
// target and queue, who answered and how long it took.
class TraceText {
 public:
  static constexpr size_t kWide = 120;

  // `width`: of the terminal in columns. Times are shown in `zone`.
  TraceText(size_t width, bool color, absl::TimeZone zone)
      : wide_(width >= kWide), color_(color), zone_(zone) {}

  // The object of one decision as `trace` has it, or of a packet that could not be explained, to a
  // line with its end.
  std::string Line(const Json& json);
  // "-- 12 decisions lost: ..." with the end of the line.
  std::string LossLine(uint64_t lost, uint64_t total) const;

 private:
  static constexpr size_t kColumns = 8;
  std::string Cell(size_t column, const std::string& text);

  const bool wide_;
  const bool color_;
  const absl::TimeZone zone_;
  // verdict, reason, protocol, source, destination, interface, marks, socket
  std::array<size_t, kColumns> widths_ = {6, 9, 5, 15, 15, 4, 8, 15};
};

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_TRACE_TEXT_H_
