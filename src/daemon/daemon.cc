// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/daemon.h"

#include <absl/cleanup/cleanup.h>
#include <absl/strings/str_cat.h>

#include "base/clock.h"
#include "base/status.h"
#include "daemon/explainer.h"
#include "daemon/snapshot.h"
#include "daemon/stats.h"
#include "daemon/trace_stream.h"
#include "queue/nf_queue.h"
#include "queue/queue_stats.h"

namespace utproxy {

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const DaemonOptions& options) {
  auto daemon = std::unique_ptr<Daemon>(new Daemon(options));
  daemon->started_ns_ = MonotonicNs();
  Daemon* const d = daemon.get();
  // First, as other things fail without it too, with less to say about why.
  RETURN_IF_ERROR(NfQueue::CheckPrivilege());
  ASSIGN_OR_RETURN(d->control_, ControlServer::Open(options.control_path));
  RETURN_IF_ERROR(d->StartSteering());
  ASSIGN_OR_RETURN(d->mirror_, Mirror::Start({}));
  RETURN_IF_ERROR(d->StartQueues());
  RETURN_IF_ERROR(d->StartRules());
  RETURN_IF_ERROR(d->StartFastPath());
  // Last, as it reads everything before it.
  d->control_->Serve([d](const Json& request, const ControlServer::Writer& write) {
    return d->Handle(request, write);
  });
  return daemon;
}

Daemon::~Daemon() { (void)Stop(); }

absl::Status Daemon::StartSteering() {
  if (options_.steer == SteerMode::kNone) return absl::OkStatus();
  // A target without --on-port and --on-ip needs it too: the listener may be bound to the ingress
  // interface's address, which is not the packet's.
  absl::StatusOr<std::unique_ptr<Steering>> steering = Steering::Open({});
  if (!steering.ok()) return steering.status();
  steering_ = std::move(*steering);
  return absl::OkStatus();
}

absl::Status Daemon::StartQueues() {
  size_t count = 0;
  for (const Target& target : options_.targets) {
    count += size_t{1} + target.queue_last - target.queue_first;
  }
  if (count > kMaxQueues) {
    return WithRemedy(absl::InvalidArgumentError(
                          absl::StrCat("start queues: ", count, " are more than the ", kMaxQueues,
                                       " that one process serves, a thread each")),
                      "Narrow --queue-balance: more queues than processors do not help.");
  }
  for (const Target& target : options_.targets) {
    for (uint32_t number = target.queue_first; number <= target.queue_last; ++number) {
      RETURN_IF_ERROR(StartQueue(target, static_cast<uint16_t>(number)));
    }
  }
  return absl::OkStatus();
}

absl::Status Daemon::StartQueue(const Target& target, uint16_t number) {
  ASSIGN_OR_RETURN(DiagClient client, DiagClient::Open());
  Queue queue{.target = &target, .decider = nullptr, .tap = nullptr, .worker = nullptr};
  queue.decider = std::make_unique<Decider>(target.policy, mirror_.get(),
                                            ExactQuerier(std::move(client), &mirror_->table()),
                                            steering_.get());
  queue.tap = std::make_unique<FlightTap>();
  ASSIGN_OR_RETURN(queue.worker,
                   QueueWorker::Create(number, target.queue, queue.decider.get(), queue.tap.get()));
  const size_t nth = number - target.queue_first;
  const int cpu = target.cpus.empty() ? -1 : target.cpus[nth % target.cpus.size()];
  RETURN_IF_ERROR(queue.worker->Start(cpu));
  queues_.push_back(std::move(queue));
  return absl::OkStatus();
}

