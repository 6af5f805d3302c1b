// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_DAEMON_H_
#define UTPROXY_DAEMON_DAEMON_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/event_fd.h"
#include "daemon/control_server.h"
#include "daemon/estate.h"
#include "daemon/explainer.h"
#include "daemon/fast_path.h"
#include "daemon/json.h"
#include "daemon/losses.h"
#include "daemon/metrics_server.h"
#include "daemon/port_watch.h"
#include "daemon/predecessor.h"
#include "daemon/privileges.h"
#include "daemon/progress.h"
#include "daemon/seldom.h"
#include "daemon/served_queue.h"
#include "daemon/target.h"
#include "daemon/trace_stream.h"
#include "mirror/mirror.h"
#include "ruleset/cgroup_watch.h"
#include "ruleset/ruleset.h"
#include "steer/steering.h"

namespace utproxy {

inline constexpr size_t kMaxQueues = 256;
// Clients that trace at a time: they stay, and others must find a place at the control socket.
inline constexpr int kMaxTraceReaders = 8;

enum class SteerMode : uint8_t { kAuto, kSkLookup, kNone };

struct DaemonOptions {
  std::vector<Target> targets;
  SteerMode steer = SteerMode::kAuto;
  std::string control_path = kDefaultControlPath;
  std::optional<gid_t> control_group;  // may read at the control socket; nullopt: the user's own
  std::optional<Endpoint> metrics;     // where they are served, if anywhere
  Privileges privileges;               // what is given up, but takes_sockets, which turns out
};

// What a daemon goes on with, and the one that has it, where that runs.
struct Inheritance {
  Estate estate;
  std::unique_ptr<Predecessor> predecessor;
};

// InvalidArgument where they have more queues than one process serves.
absl::Status CheckQueueCount(const std::vector<Target>& targets);
// Of the targets whose rules are to be installed.
std::vector<RulesetSpec> SpecsToInstall(const std::vector<Target>& targets);

// The running daemon: the object graph, from the mirror to the rules. Start, Reload, Tick, Stop and
// the destructor are for one thread, in whose network namespace everything happens; the control
// socket's threads read only.
class Daemon {
 public:
  // Starts from the inside out, so that when the rules go in, everything behind them is ready. What
  // takes privileges comes first; then the process gives them up, and threads are made. On an
  // error all that was started is gone again, but not what was given up.
  //
  // With an inheritance it goes on for another daemon, with its queues, rules and flow entries, of
  // which `options.targets` are what it had them for. Where that one runs, it goes on until nothing
  // is left here that can fail, and ends then; packets wait in the queues meanwhile. After an error
  // all that was inherited is as it was.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const DaemonOptions& options,
                                                       Inheritance inheritance = {});
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // Goes over to other targets, at once for each packet: it is decided by one of the
  // configurations, by whose rules it was queued. No packet waits for it. Queues that stay are not
  // closed, new ones are open before rules name them, and old ones are emptied before they are
  // closed. Takes some ten ms, or until the packets of the old rules are answered. After an error
  // everything is as before. Returns sentences about what could not be changed, or not be done.
  absl::StatusOr<std::vector<std::string>> Reload(std::vector<Target> targets);

  // Readable when Tick() should not wait for its second; -1 where there is no such thing.
  int wake_fd() const { return cgroups_ ? cgroups_->fd() : -1; }

  // What another daemon can go on with (estate.h), now.
  Belongings belongings();
  // Text of what configuration that is, for who starts the other daemon.
  absl::Status KeepWords(const std::string& words) { return words_->Write(words); }
  // Readable when another daemon is ready to go on for this one (Predecessor).
  int take_over_fd() const { return take_over_.get(); }
  // Lets it. True where it has: then all is left to it, and Stop() does nothing. Else, as where
  // there is none or it failed, this one goes on.
  bool HandOver();
  // Ends, and leaves queues, rules and flow entries as they are, for whoever has the belongings:
  // packets wait in the queues. Without anybody it is the end of all of them.
  absl::Status Leave();

  // About once a second: ends idle steering entries. Returns sentences about losses for
  // the log, at a bounded rate.
  std::vector<std::string> Tick();

  // An error once a queue's thread has ended: its packets are lost from then on.
  absl::Status Health() const;

  // What tells that the threads without which no packet is decided go on: the mirror's, the fast
  // path's, and each queue's. Each call has those that wait for packets go round once, so that the
  // next one sees it.
  std::vector<Beat> Beats();

  // In a line: packets so far, dropped and lost ones.
  std::string Summary() const;

  // Takes the rules away, answers every queued packet, ends the threads. The first error, if any;
  // it goes on after errors. A second call does nothing.
  absl::Status Stop();

  // What of the start and the installation could not be done and does not matter to the rest:
  // sentences.
  std::vector<std::string> warnings() const;

  // The object of `utproxy stats -j`. Any thread.
  Json Stats() const;

