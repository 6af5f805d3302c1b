// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ENGINE_YOUNG_FLOWS_H_
#define UTPROXY_ENGINE_YOUNG_FLOWS_H_

#include <absl/hash/hash.h>
#include <absl/strings/string_view.h>

#include <cstddef>
#include <cstdint>

#include "base/clock.h"
#include "base/huge_array.h"
#include "utproxy/flow.h"

namespace utproxy {

// The flows whose SYNs one worker has seen last: their segments are most likely those of a
// connection that the mirror has not learned of yet. A later flow takes the place of an earlier
// one, so that a flood of SYNs makes it forget within a second or so. One thread.
class YoungFlows {
 public:
  // How long a flow's listener is remembered.
  static constexpr int64_t kTrustNs = kNsPerSec / 5;

  // A SYN of this flow is accepted. `now_ns`: any clock that does not go back, the same throughout.
  void Note(const FlowKey& flow, int64_t now_ns) { Put(flow, 0, now_ns); }
  // The kernel has named the listener that takes it, by its cookie.
  void NoteListener(const FlowKey& flow, uint64_t listener_cookie, int64_t now_ns) {
    Put(flow, listener_cookie, now_ns);
  }
  bool Has(const FlowKey& flow) const { return Find(Hash(flow)) != nullptr; }
  // The listener that the kernel named for the flow's SYN within the last kTrustNs; 0 where none.
  uint64_t ListenerOf(const FlowKey& flow, int64_t now_ns) const {
    const Slot* const slot = Find(Hash(flow));
    return slot != nullptr && now_ns - slot->at_ns < kTrustNs ? slot->listener : 0;
  }

 private:
  static constexpr size_t kSlots = 1 << 16;
  struct Slot {
    uint64_t hash = 0;
    uint64_t listener = 0;
    int64_t at_ns = 0;
  };

  // Seeded by the process: nobody outside can make two flows of one hash.
  static uint64_t Hash(const FlowKey& flow) {
    const auto* bytes = reinterpret_cast<const char*>(&flow);
    return absl::HashOf(absl::string_view(bytes, sizeof flow));
  }
  const Slot* Find(uint64_t hash) const {
    if (slots_.empty() || slots_[hash % kSlots].hash != hash) return nullptr;
    return &slots_[hash % kSlots];
  }
  void Put(const FlowKey& flow, uint64_t listener, int64_t now_ns) {
    if (slots_.empty()) slots_ = HugeArray<Slot>(kSlots, "flows of the last SYNs");
    const uint64_t hash = Hash(flow);
    slots_[hash % kSlots] = {.hash = hash, .listener = listener, .at_ns = now_ns};
  }

  // Empty until a SYN comes. Not malloc's: each new configuration makes others, and what long-lived
  // small things leave of the hole behind the old ones is too small for the next.
  HugeArray<Slot> slots_;
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_YOUNG_FLOWS_H_
