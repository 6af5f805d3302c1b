// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/flow_cache.h"

#include <algorithm>
#include <cstring>

namespace utproxy {
namespace {

// Among so many decisions the same one is looked for.
constexpr size_t kLooked = 16;

// Of two hits, whether they say the same of their flows: all but the mark, which is the packet's.
bool SaysTheSame(const Decision& a, const Decision& b) {
  return a.socket == b.socket && a.laddr == b.laddr && a.lport == b.lport && a.reason == b.reason;
}

}  // namespace

// Colliding flows only push each other out, so this hash needs to be quick and no more.
size_t FlowCache::HomeOf(const FlowKey& flow) const {
  uint64_t words[5];
  static_assert(sizeof words == sizeof flow);
  std::memcpy(words, &flow, sizeof words);
  uint64_t h = 0;
  for (const uint64_t word : words) h = ((h ^ word) * 0x9e3779b97f4a7c15u) ^ (h >> 29);
  return (h >> 32) & (slots_ - 1);
}

size_t FlowCache::SlotOf(const FlowKey& flow, uint32_t iif) const {
  if (entries_.empty()) return kNoSlot;
  size_t slot = HomeOf(flow);
  for (size_t way = 0; way < kWays; ++way, slot = Next(slot)) {
    const Entry& entry = entries_[slot];
    if (entry.decision != kUnused && entry.iif == iif && entry.flow == flow) return slot;
  }
  return kNoSlot;
}

FlowCache::Known FlowCache::Find(const FlowKey& flow, uint32_t iif, uint64_t circumstances,
                                 int64_t now_ns) const {
  const size_t slot = SlotOf(flow, iif);
  if (slot == kNoSlot) return {};
  const Entry& entry = entries_[slot];
  const uint32_t now = Ticks(now_ns);
  if (entry.circumstances != circumstances ||
      now - entry.stored >= Ticks(entry.guessed ? kSettledNs : kMaxAgeNs)) {
    return {};
  }
  return {.decision = &decisions_[entry.decision - 1u],
          .guessed = entry.guessed,
          .settled = now - entry.settled < Ticks(kSettledNs)};
}

void FlowCache::Settle(const FlowKey& flow, uint32_t iif, int64_t now_ns) {
  const size_t slot = SlotOf(flow, iif);
  if (slot != kNoSlot) entries_[slot].settled = Ticks(now_ns);
}

uint16_t FlowCache::PlaceOf(const Decision& decision) {
  // Among the latest: listeners are few, and most flows have the same.
  const size_t oldest = decisions_.size() - std::min(decisions_.size(), kLooked);
  for (size_t i = decisions_.size(); i-- > oldest;) {
    if (SaysTheSame(decisions_[i], decision)) return static_cast<uint16_t>(i + 1);
  }
  if (decisions_.size() == kMaxDecisions) Forget();
  decisions_.push_back(decision);
  return static_cast<uint16_t>(decisions_.size());
}

void FlowCache::Forget() {
  decisions_.clear();
  for (Entry& entry : entries_) entry.decision = kUnused;
}

void FlowCache::Store(const FlowKey& flow, uint32_t iif, uint64_t circumstances, int64_t now_ns,
                      const Decision& decision) {
  if (entries_.empty()) entries_ = HugeArray<Entry>(slots_, "the cache of UDP flows");
  const uint16_t place = PlaceOf(decision);
  const uint32_t now = Ticks(now_ns);
  size_t slot = HomeOf(flow);
  size_t victim = slot;
  for (size_t way = 0; way < kWays; ++way, slot = Next(slot)) {
    const Entry& entry = entries_[slot];
    if (entry.decision == kUnused || (entry.iif == iif && entry.flow == flow)) {
      victim = slot;
      break;
    }
    if (now - entry.stored > now - entries_[victim].stored) victim = slot;
  }
  entries_[victim] = {.flow = flow,
                      .iif = iif,
                      .decision = place,
                      .guessed = decision.origin == Origin::kOverBudget,
                      .circumstances = circumstances,
                      .stored = now,
                      .settled = now};
}

}  // namespace utproxy
