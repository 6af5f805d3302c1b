// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/cleanup/cleanup.h>
#include <absl/strings/str_cat.h>
#include <sys/eventfd.h>

#include <chrono>

#include "base/clock.h"
#include "base/status.h"
#include "daemon/daemon.h"

// How one daemon goes on for another. What each says to the other is in predecessor.h; here is what
// they do. The order of things, for no packet to be lost, decided twice, or led astray:
//
//   1. The next daemon makes ready all that takes time, beside the one that runs: program, mirror.
//   2. The threads of the running one's queues answer their batches and end. Packets wait in their
//      queues from here on; what they were marked for goes on by rules, routes and entries.
//   3. The next one takes in the flow entries, puts its program in the other's place, and brings
//   the
//      rules up to its version's, all of which is the same to a packet. From here on nothing fails.
//   4. The other leaves, and the next one's threads read the queues.
namespace utproxy {

absl::Status Daemon::GoOnFor(Inheritance* inheritance) {
  Predecessor* const predecessor = inheritance->predecessor.get();
  Estate* const estate = &inheritance->estate;
  if (predecessor != nullptr) RETURN_IF_ERROR(predecessor->Pause());
  if (steering_inherited_) RETURN_IF_ERROR(steering_->TakeOver());
  RETURN_IF_ERROR(MakeQueues(estate));
  if (estate->Has("rules")) RETURN_IF_ERROR(StartRules(estate));
  if (predecessor != nullptr) RETURN_IF_ERROR(predecessor->Finish());
  leaves_ = false;
  return absl::OkStatus();
}

Belongings Daemon::belongings() {
  Belongings all = {{"control", control_->fd()}, {"words", words_->fd()}};
  if (metrics_) all.emplace_back("metrics", metrics_->fd());
  if (steering_) {
    for (auto& part : steering_->Parts()) all.push_back(std::move(part));
  }
  if (ruleset_) all.emplace_back("rules", ruleset_->nft()->fd());
  for (const auto& queue : serving_.queues) {
    all.emplace_back(QueueName(queue->number()), queue->worker().fd());
  }
  return all;
}

absl::Status Daemon::Pause() {
  StopFastPath();
  absl::Status status;
  for (const auto& queue : serving_.queues) queue->AskToLeave();
  for (const auto& queue : serving_.queues) status.Update(queue->Leave());
  return status;
}

absl::Status Daemon::Resume() {
  absl::Status status = RunQueues();
  status.Update(StartFastPath());
  return status;
}

// What is closed here somebody else has too, or it ends here.
void Daemon::Abandon() {
  leaves_ = true;
  EndTakeOver();
  if (ruleset_) ruleset_->Leave();
  ruleset_.reset();
  if (control_) control_->Leave();
  control_.reset();
  if (metrics_) metrics_->Leave();
  metrics_.reset();
  serving_ = Serving();
  mirror_.reset();
  steering_.reset();
}

// Who waits for the controlling thread waits no more: the control server's end waits for them.
void Daemon::EndTakeOver() {
  const std::lock_guard lock(successor_.mutex);
  successor_.ended = true;
  successor_.changed.notify_all();
}

absl::Status Daemon::Leave() {
  const absl::Status status = Pause();
  Abandon();
  return status;
}

// A control client's thread, which has the controlling thread do what there is to do, and waits for
// the next daemon in between.
absl::Status Daemon::HandleTakeOver(const ControlServer::Writer& write) {
  if (!write.trusted()) {
    return absl::PermissionDeniedError("take_over: for root and the daemon's own user");
  }
  std::unique_lock lock(successor_.mutex);
  // One that has gone a moment ago may still be noticed.
  const auto free = [this] { return successor_.connection == nullptr || successor_.ended; };
  if (!successor_.changed.wait_for(lock, std::chrono::seconds(1), free)) {
    return absl::FailedPreconditionError("take_over: another one is about to take over");
  }
  successor_.connection = &write;
  const absl::Cleanup end = [this] {  // before the lock goes
    successor_.connection = nullptr;
    successor_.changed.notify_all();
  };
  RETURN_IF_ERROR(successor_.Pass(lock, Successor::Turn::kAsked, take_over_.get()));
  lock.unlock();
  std::string rest;
  const bool go = ReadLine(write.client(), write.stop(), ControlServer::kMaxRequestBytes,
                           MonotonicNs() + kPrepareNs, &rest)
                      .has_value();
  lock.lock();
  if (!go) return absl::CancelledError("take_over: the other one has gone");
  return successor_.Pass(lock, Successor::Turn::kReady, take_over_.get());
}

absl::Status Daemon::Successor::Pass(std::unique_lock<std::mutex>& lock, Turn next, int wake) {
  turn = next;
  (void)::eventfd_write(wake, 1);
  changed.wait(lock, [this] { return turn == Turn::kNobodys || ended; });
  return ended ? absl::CancelledError("take_over: the daemon ends") : result;
}

bool Daemon::HandOver() {
  eventfd_t count = 0;
  (void)::eventfd_read(take_over_.get(), &count);
  bool left = false;
  {
    const std::lock_guard lock(successor_.mutex);
    if (successor_.turn == Successor::Turn::kNobodys) return false;
    if (successor_.turn == Successor::Turn::kAsked) {
      successor_.version = serving_.version;
      const ControlServer::Writer& to = *successor_.connection;
      const bool sent = SendEstate(to.client(), to.stop(), belongings());
      successor_.result = sent ? absl::OkStatus() : absl::CancelledError("take_over: not read");
    } else {
      successor_.result = LeaveTo(*successor_.connection);
      left = successor_.result.ok();
    }
    successor_.turn = Successor::Turn::kNobodys;
    successor_.changed.notify_all();
  }
  if (left) Abandon();
  return left;
}

// The next daemon takes the queues or goes away: it is waited for, with nobody reading them.
absl::Status Daemon::LeaveTo(const ControlServer::Writer& next) {
  if (successor_.version != serving_.version) {
    return absl::FailedPreconditionError("take_over: there has been a reload meanwhile");
  }
  absl::Status status = Pause();
  std::string rest;
  if (status.ok() && next({{"paused", true}}) &&
      ReadLine(next.client(), next.stop(), ControlServer::kMaxRequestBytes,
               MonotonicNs() + kPauseNs, &rest) &&
      next({{"end", true}})) {
    return status;
  }
  status.Update(absl::CancelledError("take_over: the other one has gone"));
  status.Update(Resume());
  return status;
}

}  // namespace utproxy
