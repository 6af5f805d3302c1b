// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/flow_cache.h"

#include <cstring>

namespace utproxy {

// Colliding flows only push each other out, so this hash needs to be quick and no more.
size_t FlowCache::SetOf(const FlowKey& flow) const {
  uint64_t words[5];
  static_assert(sizeof words == sizeof flow);
  std::memcpy(words, &flow, sizeof words);
  uint64_t h = 0;
  for (const uint64_t word : words) h = ((h ^ word) * 0x9e3779b97f4a7c15u) ^ (h >> 29);
  return (h >> 32) & (slots_ - kWays);
}

const Decision* FlowCache::Find(const FlowKey& flow, uint32_t iif, uint64_t circumstances,
                                int64_t now_ns) const {
  if (entries_.empty()) return nullptr;
  const size_t set = SetOf(flow);
  for (size_t i = set; i < set + kWays; ++i) {
    const Entry& entry = entries_[i];
    if (!entry.used || entry.iif != iif || entry.flow != flow) continue;
    const bool good = entry.circumstances == circumstances && now_ns - entry.stored_ns < kMaxAgeNs;
    return good ? &entry.decision : nullptr;
  }
  return nullptr;
}

void FlowCache::Store(const FlowKey& flow, uint32_t iif, uint64_t circumstances, int64_t now_ns,
                      const Decision& decision) {
  if (entries_.empty()) entries_.resize(slots_);
  const size_t set = SetOf(flow);
  size_t victim = set;
  for (size_t i = set; i < set + kWays; ++i) {
    const Entry& entry = entries_[i];
    if (!entry.used || (entry.iif == iif && entry.flow == flow)) {
      victim = i;
      break;
    }
    if (entry.stored_ns < entries_[victim].stored_ns) victim = i;
  }
  entries_[victim] = {.flow = flow,
                      .iif = iif,
                      .used = true,
                      .circumstances = circumstances,
                      .stored_ns = now_ns,
                      .decision = decision};
}

}  // namespace utproxy
