// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: a filter's text, compiled and asked. The first byte's bits make the record.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "trace/filter.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace utproxy;  // NOLINT
  if (size == 0) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const absl::StatusOr<Filter> filter = Filter::Compile(text);
  if (!filter.ok()) {
    if (filter.status().message().substr(0, 7) != "column ") std::abort();
    return 0;
  }
  TraceRecord record;
  record.packet.family = (data[0] & 1) != 0 ? Family::kIpv6 : Family::kIpv4;
  record.packet.protocol = (data[0] & 2) != 0 ? 17 : 6;
  record.packet.dport = data[0];
  record.packet.iif = data[0] & 4u;
  const std::function<std::string(uint32_t)> names = [](uint32_t) { return std::string("lan0"); };
  const FilterSubject subject{.record = record, .target = "dns", .queue = 3, .names = names};
  const bool passes = filter->Passes(subject);
  // What is negated answers the opposite, where it still fits.
  const absl::StatusOr<Filter> negated = Filter::Compile("!(" + std::string(text) + ")");
  if (negated.ok() && negated->Passes(subject) == passes) std::abort();
  return 0;
}
