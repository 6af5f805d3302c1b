// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ENGINE_FLOW_CACHE_H_
#define UTPROXY_ENGINE_FLOW_CACHE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "utproxy/decision.h"
#include "utproxy/flow.h"

namespace utproxy {

// What one worker decided about its last UDP flows, so that a flow's later datagrams need not ask
// the kernel. Holds hits only; a drop is never remembered. One thread. An entry is good while the
// circumstances it was stored under, given as one number by the caller, are the same, and for
// kMaxAgeNs.
class FlowCache {
 public:
  static constexpr int64_t kMaxAgeNs = 1'000'000'000;

  // `slots`: a power of two, at least kWays.
  explicit FlowCache(size_t slots) : slots_(slots) {}
  // A flow may stand in any of so many slots, so that few flows push each other out by accident.
  static constexpr size_t kWays = 4;

  // Null where nothing good is known. `now_ns`: CLOCK_MONOTONIC_COARSE will do.
  const Decision* Find(const FlowKey& flow, uint32_t iif, uint64_t circumstances,
                       int64_t now_ns) const;
  void Store(const FlowKey& flow, uint32_t iif, uint64_t circumstances, int64_t now_ns,
             const Decision& decision);

 private:
  struct Entry {
    FlowKey flow;
    uint32_t iif = 0;
    bool used = false;
    uint64_t circumstances = 0;
    int64_t stored_ns = 0;
    Decision decision;
  };
  // The first of the flow's slots.
  size_t SetOf(const FlowKey& flow) const;

  const size_t slots_;
  std::vector<Entry> entries_;  // empty until something is stored: a queue of TCP needs none
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_FLOW_CACHE_H_
