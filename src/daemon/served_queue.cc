// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/served_queue.h"

#include <utility>

#include "base/status.h"
#include "queue/queue_stats.h"

namespace utproxy {
namespace {

void AddLosses(const DeciderCounters& counters, Losses* losses) {
  (*losses)[Loss::kExactFailed] += counters.exact_failed.value();
  (*losses)[Loss::kShed] += counters.shed.value();
  (*losses)[Loss::kSteerFailed] += counters.steer_failed.value();
}

}  // namespace

absl::StatusOr<ServedQueue::Version> ServedQueue::MakeVersion(std::shared_ptr<const Target> target,
                                                              uint32_t number) const {
  ASSIGN_OR_RETURN(DiagClient client, DiagClient::Open());
  auto decider = std::make_unique<Decider>(
      target->policy, context_.mirror, ExactQuerier(std::move(client), &context_.mirror->table()),
      context_.steering, QueryRates(),
      target->spread.active() ? std::make_shared<const Spread>(target->spread) : nullptr);
  Version version{
      .target = std::move(target), .decider = nullptr, .counters = &decider->counters()};
  version.spread = decider->spread();
  version.decider = std::make_shared<DeciderVersion>();
  version.decider->number = number;
  version.decider->decider = std::move(decider);
  return version;
}

absl::StatusOr<std::shared_ptr<ServedQueue>> ServedQueue::Create(
    const QueueContext& context, uint16_t number, size_t nth, std::shared_ptr<const Target> target,
    uint32_t version, UniqueFd inherited) {
  auto queue = std::shared_ptr<ServedQueue>(new ServedQueue(context));
  ASSIGN_OR_RETURN(Version first, queue->MakeVersion(target, version));
  queue->decider_ = std::make_unique<SwitchingDecider>(first.decider);
  queue->versions_.emplace(version, std::move(first));
  queue->now_ = version;
  ASSIGN_OR_RETURN(queue->worker_, QueueWorker::Create(number, target->queue, queue->decider_.get(),
                                                       queue.get(), std::move(inherited)));
  if (!target->cpus.empty()) queue->cpu_ = target->cpus[nth % target->cpus.size()];
  return queue;
}

absl::Status ServedQueue::Run() { return worker_->Start(cpu_); }

absl::Status ServedQueue::Prepare(std::shared_ptr<const Target> target, uint32_t version) {
  ASSIGN_OR_RETURN(prepared_, MakeVersion(std::move(target), version));
  next_ = version;
  return absl::OkStatus();
}

void ServedQueue::Begin(SwitchingDecider::ForNew for_new) {
  const std::shared_ptr<DeciderVersion> decider = prepared_.decider;
  {
    const std::lock_guard lock(mutex_);
    previous_ = versions_.at(now_).target;
    versions_[next_] = std::exchange(prepared_, {});
    before_ = std::exchange(now_, next_);
    FoldLocked();
  }
  decider_->Begin(decider, std::move(for_new));
}

void ServedQueue::MarkEnd() {
  const absl::StatusOr<std::optional<QueueStats>> stats = ReadQueueStats(number());
  end_id_ = stats.ok() && *stats ? (*stats)->last_id : answered_id_.load();
}

bool ServedQueue::Passed() const {
  const uint32_t answered = answered_id_.load(std::memory_order_acquire);
  if (static_cast<int32_t>(answered - end_id_) >= 0) return true;
  const absl::StatusOr<std::optional<QueueStats>> stats = ReadQueueStats(number());
  return !stats.ok() || !*stats || (*stats)->depth == 0;
}

void ServedQueue::End() {
  decider_->End();
  const std::lock_guard lock(mutex_);
  FoldLocked();
}

void ServedQueue::Undo() {
  decider_->Undo();
  const std::lock_guard lock(mutex_);
  now_ = before_;
}

// Of deciders that nobody has any more but this, the counts are kept.
void ServedQueue::FoldLocked() {
  for (auto& [number, version] : versions_) {
    if (number == now_ || version.decider == nullptr || version.decider.use_count() > 1) continue;
    retired_.Add(*version.counters, version.spread.get());
    AddLosses(*version.counters, &retired_losses_);
    version.counters = nullptr;
    version.decider.reset();
  }
  for (auto it = versions_.begin(); it != versions_.end() && versions_.size() > kMaxVersions;) {
    it = it->second.decider == nullptr ? versions_.erase(it) : std::next(it);
  }
}

void ServedQueue::Decided(const DecidedBatch& batch) {
  const size_t count = batch.packets.size();
  for (size_t first = 0, end = 0; first < count; first = end) {
    const uint32_t version = decider_->version_of(first);
    end = first + 1;
    while (end < count && decider_->version_of(end) == version) ++end;
    tap_.set_configuration(version);
    DecidedBatch part = batch;
    part.packets = batch.packets.subspan(first, end - first);
    part.decisions = batch.decisions.subspan(first, end - first);
    part.took_ns = batch.took_ns * (end - first) / count;
    tap_.Decided(part);
  }
  if (count != 0) answered_id_.store(batch.packets.back().id, std::memory_order_release);
}

std::shared_ptr<const Target> ServedQueue::target() const {
  const std::lock_guard lock(mutex_);
  return versions_.at(now_).target;
}

std::shared_ptr<const Target> ServedQueue::TargetOf(uint32_t version) const {
  const std::lock_guard lock(mutex_);
  const auto it = versions_.find(version);
  return it == versions_.end() ? versions_.begin()->second.target : it->second.target;
}

StatsTotals ServedQueue::SumLocked() const {
  StatsTotals totals = retired_;
  totals.Add(worker_->counters());
  for (const auto& [number, version] : versions_) {
    if (version.counters != nullptr) totals.Add(*version.counters, version.spread.get());
  }
  return totals;
}

StatsTotals ServedQueue::Totals() const {
  const std::lock_guard lock(mutex_);
  StatsTotals totals = SumLocked();
  totals.Subtract(attributed_);
  return totals;
}

StatsTotals ServedQueue::Attribute() {
  const std::lock_guard lock(mutex_);
  const StatsTotals sum = SumLocked();
  StatsTotals totals = sum;
  totals.Subtract(attributed_);
  attributed_ = sum;
  return totals;
}

Losses ServedQueue::CountLosses() const {
  Losses losses;
  {
    const std::lock_guard lock(mutex_);
    losses = retired_losses_;
    for (const auto& [number, version] : versions_) {
      if (version.counters != nullptr) AddLosses(*version.counters, &losses);
    }
  }
  const WorkerCounters& w = worker_->counters();
  losses[Loss::kFlushed] = w.verdicts_gone.value();
  losses[Loss::kInterfaceDown] = w.verdicts_gone_down.value();
  losses[Loss::kVerdictError] = w.verdict_errors.value();
  losses[Loss::kVerdictUnsent] = w.verdicts_unsent.value();
  losses[Loss::kReceiveError] = w.receive_errors.value() + w.overruns.value();
  losses[Loss::kMalformed] = w.malformed.value();
  const absl::StatusOr<std::optional<QueueStats>> kernel = ReadQueueStats(number());
  if (!kernel.ok() || !kernel->has_value()) return losses;
  losses[Loss::kQueueFull] = (*kernel)->dropped;
  losses[Loss::kNetlinkOverrun] = (*kernel)->user_dropped;
  return losses;
}

}  // namespace utproxy
