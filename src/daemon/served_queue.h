// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_SERVED_QUEUE_H_
#define UTPROXY_DAEMON_SERVED_QUEUE_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/losses.h"
#include "daemon/stats.h"
#include "daemon/switching_decider.h"
#include "daemon/target.h"
#include "engine/decider.h"
#include "engine/flight_tap.h"
#include "mirror/mirror.h"
#include "queue/worker.h"
#include "steer/steering.h"

namespace utproxy {

// What a queue's decisions need; `steering` may be null. Both outlive the queue.
struct QueueContext {
  Mirror* mirror = nullptr;
  Steering* steering = nullptr;
};

// One queue, its worker, and what it decides by: a target, which another configuration may replace
// while packets come. Create, Run, Leave, Prepare, Begin, End, Undo and Stop are for one
// controlling thread, in whose network namespace everything happens; the rest is for any.
class ServedQueue : private BatchObserver {
 public:
  // Configurations whose targets are remembered for the flight recorder's records.
  static constexpr size_t kMaxVersions = 64;

  // Binds the queue, or goes on with `inherited` (QueueWorker::Create). `version` is the
  // configuration's number, `nth` the queue's place among its target's.
  static absl::StatusOr<std::shared_ptr<ServedQueue>> Create(const QueueContext& context,
                                                             uint16_t number, size_t nth,
                                                             std::shared_ptr<const Target> target,
                                                             uint32_t version,
                                                             UniqueFd inherited = UniqueFd());
  // Starts its worker, for the first time or after Leave().
  absl::Status Run();
  // See QueueWorker.
  void AskToLeave() { worker_->AskToLeave(); }
  absl::Status Leave() { return worker_->Leave(); }

  // Going over to `target`, from the configuration `version`: makes ready what can fail. Then
  // Begin; packets of which `for_new` is false (empty: none) are decided by the target before until
  // End. Undo, instead of End, goes back. How the queue is read stays as it was.
  absl::Status Prepare(std::shared_ptr<const Target> target, uint32_t version);
  const Target& prepared() const { return *prepared_.target; }
  void Begin(SwitchingDecider::ForNew for_new);
  // The target before the last Begin.
  const Target& previous() const { return *previous_; }
  // Whether no packet waits any more that came before the call of MarkEnd(), which is to be called
  // after Begin, and after the rules have changed.
  void MarkEnd();
  bool Passed() const;
  void End();
  void Undo();

  // Answers what is in the queue, and unbinds it.
  absl::Status Stop() { return worker_->Stop(); }
  // Any thread.
  void Probe() { worker_->Probe(); }

  uint16_t number() const { return worker_->number(); }
  const QueueWorker& worker() const { return *worker_; }
  const FlightRecorder& recorder() const { return tap_.recorder(); }
  // The target now.
  std::shared_ptr<const Target> target() const;
  // That of a configuration; of one that is forgotten, the oldest that is known.
  std::shared_ptr<const Target> TargetOf(uint32_t version) const;
  // All that it has done, by whatever target, less what Attribute() has taken.
  StatsTotals Totals() const;
  // Takes the totals, which count for the target until now; they begin anew.
  StatsTotals Attribute();
  Losses CountLosses() const;

 private:
  struct Version {
    std::shared_ptr<const Target> target;
    std::shared_ptr<DeciderVersion> decider;    // null once it is folded into retired_
    const DeciderCounters* counters = nullptr;  // of `decider`
    std::shared_ptr<const Spread> spread;       // of `decider`
  };

  explicit ServedQueue(const QueueContext& context) : context_(context) {}
  absl::StatusOr<Version> MakeVersion(std::shared_ptr<const Target> target, uint32_t number) const;
  void Decided(const DecidedBatch& batch) override;
  void FoldLocked();
  StatsTotals SumLocked() const;

  const QueueContext context_;
  mutable std::mutex mutex_;
  std::map<uint32_t, Version> versions_;  // by number; under mutex_
  StatsTotals retired_;                   // of deciders that are gone; under mutex_
  Losses retired_losses_;                 // the same; under mutex_
  StatsTotals attributed_;                // under mutex_
  int cpu_ = -1;                          // that the worker is pinned to; -1: none
  uint32_t now_ = 0;                      // number of the version; under mutex_
  uint32_t before_ = 0;                   // the controlling thread's
  std::shared_ptr<const Target> previous_;
  uint32_t next_ = 0;  // prepared; the controlling thread's
  Version prepared_;
  uint32_t end_id_ = 0;
  std::atomic<uint32_t> answered_id_{0};
  FlightTap tap_;
  std::unique_ptr<SwitchingDecider> decider_;
  std::unique_ptr<QueueWorker> worker_;  // after what it calls: it goes first
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_SERVED_QUEUE_H_
