// SPDX-License-Identifier: GPL-3.0-or-later
#include "decision_capture.h"

#include <absl/strings/escaping.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/time/time.h>
#include <absl/types/span.h>
#include <sys/socket.h>

#include <optional>
#include <vector>

#include "trace/nflog_codec.h"
#include "utproxy/parse.h"

namespace utproxy::tools {
namespace {

uint32_t NumberAt(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_number_unsigned() ? it->get<uint32_t>() : 0;
}

// What replay puts back beside the decision. The length where the packet's own header does not tell
// it, and the packet itself where its bytes were cut before the ports, so that they alone would be
// decided as truncated.
std::string PrefixOf(const Json& json, absl::Span<const uint8_t> bytes, uint32_t true_length) {
  Json prefix = Json::object();
  for (const char* key : {"target", "queue", "id", "wait_ns", "decide_ns"}) {
    if (json.contains(key)) prefix[key] = json[key];
  }
  if (ClaimedLength(bytes) != true_length) prefix["length"] = true_length;
  Packet packet;
  ParsePacket(bytes, true_length, &packet);
  const bool decided = json.value("reason", "") != ReasonName(Reason::kHeaderTruncated);
  if (decided && packet.outcome == ParseOutcome::kHeaderTruncated) {
    prefix["packet"] = json.at("packet");
  }
  return absl::StrCat("utproxy ", JsonLine(prefix));
}

uint32_t MarkOf(const Json& text) {
  uint32_t mark = 0;
  const bool good = text.is_string() && absl::SimpleHexAtoi(text.get<std::string>(), &mark);
  return good ? mark : 0;
}

}  // namespace

std::string DecisionCapture::Header() {
  return writer_.Header(absl::StrCat("utproxy ", UTPROXY_VERSION));
}

std::string DecisionCapture::Packet(const Json& json) {
  Json decision = json;
  const Json raw = decision.value("raw", Json::object());
  // A comment is for reading; replay makes the steps again.
  decision.erase("raw");
  decision.erase("steps");
  const Json& packet = json.at("packet");
  const std::string bytes = absl::HexStringToBytes(raw.value("bytes", ""));
  const uint32_t true_length = NumberAt(raw, "length");
  const absl::Span<const uint8_t> payload(reinterpret_cast<const uint8_t*>(bytes.data()),
                                          bytes.size());
  const std::string prefix = PrefixOf(json, payload, true_length);
  const std::vector<uint8_t> frame = WriteNflog(
      {.family = static_cast<uint8_t>(packet.at("family") == "ipv6" ? AF_INET6 : AF_INET),
       .group = static_cast<uint16_t>(NumberAt(json, "queue")),
       .mark = MarkOf(packet.at("mark")),
       .indev = NumberAt(raw, "iif"),
       .arrived_ns = 0,
       .sequence = std::nullopt,
       .prefix = prefix,
       .payload = payload});
  absl::Time time = absl::UnixEpoch();
  std::string error;
  (void)absl::ParseTime(absl::RFC3339_full, json.value("time", ""), &time, &error);
  return writer_.Packet({.time_ns = absl::ToUnixNanos(time),
                         .bytes = frame,
                         .true_length = static_cast<uint32_t>(frame.size()),
                         .interface = packet.at("iif").get_ref<const std::string&>(),
                         .queue = static_cast<uint16_t>(NumberAt(json, "queue")),
                         .comment = JsonLine(decision)});
}

}  // namespace utproxy::tools
