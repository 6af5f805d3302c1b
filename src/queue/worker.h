// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_QUEUE_WORKER_H_
#define UTPROXY_QUEUE_WORKER_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <thread>

#include "queue/batch_decider.h"
#include "queue/batch_observer.h"
#include "queue/counters.h"
#include "queue/downed_interfaces.h"
#include "queue/nf_queue.h"
#include "queue/options.h"
#include "queue/verdict_buffer.h"
#include "utproxy/decision.h"

namespace utproxy {

// One queue and the thread that reads, decides and answers its packets, in batches as they come.
//
// While a sixteenth of the queue's length, or of a short queue up to a quarter, or a quarter of the
// socket's buffer waits behind a batch, the decider is told that it is crowded: packets come faster
// than they are answered, and where that lasts the queue will be full within a second, and the
// kernel lose packets of all flows alike.
//
// Create, Start and Stop are for one controlling thread; counters() is for any. Create binds the
// queue in the calling thread's network namespace. No allocation and no lock on a packet's way.
class QueueWorker {
 public:
  // `decider` is called from the worker's thread only, between Start and the end of Stop, and
  // outlives the worker; so does `observer`, which may be null.
  // `inherited`: the queue's socket, of a process that has left it (NfQueue::Adopt); where it is
  // none, or not the queue's, the queue is bound.
  static absl::StatusOr<std::unique_ptr<QueueWorker>> Create(uint16_t number,
                                                             const QueueOptions& options,
                                                             BatchDecider* decider,
                                                             BatchObserver* observer = nullptr,
                                                             UniqueFd inherited = UniqueFd());
  // Stops where it runs.
  ~QueueWorker();
  QueueWorker(const QueueWorker&) = delete;
  QueueWorker& operator=(const QueueWorker&) = delete;

  // Starts the thread, on `cpu` only where that is not negative. It blocks all signals.
  absl::Status Start(int cpu = -1);

  // Answers every packet that is in the kernel's queue, then unbinds it and ends the thread, so
  // that no queued packet is lost. From the beginning of Stop on the kernel queues no more packets:
  // it drops new ones, or passes them if fail_open, and once unbound does as the rule says. Who
  // removes the rules empties their chains first, stops, and removes the chains last, since the
  // kernel drops the packets of all queues when a chain goes (nf_queue_nf_hook_drop). Returns what
  // went wrong in the thread, if anything did.
  absl::Status Stop();

  // Has the thread end behind its batch and leave the queue as it is, for whoever else has its
  // socket, or for another Start. Leave() waits for that; an error is the thread's.
  void AskToLeave();
  absl::Status Leave();

  // False once the thread has ended, by Stop or by an error that Stop tells of.
  bool running() const { return running_.load(std::memory_order_acquire); }
  // Rises while the thread goes on: with each batch, every five seconds without packets, and soon
  // after Probe(). Any thread.
  uint64_t beats() const { return beats_.value(); }
  // Has a thread that waits for packets go round once. Any thread.
  void Probe() { queue_->Wake(); }
  uint16_t number() const { return queue_->number(); }
  // The queue's socket.
  int fd() const { return queue_->fd(); }
  const WorkerCounters& counters() const { return counters_; }

 private:
  QueueWorker(std::unique_ptr<NfQueue> queue, const QueueOptions& options, BatchDecider* decider,
              BatchObserver* observer);

  absl::Status RunLoop();
  absl::Status Loop();
  absl::Status Drain();
  // Receives, decides and answers one batch.
  absl::StatusOr<NfQueue::Received> Step(bool wait);
  void Take(const Message& message);
  void TakePacket(const PacketMessage& message);
  void TakeError(const Message& message);
  void DecideAndAnswer();
  void SeeWhetherCrowded();
  void Answer(const QueuedPacket& packet, const Decision& decision);

  const std::unique_ptr<NfQueue> queue_;
  BatchDecider* const decider_;
  BatchObserver* const observer_;
  std::thread thread_;
  std::future<absl::Status> ended_;
  const QueueOptions options_;
  bool read_before_ = false;  // the queue, by whomever; the controlling thread's
  std::atomic<bool> stop_{false};
  std::atomic<bool> leave_{false};
  std::atomic<bool> running_{false};

  // All below is the worker thread's.
  DownedInterfaces downed_;
  bool cut_acknowledged_ = false;
  int cut_error_ = 0;
  const uint64_t crowded_bytes_;  // in the socket's buffer
  bool crowded_ = false;
  size_t count_ = 0;
  std::array<QueuedPacket, kBatch> packets_;
  std::array<Decision, kBatch> decisions_;
  VerdictBuffer verdicts_;
  Counter beats_;
  WorkerCounters counters_;
};

}  // namespace utproxy

#endif  // UTPROXY_QUEUE_WORKER_H_
