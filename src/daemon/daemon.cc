// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/daemon.h"

#include <absl/cleanup/cleanup.h>
#include <absl/strings/str_cat.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "base/clock.h"
#include "base/status.h"
#include "daemon/explainer.h"
#include "daemon/metrics_text.h"
#include "daemon/other_daemon.h"
#include "daemon/snapshot.h"
#include "daemon/stats.h"
#include "daemon/trace_stream.h"
#include "queue/nf_queue.h"
#include "queue/queue_stats.h"

namespace utproxy {

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const DaemonOptions& options,
                                                      Inheritance inheritance) {
  auto daemon = std::unique_ptr<Daemon>(new Daemon(options));
  daemon->started_ns_ = MonotonicNs();
  daemon->leaves_ = !inheritance.estate.empty();
  RETURN_IF_ERROR(daemon->Begin(&inheritance));
  return daemon;
}

absl::Status Daemon::Begin(Inheritance* inheritance) {
  Estate* const estate = &inheritance->estate;
  // First, as other things fail without it too, with less to say about why.
  RETURN_IF_ERROR(NfQueue::CheckPrivilege());
  RETURN_IF_ERROR(OpenSockets(estate));
  ASSIGN_OR_RETURN(EventFd changed, EventFd::Create());
  changed_.emplace(std::move(changed));
  RETURN_IF_ERROR(StartSteering(estate));
  RETURN_IF_ERROR(GiveUp());
  ASSIGN_OR_RETURN(mirror_, Mirror::Start({.changed = &*changed_}));
  RETURN_IF_ERROR(GoOnFor(inheritance));
  RETURN_IF_ERROR(RunQueues());
  if (!ruleset_) RETURN_IF_ERROR(StartRules(estate));
  RETURN_IF_ERROR(StartFastPath());
  // Last, as it reads everything before it.
  control_->Serve([this](const Json& request, const ControlServer::Writer& write) {
    return Handle(request, write);
  });
  if (!metrics_) return absl::OkStatus();
  return metrics_->Serve([this] { return MetricsText(Stats()); });
}

Daemon::~Daemon() { (void)Stop(); }

absl::Status Daemon::OpenSockets(Estate* estate) {
  const std::optional<Account>& account = options_.privileges.account;
  const ControlAccess access{
      .user = account ? account->uid : ::geteuid(),
      .group = options_.control_group.value_or(account ? account->gid : ::getegid())};
  ASSIGN_OR_RETURN(control_,
                   ControlServer::Open(options_.control_path, access, estate->Take("control")));
  ASSIGN_OR_RETURN(WordsFile words, WordsFile::Open(estate->Take("words")));
  words_.emplace(std::move(words));
  take_over_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!take_over_.valid()) return ErrnoStatus(errno, "create eventfd");
  if (!options_.metrics) return absl::OkStatus();
  ASSIGN_OR_RETURN(metrics_, MetricsServer::Open(*options_.metrics, estate->Take("metrics")));
  return absl::OkStatus();
}

absl::Status Daemon::GiveUp() {
  if (const absl::Status kept = KeepQueueStatsOpen(); !kept.ok()) {
    warnings_.push_back(
        absl::StrCat("what the kernel's queues lose can't be counted (queue_full, "
                     "netlink_overrun): ",
                     kept.message(), ": start it as root or with CAP_DAC_READ_SEARCH"));
  }
  Privileges privileges = options_.privileges;
  privileges.takes_sockets = steering_ != nullptr && !steering_->finds_in_kernel();
  return GiveUpPrivileges(privileges);
}

absl::Status Daemon::StartSteering(Estate* estate) {
  if (options_.steer == SteerMode::kNone) return absl::OkStatus();
  // A target without --on-port and --on-ip needs it too: the listener may be bound to the ingress
  // interface's address, which is not the packet's.
  absl::StatusOr<std::unique_ptr<Steering>> steering = absl::NotFoundError("");
  if (estate->Has("link")) {
    steering = Steering::Inherit({}, {.link = estate->Take("link"),
                                      .flows = estate->Take("flows"),
                                      .listeners = estate->Take("listeners"),
                                      .counters = estate->Take("counters")});
    steering_inherited_ = steering.ok();
    if (!steering.ok()) {
      warnings_.push_back(
          absl::StrCat("flow entries are not taken over: ", steering.status().message()));
    }
  }
  if (!steering_inherited_) steering = Steering::Open({});
  if (!steering.ok()) return steering.status();
  steering_ = std::move(*steering);
  steering_->SetGoneEarlyEvent(&*changed_);
  return absl::OkStatus();
}