 private:
  using Targets = std::vector<Target>;
  using Queues = std::vector<std::shared_ptr<ServedQueue>>;
  // What a control socket's thread sees of the configuration.
  struct Serving {
    uint32_t version = 1;  // 1 for the first configuration, one more with each other
    std::shared_ptr<const Targets> targets;
    Queues queues;
    // Of queues that are closed, or serve another target now: by targets that there still are, and
    // of those that are gone.
    std::map<std::string, StatsTotals> past;
    StatsTotals past_of_gone;
    Losses past_losses;
  };
  // One Reload.
  struct Change {
    std::shared_ptr<const Targets> targets;
    uint32_t version = 0;
    std::vector<RulesetSpec> specs;
    bool rules_change = false;
    Queues queues;                // all, then
    Queues changed, added, gone;  // of them
    std::vector<std::string> sentences;
  };

  // A daemon that another one is to go on for, as the control socket's thread tells.
  struct Successor {
    enum class Turn : uint8_t {
      kNobodys,
      kAsked,  // the controlling thread's: to send what there is
      kReady,  // the same: to leave it
    };
    std::mutex mutex;  // of all
    std::condition_variable changed;
    Turn turn = Turn::kNobodys;
    const ControlServer::Writer* connection = nullptr;  // null where there is none
    absl::Status result;                                // of the controlling thread's turn
    uint32_t version = 0;                               // of what has been sent
    bool ended = false;                                 // the controlling thread does no more

    // Wakes the controlling thread for its turn, by the eventfd, and waits for the result.
    absl::Status Pass(std::unique_lock<std::mutex>& lock, Turn next, int wake);
  };

  explicit Daemon(const DaemonOptions& options) : options_(options) {}
  absl::Status Begin(Inheritance* inheritance);
  absl::Status GoOnFor(Inheritance* inheritance);
  absl::Status OpenSockets(Estate* estate);
  absl::Status StartSteering(Estate* estate);
  absl::Status GiveUp();
  void TellSteering();
  absl::Status MakeQueues(Estate* estate);
  absl::Status RunQueues();
  absl::Status StartRules(Estate* estate);
  absl::Status StartFastPath();
  absl::Status Pause();
  absl::Status Resume();
  void Abandon();
  void EndTakeOver();
  absl::Status LeaveTo(const ControlServer::Writer& next);
  absl::Status HandleTakeOver(const ControlServer::Writer& write);
  absl::StatusOr<std::shared_ptr<ServedQueue>> StartQueue(std::shared_ptr<const Target> target,
                                                          uint16_t number, uint32_t version);
  Serving serving() const;
  std::shared_ptr<FastPath> fast_path() const;
  void StopFastPath();
  std::vector<TraceSource> TraceSources() const;
  QueueContext context() const { return {mirror_.get(), steering_.get()}; }
  std::shared_ptr<ServedQueue> FindQueue(uint16_t number) const;
  static void KeepHowQueuesAreRead(const Queues& queues, Targets* targets,
                                   std::vector<std::string>* sentences);
  absl::Status PrepareQueues(Change* change);
  void BeginQueues(const Change& change);
  absl::Status SwitchRules(const Change& change);
  void WaitForEarlierPackets(const Change& change);
  void Publish(const Change& change);
  void CloseQueues(Change* change);
  void FinishRules(Change* change);
  absl::Status Handle(const Json& request, const ControlServer::Writer& write);
  absl::Status HandleSockets(const Json& request, const ControlServer::Writer& write);
  absl::Status HandleTrace(const Json& request, const ControlServer::Writer& write);
  absl::Status HandleExplain(const Json& request, const ControlServer::Writer& write);
  absl::StatusOr<Target> FindTarget(const std::string& name) const;
  void ExplainSteering(const Packet& packet, Explanation* explanation);
  absl::Status WatchCgroups(const std::vector<RulesetSpec>& specs);
  void RestoreRules(std::vector<std::string>* sentences);
  void FollowCgroups(std::vector<std::string>* sentences);
  void WarnOfMissingCgroups(std::vector<std::string>* sentences) const;
  void WarnOfOtherProtocols(std::vector<std::string>* sentences);
  void WarnOfQueuedAgain(std::vector<std::string>* sentences);
  Losses CountLosses() const;

  const DaemonOptions options_;
  int64_t started_ns_ = 0;
  std::optional<EventFd> changed_;  // what the fast path goes by; before those that raise it
  std::unique_ptr<Steering> steering_;
  bool steering_inherited_ = false;  // and TakeOver() is to be called
  std::unique_ptr<Mirror> mirror_;
  mutable std::mutex mutex_;
  Serving serving_;  // under mutex_; the controlling thread, which alone writes it, reads without
  std::optional<InstalledRuleset> ruleset_;
  std::vector<RulesetSpec> installed_;    // what ruleset_ has
  std::unique_ptr<CgroupWatch> cgroups_;  // those that installed_ excludes; null without any
  uint32_t last_version_ = 1;             // of the configurations begun, also of those given up
  std::shared_ptr<FastPath> fast_path_;   // after what it uses; under mutex_ as serving_ is
  std::optional<WordsFile> words_;
  UniqueFd take_over_;  // an eventfd
  Successor successor_;
  bool leaves_ = false;  // what it has is another's
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<MetricsServer> metrics_;
  std::atomic<int> trace_readers_{0};
  std::vector<std::string> warnings_;  // of the start
  Losses last_losses_;
  LossLog loss_log_;
  PortWatch port_watch_;
  Seldom restored_;
  Seldom unrestored_;
  bool warned_of_protocols_ = false;
  bool warned_of_queued_again_ = false;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_DAEMON_H_