absl::Status Daemon::StartRules() {
  std::vector<RulesetSpec> specs;
  for (const Target& target : options_.targets) {
    if (target.ruleset.fast_path) RETURN_IF_ERROR(FastPathKernel());
    if (target.install) specs.push_back(target.ruleset);
  }
  if (specs.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(InstalledRuleset ruleset, InstalledRuleset::Install(specs));
  ruleset_.emplace(std::move(ruleset));
  return absl::OkStatus();
}

absl::Status Daemon::StartFastPath() {
  std::vector<uint16_t> on_ports;
  for (const Target& target : options_.targets) {
    if (target.ruleset.fast_path) on_ports.push_back(target.policy.on_port);
  }
  if (on_ports.empty()) return absl::OkStatus();
  NetlinkSocket* const owner = ruleset_ ? ruleset_->nft() : nullptr;
  ASSIGN_OR_RETURN(fast_path_, FastPath::Start(mirror_.get(), steering_.get(), on_ports, owner));
  return absl::OkStatus();
}

std::vector<std::string> Daemon::warnings() const {
  return ruleset_ ? ruleset_->warnings() : std::vector<std::string>();
}

std::vector<std::string> Daemon::Tick() {
  if (steering_) steering_->Expire(MonotonicNs());
  const Losses now = CountLosses();
  std::vector<std::string> sentences = DescribeGrowth(last_losses_, now);
  last_losses_ = now;
  WarnOfOtherProtocols(&sentences);
  return sentences;
}

// A TPROXY rule takes TCP or UDP only; a queue rule takes what it is told, and neighbour discovery
// or ICMP that it takes by mistake is dropped.
void Daemon::WarnOfOtherProtocols(std::vector<std::string>* sentences) {
  uint64_t others = 0;
  for (const Queue& queue : queues_) {
    if (queue.target->policy.on_miss != OnMiss::kDrop) continue;
    others += queue.worker->counters().reasons[static_cast<size_t>(Reason::kNotTcpOrUdp)].value();
  }
  if (others == 0 || warned_of_protocols_) return;
  warned_of_protocols_ = true;
  sentences->push_back(
      "packets that are neither TCP nor UDP were dropped (reason not_tcp_or_udp): the queue rule "
      "takes them too, ICMP and neighbour discovery among them. Give it -p tcp or -p udp");
}

absl::Status Daemon::Health() const {
  for (const Queue& queue : queues_) {
    if (queue.worker->running()) continue;
    return absl::InternalError(
        absl::StrCat("queue ", queue.worker->number(), ": its thread has ended"));
  }
  return absl::OkStatus();
}

absl::Status Daemon::Stop() {
  absl::Status status;
  // The kernel empties all queues when a chain goes, so first only the rules do; then the queues
  // are drained; the chains go last.
  fast_path_.reset();  // before the rules, whose socket it uses
  if (ruleset_) status.Update(ruleset_->StopQueueing());
  for (Queue& queue : queues_) status.Update(queue.worker->Stop());
  if (ruleset_) status.Update(ruleset_->Remove());
  ruleset_.reset();
  control_.reset();  // before what it reads
  queues_.clear();
  mirror_.reset();
  steering_.reset();
  return status;
}

Losses Daemon::CountLosses() const {
  Losses losses;
  for (const Queue& queue : queues_) {
    const WorkerCounters& w = queue.worker->counters();
    losses[Loss::kFlushed] += w.verdicts_gone.value();
    losses[Loss::kVerdictError] += w.verdict_errors.value();
    losses[Loss::kVerdictUnsent] += w.verdicts_unsent.value();
    losses[Loss::kReceiveError] += w.receive_errors.value() + w.overruns.value();
    losses[Loss::kMalformed] += w.malformed.value();
    losses[Loss::kExactFailed] += queue.decider->counters().exact_failed.value();
    losses[Loss::kShed] += queue.decider->counters().shed.value();
    losses[Loss::kSteerFailed] += queue.decider->counters().steer_failed.value();
    const absl::StatusOr<std::optional<QueueStats>> kernel = ReadQueueStats(queue.worker->number());
    if (!kernel.ok() || !kernel->has_value()) continue;
    losses[Loss::kQueueFull] += (*kernel)->dropped;
    losses[Loss::kNetlinkOverrun] += (*kernel)->user_dropped;
  }
  return losses;
}

Json Daemon::Stats() const {
  StatsBuilder stats(MonotonicNs() - started_ns_);
  for (const Queue& queue : queues_) {
    stats.AddQueue(queue.target->name, *queue.worker, queue.decider->counters());
  }
  stats.SetLosses(CountLosses());
  stats.SetMirror(mirror_->stats(), MonotonicNs());
  if (steering_) stats.SetSteering(steering_->stats(), steering_->listener_error());
  if (fast_path_) stats.SetFastPath(*fast_path_);
  return stats.Build();
}

const Target* Daemon::FindTarget(const std::string& name) const {
  if (name.empty()) return &options_.targets.front();
  for (const Target& target : options_.targets) {
    if (target.name == name) return &target;
  }
  return nullptr;
}

absl::Status Daemon::Handle(const Json& request, const ControlServer::Writer& write) {
  const std::string command = request["command"].get<std::string>();
  if (command == "stats") {
    (void)write(Stats());
    return absl::OkStatus();
  }
  if (command == "sockets") return HandleSockets(request, write);
  if (command == "trace") return HandleTrace(request, write);
  if (command == "explain") return HandleExplain(request, write);
  return absl::InvalidArgumentError("request: unknown command");
}

absl::Status Daemon::HandleSockets(const Json& request, const ControlServer::Writer& write) {
  const std::shared_ptr<const InterfaceSnapshot> interfaces = mirror_->interfaces().Get();
  const InterfaceNames names = [&](uint32_t ifindex) { return interfaces->NameOf(ifindex); };
  const absl::Status gone = absl::UnavailableError("the client does not read");
  if (request.value("interfaces", Json(false)) == Json(true)) {
    for (const Json& json : InterfacesJson(*interfaces)) {
      if (!write(json)) return gone;
    }
  }
  const OwnersByInode owners = ReadSocketOwners();
  for (const Socket& socket : SocketsInOrder(mirror_->table())) {
    if (!write(ToJson(socket, names, OwnerOf(socket, owners)))) return gone;
  }
  return absl::OkStatus();
}

absl::Status Daemon::HandleTrace(const Json& json, const ControlServer::Writer& write) {
  ASSIGN_OR_RETURN(TraceRequest request, TraceRequest::FromJson(json));
  const absl::Cleanup leave = [this] { trace_readers_.fetch_sub(1); };
  if (trace_readers_.fetch_add(1) >= kMaxTraceReaders) {
    return absl::ResourceExhaustedError(
        absl::StrCat("trace: ", kMaxTraceReaders, " others trace already; end one of them"));
  }
  std::vector<TraceSource> sources;
  for (const Queue& queue : queues_) {
    sources.push_back({&queue.tap->recorder(), queue.target, queue.worker->number()});
  }
  return TraceStream(std::move(request), std::move(sources), mirror_.get()).Run(write);
}

// What only the daemon knows of the delivery step: whether the listener's socket can be had.
void Daemon::ExplainSteering(const Packet& packet, Explanation* explanation) {
  const Decision& decision = explanation->decision;
  if (explanation->steps.empty() || !NeedsSteering(packet, decision)) return;
  ExplainStep& delivery = explanation->steps.back();
  if (delivery.kind != StepKind::kDelivery || delivery.result != "sk_lookup") return;
  if (steering_ == nullptr) {
    delivery.result = "none";
    delivery.why =
        "The listener's address or port is not the packet's, and --steer none leaves it to the "
        "mark alone, which does not lead to the listener.";
    return;
  }
  const absl::Status reached =
      steering_->Reach(decision.socket->cookie, decision.socket->inode, packet.proto());
  if (reached.ok()) return;
  delivery.result = "failed";
  delivery.why = absl::StrCat(
      "The listener's socket cannot be had, so the packet is dropped: ", reached.message(), ".");
}

absl::Status Daemon::HandleExplain(const Json& request, const ControlServer::Writer& write) {
  const std::shared_ptr<const InterfaceSnapshot> interfaces = mirror_->interfaces().Get();
  const auto index = [&](absl::string_view name) -> absl::StatusOr<uint32_t> {
    const uint32_t found = name.empty() ? 0 : interfaces->IndexOf(name);
    if (found == 0 && !name.empty()) return absl::NotFoundError("no such interface");
    return found;
  };
  if (!request.contains("packet")) return absl::InvalidArgumentError("explain: no packet");
  ASSIGN_OR_RETURN(const Packet packet, PacketFromJson(request["packet"], index));
  const bool named = request.contains("target") && request["target"].is_string();
  const Target* target = FindTarget(named ? request["target"].get<std::string>() : "");
  if (target == nullptr) return absl::NotFoundError("explain: no such target");
  ASSIGN_OR_RETURN(const std::unique_ptr<Explainer> explainer, Explainer::Open());
  ASSIGN_OR_RETURN(Explanation live,
                   explainer->Mirror(packet, target->policy, mirror_->table(), *interfaces));
  ExplainSteering(packet, &live);
  ASSIGN_OR_RETURN(const Explanation exact, explainer->Exact(packet, target->policy));
  const OwnersByInode owners = ReadSocketOwners();
  const InterfaceNames names = [&](uint32_t i) { return interfaces->NameOf(i); };
  Json answer = ToJson(live, packet, names, owners, "mirror");
  answer["target"] = target->name;
  answer["differs"] = DifferencesOf(live.decision, exact.decision, names);
  (void)write(answer);
  return absl::OkStatus();
}

}  // namespace utproxy
