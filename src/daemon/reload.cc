// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/clock.h"
#include "base/status.h"
#include "daemon/daemon.h"
#include "daemon/other_daemon.h"
#include "daemon/target_match.h"

// How one configuration takes over from another. A packet is decided by the one whose rules queued
// it. The queue does not tell which that was, so while packets of both can be in it, a packet that
// the new rules would have put there is taken for theirs (it would have come there a moment later),
// and any other for one of the old rules. The order of things:
//
//   1. What can fail: deciders, new queues (read, but fed by no rule yet), policy rules and routes.
//   2. The workers take both configurations, each with its next batch.
//   3. The rules change, in one transaction.
//   4. When all that was queued until then is answered, the workers have the new one alone. Queues
//      that no rule names any more are emptied and closed; old policy rules and routes go.
namespace utproxy {
namespace {

// A packet that is among the old rules while they are replaced is in its queue by then: the kernel
// goes through them with preemption and softirqs off.
constexpr auto kGrace = std::chrono::milliseconds(20);
// Longer than a full queue takes. A worker that does not answer within it is not waited for.
constexpr int64_t kPatienceNs = 2 * kNsPerSec;

}  // namespace

absl::StatusOr<std::vector<std::string>> Daemon::Reload(Targets targets) {
  RETURN_IF_ERROR(CheckQueueCount(targets));
  Change change;
  KeepHowQueuesAreRead(serving_.queues, &targets, &change.sentences);
  for (const Target& target : targets) {
    RETURN_IF_ERROR(KernelBears(target.ruleset));
  }
  change.targets = std::make_shared<const Targets>(std::move(targets));
  change.version = last_version_ + 1;
  change.specs = SpecsToInstall(*change.targets);
  change.rules_change = change.specs != installed_;
  RestoreRules(&change.sentences);
  RETURN_IF_ERROR(PrepareQueues(&change));
  if (ruleset_ && change.rules_change) RETURN_IF_ERROR(ruleset_->Begin(change.specs));
  StopFastPath();
  last_version_ = change.version;
  if (steering_) steering_->SetOnePolicy(false);
  BeginQueues(change);
  if (absl::Status status = SwitchRules(change); !status.ok()) {
    for (const auto& queue : change.changed) queue->Undo();
    TellSteering();
    status.Update(WatchCgroups(installed_));
    status.Update(StartFastPath());
    return status;
  }
  WaitForEarlierPackets(change);
  Publish(change);
  CloseQueues(&change);
  TellSteering();
  FinishRules(&change);
  WarnOfMissingCgroups(&change.sentences);
  const absl::Status fast = StartFastPath();
  if (!fast.ok()) change.sentences.push_back(absl::StrCat("fast path: ", fast.message()));
  return change.sentences;
}

std::shared_ptr<ServedQueue> Daemon::FindQueue(uint16_t number) const {
  for (const auto& queue : serving_.queues) {
    if (queue->number() == number) return queue;
  }
  return nullptr;
}

// A queue's length, what is copied, its buffer and its processor are set when it is opened.
void Daemon::KeepHowQueuesAreRead(const Queues& queues, Targets* targets,
                                  std::vector<std::string>* sentences) {
  for (Target& target : *targets) {
    for (const auto& queue : queues) {
      if (queue->number() < target.queue_first || queue->number() > target.queue_last) continue;
      const std::shared_ptr<const Target> open = queue->target();
      if (target.queue == open->queue && target.cpus == open->cpus) continue;
      sentences->push_back(absl::StrCat(
          "target ", target.name, ": queue ", queue->number(),
          " is open: queue_maxlen, copy_range, rcvbuf, fail_open and cpu change with a restart"));
      target.queue = open->queue;
      target.cpus = open->cpus;
      target.ruleset.misses_pass = target.ruleset.misses_pass || open->queue.fail_open;
      break;
    }
  }
}

absl::Status Daemon::PrepareQueues(Change* change) {
  for (const Target& target : *change->targets) {
    const std::shared_ptr<const Target> shared(change->targets, &target);
    for (uint32_t n = target.queue_first; n <= target.queue_last; ++n) {
      const auto number = static_cast<uint16_t>(n);
      std::shared_ptr<ServedQueue> queue = FindQueue(number);
      if (queue == nullptr) {
        ASSIGN_OR_RETURN(queue, StartQueue(shared, number, change->version));
        change->added.push_back(queue);
      } else if (*queue->target() != target) {
        RETURN_IF_ERROR(queue->Prepare(shared, change->version));
        change->changed.push_back(queue);
      }
      change->queues.push_back(std::move(queue));
    }
  }
  for (const auto& queue : serving_.queues) {
    const bool stays =
        std::find(change->queues.begin(), change->queues.end(), queue) != change->queues.end();
    if (!stays) change->gone.push_back(queue);
  }
  return absl::OkStatus();
}

void Daemon::BeginQueues(const Change& change) {
  for (const auto& queue : change.changed) {
    SwitchingDecider::ForNew for_new;
    if (change.rules_change && queue->prepared().install) {
      for_new = [targets = change.targets, number = queue->number(),
                 mirror = mirror_.get()](const Packet& packet) {
        const std::string iif = mirror->interfaces().Get()->NameOf(packet.iif);
        const Target* target = FirstToTake(*targets, packet, iif);
        return target != nullptr && target->queue_first <= number && number <= target->queue_last;
      };
    }
    queue->Begin(std::move(for_new));
  }
}

absl::Status Daemon::SwitchRules(const Change& change) {
  if (!change.rules_change) return absl::OkStatus();
  RETURN_IF_ERROR(WatchCgroups(change.specs));
  if (ruleset_) {
    RETURN_IF_ERROR(ruleset_->Switch(change.specs));
  } else {
    RETURN_IF_ERROR(NoOtherDaemonHasTheTable(*change.targets));
    ASSIGN_OR_RETURN(InstalledRuleset ruleset, InstalledRuleset::Install(change.specs));
    ruleset_.emplace(std::move(ruleset));
  }
  installed_ = change.specs;
  return absl::OkStatus();
}

void Daemon::WaitForEarlierPackets(const Change& change) {
  if (change.rules_change) std::this_thread::sleep_for(kGrace);
  for (const auto& queue : change.changed) queue->MarkEnd();
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  for (const auto& queue : change.changed) {
    while (!queue->Passed() && MonotonicNs() < deadline_ns) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    queue->End();
  }
}

// What queues have done until now is their earlier targets'.
void Daemon::Publish(const Change& change) {
  const std::lock_guard lock(mutex_);
  serving_.version = change.version;
  for (const auto& queue : change.changed) {
    const std::string& name = queue->previous().name;
    if (name != queue->target()->name) serving_.past[name].Add(queue->Attribute());
  }
  serving_.targets = change.targets;
  serving_.queues = change.queues;
  serving_.queues.insert(serving_.queues.end(), change.gone.begin(), change.gone.end());
}

void Daemon::CloseQueues(Change* change) {
  for (const auto& queue : change->gone) {
    const Losses kernels = queue->CountLosses();  // which the kernel forgets with the queue
    if (const absl::Status status = queue->Stop(); !status.ok()) {
      change->sentences.push_back(std::string(status.message()));
    }
    const std::lock_guard lock(mutex_);
    serving_.past[queue->target()->name].Add(queue->Totals());
    Losses losses = queue->CountLosses();
    for (const Loss loss : {Loss::kQueueFull, Loss::kNetlinkOverrun}) losses[loss] = kernels[loss];
    serving_.past_losses.Add(losses);
    std::erase(serving_.queues, queue);
  }
  const std::lock_guard lock(mutex_);
  std::erase_if(serving_.past, [this](const auto& entry) {
    const auto same = [&](const Target& target) { return target.name == entry.first; };
    const auto& targets = *serving_.targets;
    if (std::any_of(targets.begin(), targets.end(), same)) return false;
    serving_.past_of_gone.Add(entry.second);
    return true;
  });
}

void Daemon::FinishRules(Change* change) {
  if (!ruleset_ || !change->rules_change) return;
  if (!change->specs.empty() && AnyOutlives(change->specs) != ruleset_->outlives()) {
    change->sentences.push_back(
        absl::StrCat("fail: the rules ", ruleset_->outlives() ? "still outlive" : "do not outlive",
                     " a daemon that ends suddenly: that changes with a restart"));
  }
  const absl::Status status = ruleset_->Finish(change->specs);
  if (!status.ok()) change->sentences.push_back(std::string(status.message()));
  const std::vector<std::string>& warnings = ruleset_->warnings();
  change->sentences.insert(change->sentences.end(), warnings.begin(), warnings.end());
}

}  // namespace utproxy
