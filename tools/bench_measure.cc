// SPDX-License-Identifier: GPL-3.0-or-later
#include "bench_measure.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>

#include <memory>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "bench_traffic.h"
#include "engine/decider.h"
#include "queue/accept_all.h"
#include "queue/worker.h"
#include "ruleset/ruleset.h"

namespace utproxy::tools {
namespace {

constexpr absl::Duration kWarmUp = absl::Milliseconds(100);

// What decides: of utproxy all that the daemon has but its control socket.
class Engine {
 public:
  static absl::StatusOr<std::unique_ptr<Engine>> Start(Contestant contestant) {
    auto engine = std::make_unique<Engine>();
    if (contestant == Contestant::kAcceptAll) {
      engine->decider_ = std::make_unique<AcceptAll>(kBenchMark);
      return engine;
    }
    ASSIGN_OR_RETURN(engine->steering_, Steering::Open({}));
    ASSIGN_OR_RETURN(engine->mirror_, Mirror::Start({}));
    ASSIGN_OR_RETURN(DiagClient client, DiagClient::Open());
    engine->decider_ = std::make_unique<Decider>(
        Policy{.on_port = kBenchOnPort, .mark_value = kBenchMark}, engine->mirror_.get(),
        ExactQuerier(std::move(client), &engine->mirror_->table()), engine->steering_.get());
    return engine;
  }
  BatchDecider* decider() { return decider_.get(); }

 private:
  std::unique_ptr<Steering> steering_;
  std::unique_ptr<Mirror> mirror_;
  std::unique_ptr<BatchDecider> decider_;  // last: it uses the others
};

uint16_t ListenerPort(Contestant contestant) {
  return contestant == Contestant::kAcceptAll ? kBenchPort : kBenchOnPort;
}

absl::StatusOr<InstalledRuleset> QueueRule(Proto proto) {
  RulesetSpec spec;
  spec.match = {.protos = {proto}, .dports = {{kBenchPort, kBenchPort}}, .iifs = {"lan0"}};
  spec.mark_value = kBenchMark;
  return InstalledRuleset::Install({&spec, 1});
}

// The contestant at work, from Start until it is destroyed.
class Running {
 public:
  explicit Running(const BenchSpace* space) : space_(space) {}
  ~Running() {
    if (kernel_) (void)space_->RemoveKernelRule();
    if (rules_) (void)rules_->StopQueueing();
    if (worker_) (void)worker_->Stop();
  }

  absl::Status Start(Contestant contestant) {
    if (contestant == Contestant::kKernel) {
      kernel_ = true;
      return space_->AddKernelRule();
    }
    ASSIGN_OR_RETURN(engine_, Engine::Start(contestant));
    ASSIGN_OR_RETURN(worker_, QueueWorker::Create(0, {}, engine_->decider()));
    RETURN_IF_ERROR(worker_->Start());
    ASSIGN_OR_RETURN(InstalledRuleset rules, QueueRule(Proto::kTcp));
    rules_.emplace(std::move(rules));
    return absl::OkStatus();
  }

 private:
  const BenchSpace* const space_;
  bool kernel_ = false;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<QueueWorker> worker_;
  std::optional<InstalledRuleset> rules_;
};

}  // namespace

absl::StatusOr<double> MeasureDrain(const BenchSpace& space, Contestant contestant, size_t packets,
                                    size_t flows) {
  ASSIGN_OR_RETURN(const UniqueFd sink, BindSink(ListenerPort(contestant)));
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Start(contestant));
  QueueOptions options;
  options.maxlen = static_cast<uint32_t>(packets);
  ASSIGN_OR_RETURN(const std::unique_ptr<QueueWorker> worker,
                   QueueWorker::Create(0, options, engine->decider()));
  ASSIGN_OR_RETURN(const InstalledRuleset rules, QueueRule(Proto::kUdp));
  RETURN_IF_ERROR(SendDatagrams(space, packets, flows));
  const int64_t before = MonotonicNs();
  RETURN_IF_ERROR(worker->Start());
  RETURN_IF_ERROR(worker->Stop());  // ends when the queue is empty
  const int64_t took_ns = MonotonicNs() - before;
  const size_t delivered = TakeAll(sink);
  if (delivered != packets) {
    return absl::InternalError(absl::StrCat("drain a queue: ", delivered, " of ", packets,
                                            " datagrams reached the listener"));
  }
  return static_cast<double>(packets) / static_cast<double>(took_ns) * 1e6;
}

absl::StatusOr<double> MeasureBulk(const BenchSpace& space, Contestant contestant,
                                   size_t connections, int64_t duration_ns) {
  ASSIGN_OR_RETURN(const std::unique_ptr<BulkSink> sink, BulkSink::Start(ListenerPort(contestant)));
  Running running(&space);
  RETURN_IF_ERROR(running.Start(contestant));
  ASSIGN_OR_RETURN(const std::unique_ptr<BulkSource> source, BulkSource::Start(space, connections));
  absl::SleepFor(kWarmUp);
  const int64_t before_ns = MonotonicNs();
  const uint64_t before = sink->received();
  absl::SleepFor(absl::Nanoseconds(duration_ns));
  const uint64_t bytes = sink->received() - before;
  const int64_t took_ns = MonotonicNs() - before_ns;
  if (bytes == 0) return absl::InternalError("send in bulk: nothing reached the listener");
  return static_cast<double>(bytes) * 8 / static_cast<double>(took_ns);
}

}  // namespace utproxy::tools
