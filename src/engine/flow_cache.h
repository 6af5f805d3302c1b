// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ENGINE_FLOW_CACHE_H_
#define UTPROXY_ENGINE_FLOW_CACHE_H_

#include <cstddef>
#include <cstdint>
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

  // `slots`: a power of two, at least kWays. 64 bytes each, taken when something is stored.
  explicit FlowCache(size_t slots) : slots_(slots) {}
  // A flow may stand in any of so many slots, so that few flows push each other out by accident.
  static constexpr size_t kWays = 4;

  // Gets what is known of the flow on its way into the processor's cache.
  void Prefetch(const FlowKey& flow) const {
    if (!entries_.empty()) __builtin_prefetch(&entries_[HomeOf(flow)]);
  }

  // Null where nothing good is known; else good until the next Store. Its mark is that of the
  // packet that was stored. `now_ns`: CLOCK_MONOTONIC_COARSE will do.
  const Decision* Find(const FlowKey& flow, uint32_t iif, uint64_t circumstances,
                       int64_t now_ns) const;
  void Store(const FlowKey& flow, uint32_t iif, uint64_t circumstances, int64_t now_ns,
             const Decision& decision);

 private:
  // One cache line: the decision, which many flows share, stands elsewhere.
  struct alignas(64) Entry {
    FlowKey flow;
    uint32_t iif = 0;
    uint32_t decision = 0;  // its place in decisions_; kUnused
    uint64_t circumstances = 0;
    int64_t stored_ns = 0;
  };
  static_assert(sizeof(Entry) == 64);
  static constexpr uint32_t kUnused = UINT32_MAX;
  // Beyond so many different ones, which takes as many listeners, all is forgotten.
  static constexpr size_t kMaxDecisions = 1024;

  // The slot that the flow takes where it is free. The others of its set follow in a circle.
  size_t HomeOf(const FlowKey& flow) const;
  static size_t Next(size_t slot) { return (slot & ~(kWays - 1)) | ((slot + 1) & (kWays - 1)); }
  uint32_t PlaceOf(const Decision& decision);
  void Forget();

  const size_t slots_;
  std::vector<Entry> entries_;  // empty until something is stored: a queue of TCP needs none
  std::vector<Decision> decisions_;
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_FLOW_CACHE_H_
