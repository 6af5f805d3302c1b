// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_STEER_FLOW_MAP_H_
#define UTPROXY_STEER_FLOW_MAP_H_

#include <absl/types/span.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "utproxy/flow.h"

namespace utproxy {

// The key of the entry for all flows to this one's destination that have none of their own: see
// struct steer_flow.
inline Address NoPacketsSource() {
  std::array<uint8_t, 16> all_ones;
  all_ones.fill(0xff);
  return Address::FromIpv6(all_ones.data());
}
inline FlowKey WholeDestination(FlowKey flow) {
  flow.remote = NoPacketsSource();
  flow.remote_port = 0;
  return flow;
}
inline bool IsWholeDestination(const FlowKey& flow) { return flow.remote == NoPacketsSource(); }

// Where the flow entries are kept that the kernel reads: key → the listener's cookie. It is never
// read back: FlowIndex is its only writer and knows what stands in it. May be called by any thread
// at any time, but never by two at once for the same key.
class FlowMap {
 public:
  virtual ~FlowMap() = default;

  // Writes keys[i] → cookies[i], replacing what stood there; both have the same size. Returns how
  // many of them, from the first on, stand now. Fewer than all: the next one was refused, nothing
  // of it was changed, and those after it have not been tried.
  virtual size_t Write(absl::Span<const FlowKey> keys, absl::Span<const uint64_t> cookies) = 0;

  // Erases. Returns how many, from the first on, are not in the map now, whether or not they were
  // before. Fewer than all: the next one could not be erased, those after it have not been tried.
  virtual size_t Erase(absl::Span<const FlowKey> keys) = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_STEER_FLOW_MAP_H_
