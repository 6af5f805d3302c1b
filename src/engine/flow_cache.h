// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ENGINE_FLOW_CACHE_H_
#define UTPROXY_ENGINE_FLOW_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/huge_array.h"
#include "utproxy/decision.h"
#include "utproxy/flow.h"

namespace utproxy {

// What one worker decided about its last UDP flows, so that a flow's later datagrams need neither
// ask the kernel nor be decided anew. Holds hits only; a drop is never remembered. One thread. An
// entry is good while the circumstances it was stored under, given as one number by the caller, are
// the same, and for kMaxAgeNs; what was decided without the kernel (Origin::kOverBudget) for
// kSettledNs.
class FlowCache {
 public:
  static constexpr int64_t kMaxAgeNs = 10'000'000'000;
  // For how long nothing evicts the flow's sk_lookup entry (Steering::Options::evict_idle_ns is
  // longer than this by more than what the stamps are rounded by).
  static constexpr int64_t kSettledNs = 900'000'000;

  // `slots`: a power of two, at least kWays. 64 bytes each, taken when something is stored.
  explicit FlowCache(size_t slots) : slots_(slots) {}
  // A flow may stand in any of so many slots, so that few flows push each other out by accident.
  static constexpr size_t kWays = 4;

  // Gets what is known of the flow on its way into the processor's cache.
  void Prefetch(const FlowKey& flow) const {
    if (!entries_.empty()) __builtin_prefetch(&entries_[HomeOf(flow)]);
  }

  struct Known {
    // Null where nothing good is known; else good until the next Store. Its mark is that of the
    // packet that was stored, its origin that of some flow's.
    const Decision* decision = nullptr;
    bool guessed = false;  // decided without the kernel
    bool settled = false;  // stored or settled within kSettledNs
  };
  // `now_ns`: CLOCK_MONOTONIC_COARSE will do.
  Known Find(const FlowKey& flow, uint32_t iif, uint64_t circumstances, int64_t now_ns) const;
  // What the decision needs to be carried out has been seen to.
  void Store(const FlowKey& flow, uint32_t iif, uint64_t circumstances, int64_t now_ns,
             const Decision& decision);
  // It has been seen to again, for a flow that is known.
  void Settle(const FlowKey& flow, uint32_t iif, int64_t now_ns);

 private:
  // One cache line: the decision, which many flows share, stands elsewhere. Times are in ticks,
  // which come round after 208 days: what nobody has asked about for that long, while nothing
  // changed, would be good for another kMaxAgeNs.
  struct alignas(64) Entry {
    FlowKey flow;
    uint32_t iif;
    uint16_t decision;  // 1 + its place in decisions_; kUnused
    bool guessed;
    uint64_t circumstances;
    uint32_t stored;
    uint32_t settled;
  };
  static_assert(sizeof(Entry) == 64);
  static constexpr uint16_t kUnused = 0;
  static constexpr int kTickShift = 22;  // 4.2 ms, as coarse as the clock
  static uint32_t Ticks(int64_t ns) { return static_cast<uint32_t>(ns >> kTickShift); }
  // Beyond so many different ones, which takes as many listeners, all is forgotten.
  static constexpr size_t kMaxDecisions = 1024;

  // The slot that the flow takes where it is free. The others of its set follow in a circle.
  size_t HomeOf(const FlowKey& flow) const;
  static size_t Next(size_t slot) { return (slot & ~(kWays - 1)) | ((slot + 1) & (kWays - 1)); }
  // The slot that the flow stands in; kNoSlot where it is not known.
  size_t SlotOf(const FlowKey& flow, uint32_t iif) const;
  static constexpr size_t kNoSlot = SIZE_MAX;
  uint16_t PlaceOf(const Decision& decision);
  void Forget();

  const size_t slots_;
  HugeArray<Entry> entries_;  // empty until something is stored: a queue of TCP needs none
  std::vector<Decision> decisions_;
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_FLOW_CACHE_H_
