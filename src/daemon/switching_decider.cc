// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/switching_decider.h"

#include <algorithm>
#include <utility>

namespace utproxy {

void SwitchingDecider::Begin(std::shared_ptr<DeciderVersion> next, ForNew for_new) {
  const std::lock_guard lock(mutex_);
  shared_.before = std::move(shared_.now);
  shared_.now = std::move(next);
  shared_.for_new = std::move(for_new);
  changes_.fetch_add(1, std::memory_order_release);
}

void SwitchingDecider::End() {
  const std::lock_guard lock(mutex_);
  shared_.before.reset();
  shared_.for_new = nullptr;
  changes_.fetch_add(1, std::memory_order_release);
}

void SwitchingDecider::Undo() {
  const std::lock_guard lock(mutex_);
  if (shared_.before != nullptr) shared_.now = std::move(shared_.before);
  shared_.for_new = nullptr;
  changes_.fetch_add(1, std::memory_order_release);
}

void SwitchingDecider::Adopt() {
  const uint32_t changes = changes_.load(std::memory_order_acquire);
  if (changes == seen_) return;
  seen_ = changes;
  State old;  // goes after the lock does: a decider is large
  {
    const std::lock_guard lock(mutex_);
    old = std::exchange(mine_, shared_);
  }
  SetCrowded(crowded_);
}

void SwitchingDecider::SetCrowded(bool crowded) {
  crowded_ = crowded;
  for (const auto& version : {mine_.now, mine_.before}) {
    if (version != nullptr) version->decider->SetCrowded(crowded);
  }
}

void SwitchingDecider::DecideBatch(absl::Span<const QueuedPacket> packets,
                                   absl::Span<Decision> decisions) {
  Adopt();
  std::fill_n(numbers_.begin(), packets.size(), mine_.now->number);
  for_before_.clear();
  for_now_.clear();
  if (mine_.before != nullptr && mine_.for_new) {
    for (size_t i = 0; i < packets.size(); ++i) {
      (mine_.for_new(packets[i].packet) ? for_now_ : for_before_).push_back(i);
    }
  }
  if (for_before_.empty()) return mine_.now->decider->DecideBatch(packets, decisions);
  DecideSome(*mine_.before, for_before_, packets, decisions);
  if (!for_now_.empty()) DecideSome(*mine_.now, for_now_, packets, decisions);
}

void SwitchingDecider::DecideSome(DeciderVersion& version, const std::vector<size_t>& which,
                                  absl::Span<const QueuedPacket> packets,
                                  absl::Span<Decision> decisions) {
  some_.clear();
  for (const size_t i : which) some_.push_back(packets[i]);
  decided_.assign(which.size(), Decision());
  version.decider->DecideBatch(some_, absl::MakeSpan(decided_));
  for (size_t k = 0; k < which.size(); ++k) {
    decisions[which[k]] = std::move(decided_[k]);
    numbers_[which[k]] = version.number;
  }
}

}  // namespace utproxy
