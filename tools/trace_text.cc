// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace_text.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <algorithm>

#include "printable.h"
#include "text.h"

namespace utproxy::tools {
namespace {

std::string TextAt(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_string() ? Printable(it->get<std::string>()) : std::string();
}

std::string EndOf(const Json& packet, const char* address, const char* port) {
  const std::string text = TextAt(packet, address);
  if (TextAt(packet, "family") == "ipv6")
    return absl::StrCat("[", text, "]:", packet.at(port).dump());
  return absl::StrCat(text, ":", packet.at(port).dump());
}

std::string TimeOfDay(const std::string& rfc3339, bool wide, absl::TimeZone zone) {
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, rfc3339, &time, &error)) return rfc3339;
  return absl::FormatTime(wide ? "%H:%M:%E6S" : "%H:%M:%E3S", time, zone);
}

std::string SocketText(const Json& json) {
  const Json& socket = json.at("socket");
  if (!socket.is_object()) return "-";
  std::string text = TextAt(socket, "local");
  if (socket.contains("comm")) {
    absl::StrAppend(&text, " ", TextAt(socket, "comm"), "[", socket.at("pid").dump(), "]");
  }
  return text;
}

std::string NumberText(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_number() ? it->dump() : std::string("?");
}

std::string Duration(const Json& json, const char* key) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_number()) return "";
  const double us = it->get<double>() / 1000;
  if (us < 1000) return absl::StrFormat("%.1fus", us);
  return absl::StrFormat("%.1fms", us / 1000);
}

}  // namespace

std::string TraceText::Cell(size_t column, const std::string& text) {
  size_t& width = widths_[column];
  width = std::max(width, text.size());
  return text + std::string(width - text.size(), ' ');
}

std::string TraceText::Line(const Json& json) {
  const Json& packet = json.at("packet");
  const bool failed = json.contains("error");
  const std::string verdict = failed ? "?" : TextAt(json, "verdict");
  const Color color = verdict == "accept" ? Color::kGood : Color::kBad;
  const std::string flags = TextAt(packet, "flags");
  std::string line =
      absl::StrCat(Paint(TimeOfDay(TextAt(json, "time"), wide_, zone_), Color::kFaint, color_),
                   "  ", Paint(Cell(0, verdict), color, color_), "  ",
                   Cell(1, failed ? "failed" : TextAt(json, "reason")), "  ",
                   Cell(2, absl::StrCat(TextAt(packet, "proto"), flags.empty() ? "" : " ", flags)),
                   "  ", Cell(3, EndOf(packet, "src", "sport")), " > ");
  const std::string destination = EndOf(packet, "dst", "dport");
  if (failed) {
    return absl::StrCat(line, destination, "  ", TextAt(json, "error"), " (",
                        NumberText(json, "failed_total"), " in all)\n");
  }
  if (!wide_) return absl::StrCat(line, destination, "\n");
  absl::StrAppend(&line, Cell(4, destination), "  ", Cell(5, TextAt(packet, "iif")), "  ",
                  Cell(6, absl::StrCat(TextAt(packet, "mark"), ">", TextAt(json, "mark"))), "  ",
                  Cell(7, SocketText(json)));
  if (json.contains("target")) {
    absl::StrAppend(&line, "  ", TextAt(json, "target"));
    // Of a queue, or of a group that copies come from.
    for (const char* key : {"queue", "group"}) {
      const auto number = json.find(key);
      if (number != json.end() && number->is_number_unsigned()) {
        absl::StrAppend(&line, "/", number->get<uint64_t>());
        break;
      }
    }
  }
  absl::StrAppend(&line, "  ", TextAt(json, "source"));
  if (const std::string took = Duration(json, "decide_ns"); !took.empty()) {
    absl::StrAppend(&line, " ", took);
  }
  if (const std::string waited = Duration(json, "wait_ns"); !waited.empty()) {
    absl::StrAppend(&line, " after ", waited);
  }
  return line + "\n";
}

std::string TraceText::LossLine(uint64_t lost, uint64_t total) const {
  return Paint(absl::StrCat("-- ", lost, " decisions lost, ", total,
                            " in all: they came faster than they were read"),
               Color::kWarning, color_) +
         "\n";
}

}  // namespace utproxy::tools