absl::Status CheckQueueCount(const std::vector<Target>& targets) {
  size_t count = 0;
  for (const Target& target : targets) count += target.QueueCount();
  if (count <= kMaxQueues) return absl::OkStatus();
  return WithRemedy(absl::InvalidArgumentError(absl::StrCat("start queues: ", count,
                                                            " are more than the ", kMaxQueues,
                                                            " that one process serves, a thread "
                                                            "each")),
                    "Narrow --queue-balance: more queues than processors do not help.");
}

absl::Status Daemon::MakeQueues(Estate* estate) {
  RETURN_IF_ERROR(CheckQueueCount(options_.targets));
  serving_.targets = std::make_shared<const Targets>(options_.targets);
  TellSteering();
  for (const Target& target : *serving_.targets) {
    for (uint32_t n = target.queue_first; n <= target.queue_last; ++n) {
      const auto number = static_cast<uint16_t>(n);
      ASSIGN_OR_RETURN(std::shared_ptr<ServedQueue> queue,
                       ServedQueue::Create(context(), number, n - target.queue_first,
                                           {serving_.targets, &target}, serving_.version,
                                           estate->Take(QueueName(number))));
      serving_.queues.push_back(std::move(queue));
    }
  }
  return absl::OkStatus();
}

void Daemon::TellSteering() {
  if (steering_) steering_->SetOnePolicy(serving_.targets->size() == 1);
}

