// SPDX-License-Identifier: GPL-3.0-or-later
#include "queue/worker.h"

#include <absl/strings/str_cat.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "utproxy/parse.h"

namespace utproxy {
namespace {

// With the index of the interface that the packet came in by: the sequence number of a verdict.
constexpr uint32_t kVerdictSequence = 0x80000000;
// How long Stop goes on without the kernel's word that the queue is empty. The word is there as
// soon as the socket is read empty, unless the socket buffer was too full to hold it.
constexpr int64_t kDrainLimitNs = 5 * kNsPerSec;

// A SYN behind the RST or the last ACK of the flow's earlier connection, of which the kernel would
// see the end before it looks at the SYN: it has to wait for the verdicts of those before it.
// Another SYN before it ends nothing.
bool ReopensItsFlow(absl::Span<const QueuedPacket> before, const Packet& packet) {
  if (!packet.is_pure_syn() || packet.outcome != ParseOutcome::kOk) return false;
  for (const QueuedPacket& earlier : before) {
    if (earlier.packet.sport != packet.sport || earlier.packet.is_pure_syn()) continue;
    if (earlier.packet.key() == packet.key()) return true;
  }
  return false;
}

// What the kernel charges to the socket for a small packet, at the least.
constexpr uint64_t kLeastCharge = 832;
// What comes in while the worker waits for its turn on a busy processor.
constexpr uint64_t kLeastCrowd = 1024;

// `receive_buffer`: the socket's, as the kernel has it. Where a full queue lets packets pass, none
// is lost.
uint64_t CrowdedBytes(const QueueOptions& options, int receive_buffer) {
  if (options.fail_open) return UINT64_MAX;
  const uint64_t packets =
      std::min<uint64_t>(std::max<uint64_t>(options.maxlen / 16, kLeastCrowd), options.maxlen / 4);
  return std::min(packets * kLeastCharge, static_cast<uint64_t>(receive_buffer) / 4);
}

absl::Status PinThisThread(uint16_t queue, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu >= CPU_SETSIZE) {
    return ErrnoStatus(EINVAL, absl::StrCat("pin queue ", queue, " to CPU ", cpu));
  }
  CPU_SET(static_cast<unsigned>(cpu), &set);
  if (::sched_setaffinity(0, sizeof set, &set) < 0) {
    return WithRemedy(ErrnoStatus(errno, absl::StrCat("pin queue ", queue, " to CPU ", cpu)),
                      "Choose a CPU that is online and in this process's cpuset");
  }
  return absl::OkStatus();
}

// Blocks all signals while it lives; a thread made meanwhile inherits that.
class SignalBlock {
 public:
  SignalBlock() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalBlock() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

QueueWorker::QueueWorker(std::unique_ptr<NfQueue> queue, const QueueOptions& options,
                         BatchDecider* decider, BatchObserver* observer)
    : queue_(std::move(queue)),
      decider_(decider),
      observer_(observer),
      options_(options),
      downed_(queue_->fd()),
      crowded_bytes_(CrowdedBytes(options, queue_->receive_buffer())),
      verdicts_(queue_->number()) {}

absl::StatusOr<std::unique_ptr<QueueWorker>> QueueWorker::Create(uint16_t number,
                                                                 const QueueOptions& options,
                                                                 BatchDecider* decider,
                                                                 BatchObserver* observer,
                                                                 UniqueFd inherited) {
  absl::StatusOr<std::unique_ptr<NfQueue>> queue = absl::NotFoundError("");
  if (inherited.valid()) queue = NfQueue::Adopt(std::move(inherited), number, options);
  const bool adopted = queue.ok();
  if (!adopted) queue = NfQueue::Bind(number, options);
  RETURN_IF_ERROR(queue.status());
  std::unique_ptr<QueueWorker> worker(
      new QueueWorker(*std::move(queue), options, decider, observer));
  worker->read_before_ = adopted;
  return worker;
}

QueueWorker::~QueueWorker() { (void)Stop(); }

absl::Status QueueWorker::Start(int cpu) {
  if (thread_.joinable()) return absl::FailedPreconditionError("start queue worker: it runs");
  leave_.store(false, std::memory_order_relaxed);
  stop_.store(false, std::memory_order_relaxed);
  if (std::exchange(read_before_, true)) RETURN_IF_ERROR(queue_->Continue(options_));
  std::promise<absl::Status> ready;
  std::promise<absl::Status> ended;
  std::future<absl::Status> pinned = ready.get_future();
  ended_ = ended.get_future();
  running_.store(true, std::memory_order_release);
  const SignalBlock block;
  thread_ = std::thread([this, cpu, ready = std::move(ready), ended = std::move(ended)]() mutable {
    pthread_setname_np(pthread_self(), absl::StrCat("queue-", number()).c_str());
    const absl::Status pin = cpu < 0 ? absl::OkStatus() : PinThisThread(number(), cpu);
    ready.set_value(pin);
    ended.set_value(pin.ok() ? RunLoop() : absl::OkStatus());
    running_.store(false, std::memory_order_release);
  });
  absl::Status status = pinned.get();
  if (!status.ok()) thread_.join();
  return status;
}

absl::Status QueueWorker::Stop() {
  if (!thread_.joinable()) return absl::OkStatus();
  stop_.store(true, std::memory_order_release);
  queue_->Wake();
  thread_.join();
  return ended_.get();
}

void QueueWorker::AskToLeave() {
  leave_.store(true, std::memory_order_relaxed);
  stop_.store(true, std::memory_order_release);
  queue_->Wake();
}

absl::Status QueueWorker::Leave() {
  if (!thread_.joinable()) return absl::OkStatus();
  AskToLeave();
  thread_.join();
  return ended_.get();
}

// A queue that is bound but not read holds up every packet; unbound, the rule's bypass works.
absl::Status QueueWorker::RunLoop() {
  const absl::Status status = Loop();
  if (status.ok() && leave_.load(std::memory_order_relaxed)) return status;
  const absl::Status unbound = queue_->Unbind();
  return status.ok() ? unbound : status;
}

absl::Status QueueWorker::Loop() {
  while (!stop_.load(std::memory_order_acquire)) {
    ASSIGN_OR_RETURN(const NfQueue::Received received, Step(/*wait=*/true));
    (void)received;
    beats_.Add(1);
  }
  return leave_.load(std::memory_order_relaxed) ? absl::OkStatus() : Drain();
}

absl::Status QueueWorker::Drain() {
  const int64_t deadline = MonotonicNs() + kDrainLimitNs;
  RETURN_IF_ERROR(queue_->Cut());
  while (true) {
    ASSIGN_OR_RETURN(const NfQueue::Received received, Step(/*wait=*/false));
    // On until nothing is left: the errors of the last verdicts come behind the word.
    if (received == NfQueue::Received::kMessages) continue;
    if (cut_acknowledged_) break;
    if (MonotonicNs() > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("stop queue ", number(), ": the kernel does not say that it is empty"));
    }
    // Read empty without the word: it found no room, and now there is room.
    RETURN_IF_ERROR(queue_->Cut());
  }
  if (cut_error_ == 0) return absl::OkStatus();
  return ErrnoStatus(cut_error_, absl::StrCat("stop queue ", number(), ": set its length to 0"));
}

absl::StatusOr<NfQueue::Received> QueueWorker::Step(bool wait) {
  const NfQueue::Received received =
      queue_->Receive(wait, [this](const Message& message) { Take(message); });
  if (received == NfQueue::Received::kOverrun) counters_.overruns.Add(1);
  if (received == NfQueue::Received::kError) {
    const int error = errno;
    counters_.receive_errors.Add(1);
    // Anything but a lack of memory lasts.
    if (error != ENOMEM) return ErrnoStatus(error, absl::StrCat("read queue ", number()));
  }
  DecideAndAnswer();
  return received;
}

void QueueWorker::Take(const Message& message) {
  switch (message.kind) {
    case Message::Kind::kPacket:
      return TakePacket(message.packet);
    case Message::Kind::kError:
      return TakeError(message);
    case Message::Kind::kMalformed:
      return counters_.malformed.Add(1);
    case Message::Kind::kOther:
      return;
  }
}

void QueueWorker::TakePacket(const PacketMessage& message) {
  if (count_ == kBatch) DecideAndAnswer();
  QueuedPacket* queued = &packets_[count_];
  queued->id = message.id;
  queued->packet.iif = message.indev;
  queued->packet.mark = message.mark;
  queued->bytes = message.payload;
  queued->true_length = message.true_length;
  queued->arrived_ns = message.arrived_ns;
  ParsePacket(message.payload, message.true_length, &queued->packet);
  if (ReopensItsFlow({packets_.data(), count_}, queued->packet)) {
    const QueuedPacket syn = *queued;
    DecideAndAnswer();
    packets_[0] = syn;
  }
  ++count_;
  counters_.bytes.Add(message.true_length);
  if (message.damaged) counters_.damaged.Add(1);
}

void QueueWorker::TakeError(const Message& message) {
  if (message.sequence == NfQueue::kCutSequence) {
    cut_acknowledged_ = true;
    cut_error_ = message.error;
  } else if (message.sequence == NfQueue::kRequeueSequence) {
    return;
  } else if (message.error == ENOENT) {
    const bool down = (message.sequence & kVerdictSequence) != 0 &&
                      downed_.Has(message.sequence & ~kVerdictSequence);
    (down ? counters_.verdicts_gone_down : counters_.verdicts_gone).Add(1);
  } else if (message.error != 0) {
    counters_.verdict_errors.Add(1);
  }
}

void QueueWorker::SeeWhetherCrowded() {
  // A batch that was not filled has left nothing behind.
  const bool crowded = count_ == kBatch && queue_->WaitingBytes() > crowded_bytes_;
  if (crowded == crowded_) return;
  crowded_ = crowded;
  decider_->SetCrowded(crowded);
}

void QueueWorker::DecideAndAnswer() {
  if (count_ == 0) return;
  SeeWhetherCrowded();
  const int64_t before = MonotonicNs();
  decider_->DecideBatch({packets_.data(), count_}, absl::MakeSpan(decisions_.data(), count_));
  const int64_t after = MonotonicNs();
  const auto took_ns = static_cast<uint64_t>(after - before);
  for (size_t i = 0; i < count_; ++i) Answer(packets_[i], decisions_[i]);
  if (queue_->SendVerdicts(verdicts_) != 0) counters_.verdicts_unsent.Add(count_);
  verdicts_.Clear();
  // Behind the verdicts, so that no packet waits for it.
  if (observer_ != nullptr) {
    observer_->Decided({.packets = {packets_.data(), count_},
                        .decisions = {decisions_.data(), count_},
                        .decided_ns = after,
                        .took_ns = took_ns});
  }
  counters_.packets.Add(count_);
  counters_.batches.Add(1);
  counters_.batch_size.Add(count_);
  counters_.decide_ns.Add(took_ns);
  counters_.decide_ns_packets.Add(took_ns, count_);
  count_ = 0;
}

void QueueWorker::Answer(const QueuedPacket& packet, const Decision& decision) {
  counters_.reasons[static_cast<size_t>(decision.reason)].Add(1);
  const uint32_t sequence = kVerdictSequence | packet.packet.iif;
  if (decision.verdict == Verdict::kDrop) {
    counters_.dropped.Add(1);
    verdicts_.Drop(packet.id, sequence);
    return;
  }
  counters_.accepted.Add(1);
  if (decision.mark == packet.packet.mark) {
    if (decision.mark != 0 && IsHit(decision.reason)) counters_.marked_before.Add(1);
    verdicts_.Accept(packet.id, sequence);
  } else {
    counters_.marked.Add(1);
    verdicts_.AcceptWithMark(packet.id, sequence, decision.mark);
  }
}

}  // namespace utproxy