absl::Status Daemon::RunQueues() {
  for (const auto& queue : serving_.queues) RETURN_IF_ERROR(queue->Run());
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<ServedQueue>> Daemon::StartQueue(
    std::shared_ptr<const Target> target, uint16_t number, uint32_t version) {
  const size_t nth = number - target->queue_first;
  ASSIGN_OR_RETURN(std::shared_ptr<ServedQueue> queue,
                   ServedQueue::Create(context(), number, nth, std::move(target), version));
  RETURN_IF_ERROR(queue->Run());
  return queue;
}

Daemon::Serving Daemon::serving() const {
  const std::lock_guard lock(mutex_);
  return serving_;
}

std::vector<RulesetSpec> SpecsToInstall(const std::vector<Target>& targets) {
  std::vector<RulesetSpec> specs;
  for (const Target& target : targets) {
    if (target.install) specs.push_back(target.ruleset);
  }
  return specs;
}

absl::Status Daemon::StartRules(Estate* estate) {
  for (const Target& target : *serving_.targets) {
    RETURN_IF_ERROR(KernelBears(target.ruleset));
  }
  installed_ = SpecsToInstall(*serving_.targets);
  if (installed_.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(WatchCgroups(installed_));
  if (estate->Has("rules")) {
    absl::StatusOr<InstalledRuleset> ruleset =
        InstalledRuleset::Adopt(estate->Take("rules"), installed_);
    if (ruleset.ok()) {
      ruleset_.emplace(*std::move(ruleset));
      return absl::OkStatus();
    }
    warnings_.push_back(std::string(ruleset.status().message()));
  }
  RETURN_IF_ERROR(NoOtherDaemonHasTheTable(*serving_.targets));
  ASSIGN_OR_RETURN(InstalledRuleset ruleset, InstalledRuleset::Install(installed_));
  ruleset_.emplace(std::move(ruleset));
  return absl::OkStatus();
}

// Before the rules that go by what it sees.
absl::Status Daemon::WatchCgroups(const std::vector<RulesetSpec>& specs) {
  std::vector<std::string> paths;
  for (const RulesetSpec& spec : specs) {
    if (!spec.local_output) continue;
    paths.insert(paths.end(), spec.exclude_cgroups.begin(), spec.exclude_cgroups.end());
  }
  cgroups_.reset();
  if (paths.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(cgroups_, CgroupWatch::Start(std::move(paths)));
  return absl::OkStatus();
}

// The rules go by the cgroups' ids.
void Daemon::FollowCgroups(std::vector<std::string>* sentences) {
  if (!cgroups_ || !ruleset_ || !cgroups_->Changed()) return;
  StopFastPath();
  absl::Status status = ruleset_->Update(installed_);
  status.Update(StartFastPath());
  if (!status.ok()) {
    sentences->push_back(absl::StrCat("an excluded cgroup has changed: ", status.message()));
  }
  WarnOfMissingCgroups(sentences);
}

void Daemon::WarnOfMissingCgroups(std::vector<std::string>* sentences) const {
  if (!cgroups_) return;
  for (const std::string& path : cgroups_->Missing()) {
    sentences->push_back(absl::StrCat("excluded cgroup ", path,
                                      ": there is none now; excluded from when it is made"));
  }
}

absl::Status Daemon::StartFastPath() {
  std::vector<uint16_t> on_ports;
  for (const Target& target : *serving_.targets) {
    if (!target.ruleset.fast_path) continue;
    const std::vector<uint16_t> several = target.spread.AllPorts();
    on_ports.insert(on_ports.end(), several.begin(), several.end());
    if (several.empty()) on_ports.push_back(target.policy.on_port);
  }
  if (on_ports.empty()) return absl::OkStatus();
  NetlinkSocket* const owner = ruleset_ ? ruleset_->nft() : nullptr;
  ASSIGN_OR_RETURN(std::shared_ptr<FastPath> fast,
                   FastPath::Start(mirror_.get(), steering_.get(), &*changed_, on_ports, owner));
  const std::lock_guard lock(mutex_);
  fast_path_ = std::move(fast);
  return absl::OkStatus();
}

std::shared_ptr<FastPath> Daemon::fast_path() const {
  const std::lock_guard lock(mutex_);
  return fast_path_;
}

// When it returns, nobody uses the rules' socket any more: who reads its counts has done with them.
void Daemon::StopFastPath() {
  std::shared_ptr<FastPath> fast;
  {
    const std::lock_guard lock(mutex_);
    fast.swap(fast_path_);
  }
  if (fast != nullptr) fast->Stop();
}

std::vector<std::string> Daemon::warnings() const {
  std::vector<std::string> all = warnings_;
  if (ruleset_) all.insert(all.end(), ruleset_->warnings().begin(), ruleset_->warnings().end());
  WarnOfMissingCgroups(&all);
  return all;
}

std::vector<std::string> Daemon::Tick() {
  if (steering_) steering_->Expire(MonotonicNs());
  last_losses_ = CountLosses();
  std::vector<std::string> sentences = loss_log_.Tell(last_losses_, MonotonicNs());
  for (std::string& sentence :
       port_watch_.Tell(*serving_.targets, mirror_->table(), *mirror_->interfaces().Get())) {
    sentences.push_back(std::move(sentence));
  }
  RestoreRules(&sentences);
  FollowCgroups(&sentences);
  WarnOfOtherProtocols(&sentences);
  WarnOfQueuedAgain(&sentences);
  return sentences;
}

// A TPROXY rule takes TCP or UDP only; a queue rule takes what it is told, and neighbour discovery
// or ICMP that it takes by mistake is dropped.
void Daemon::WarnOfOtherProtocols(std::vector<std::string>* sentences) {
  uint64_t others = 0;
  for (const auto& queue : serving_.queues) {
    if (queue->target()->policy.on_miss != OnMiss::kDrop) continue;
    others += queue->worker().counters().reasons[static_cast<size_t>(Reason::kNotTcpOrUdp)].value();
  }
  if (others == 0 || warned_of_protocols_) return;
  warned_of_protocols_ = true;
  sentences->push_back(
      "packets that are neither TCP nor UDP were dropped (reason not_tcp_or_udp): the queue rule "
      "takes them too, ICMP and neighbour discovery among them. Give it -p tcp or -p udp");
}

// With --local-output this host's own packets come with the mark, as they should.
void Daemon::WarnOfQueuedAgain(std::vector<std::string>* sentences) {
  uint64_t again = 0;
  for (const auto& queue : serving_.queues) {
    const std::shared_ptr<const Target> target = queue->target();
    if (target->policy.mark_mask == 0 || target->ruleset.local_output) continue;
    again += queue->worker().counters().marked_before.value();
  }
  if (again == 0 || warned_of_queued_again_) return;
  warned_of_queued_again_ = true;
  sentences->push_back(
      "packets come with the target's mark already (\"marked_before\" in 'utproxy stats -j'): a "
      "second rule queues what has been decided, or something else sets that mark");
}

absl::Status Daemon::Health() const {
  for (const auto& queue : serving_.queues) {
    if (queue->worker().running()) continue;
    return absl::InternalError(absl::StrCat("queue ", queue->number(), ": its thread has ended"));
  }
  return absl::OkStatus();
}

std::vector<Beat> Daemon::Beats() {
  std::vector<Beat> beats = {{"the mirror of sockets", mirror_->beats()}};
  if (const std::shared_ptr<FastPath> fast = fast_path()) {
    beats.push_back({"the fast path", fast->beats()});
  }
  for (const auto& queue : serving_.queues) {
    beats.push_back({absl::StrCat("queue ", queue->number()), queue->worker().beats()});
    queue->Probe();
  }
  return beats;
}

std::string Daemon::Summary() const {
  StatsTotals totals = serving_.past_of_gone;
  for (const auto& [name, past] : serving_.past) totals.Add(past);
  for (const auto& queue : serving_.queues) totals.Add(queue->Totals());
  uint64_t lost = 0;
  for (const uint64_t count : last_losses_.counts) lost += count;
  return absl::StrCat(totals.packets, " packets, ", totals.dropped, " dropped, ", lost, " lost; ",
                      serving_.queues.size(), " queues");
}

absl::Status Daemon::Stop() {
  if (leaves_) {
    const absl::Status paused = Pause();
    Abandon();
    return paused;
  }
  absl::Status status;
  // The kernel empties all queues when a chain goes, so first only the rules do; then the queues
  // are drained; the chains go last.
  StopFastPath();  // before the rules, whose socket it uses
  if (ruleset_) status.Update(ruleset_->StopQueueing());
  for (const auto& queue : serving_.queues) status.Update(queue->Stop());
  if (ruleset_) status.Update(ruleset_->Remove());
  ruleset_.reset();
  EndTakeOver();
  control_.reset();  // before what they read
  metrics_.reset();
  serving_ = Serving();
  mirror_.reset();
  steering_.reset();
  return status;
}

Losses Daemon::CountLosses() const {
  const Serving now = serving();
  Losses losses = now.past_losses;
  for (const auto& queue : now.queues) losses.Add(queue->CountLosses());
  return losses;
}

Json Daemon::Stats() const {
  const Serving now = serving();
  StatsBuilder stats(MonotonicNs() - started_ns_);
  stats.SetConfiguration(now.version);
  stats.AddTotals(now.past_of_gone);
  const std::shared_ptr<const InterfaceSnapshot> interfaces = mirror_->interfaces().Get();
  for (const Target& target : *now.targets) {
    stats.AddTarget(target.name, StatsTotals());
    if (!target.spread.active()) continue;
    stats.AddPorts(target.name, PortStatusOf(target, mirror_->table(), *interfaces));
  }
  for (const auto& [name, totals] : now.past) stats.AddTarget(name, totals);
  for (const auto& queue : now.queues) {
    const std::string name = queue->target()->name;
    stats.AddTarget(name, queue->Totals());
    stats.AddQueue(name, queue->worker());
  }
  stats.SetLosses(CountLosses());
  stats.SetMirror(mirror_->stats(), MonotonicNs());
  if (steering_) stats.SetSteering(steering_->stats(), steering_->listener_error());
  if (const std::shared_ptr<FastPath> fast = fast_path()) stats.SetFastPath(*fast);
  return stats.Build();
}

absl::StatusOr<Target> Daemon::FindTarget(const std::string& name) const {
  const Serving now = serving();
  for (const Target& target : *now.targets) {
    if (name.empty() || target.name == name) return target;
  }
  return absl::NotFoundError("explain: no such target");
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
  if (command == "take_over") return HandleTakeOver(write);
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
  for (const Socket& socket : SocketsInOrder(mirror_->table())) {
    if (!write(ToJson(socket, names, std::nullopt))) return gone;
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
  return TraceStream(
             std::move(request), [this] { return TraceSources(); }, mirror_.get())
      .Run(write);
}

std::vector<TraceSource> Daemon::TraceSources() const {
  std::vector<TraceSource> sources;
  for (const std::shared_ptr<ServedQueue>& queue : serving().queues) {
    sources.push_back({.recorder = {queue, &queue->recorder()},
                       .target = [queue](uint32_t number) { return queue->TargetOf(number); },
                       .queue = queue->number()});
  }
  return sources;
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
  ASSIGN_OR_RETURN(const Target target,
                   FindTarget(named ? request["target"].get<std::string>() : ""));
  ASSIGN_OR_RETURN(const std::unique_ptr<Explainer> explainer,
                   Explainer::Open(steering_ ? steering_->program_id() : 0));
  ASSIGN_OR_RETURN(Explanation live, explainer->Mirror(packet, target.policy, target.spread,
                                                       mirror_->table(), *interfaces));
  if (write.trusted()) ExplainSteering(packet, &live);  // puts the listener into the map
  ASSIGN_OR_RETURN(const Explanation exact, explainer->Exact(packet, target.policy, target.spread));
  const InterfaceNames names = [&](uint32_t i) { return interfaces->NameOf(i); };
  Json answer = ToJson(live, packet, names, OwnersByInode(), "mirror");
  answer["target"] = target.name;
  answer["differs"] = DifferencesOf(live.decision, exact.decision, names);
  (void)write(answer);
  return absl::OkStatus();
}

}  // namespace utproxy
