// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_DAEMON_H_
#define UTPROXY_DAEMON_DAEMON_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/control_server.h"
#include "daemon/explainer.h"
#include "daemon/fast_path.h"
#include "daemon/json.h"
#include "daemon/losses.h"
#include "daemon/target.h"
#include "engine/decider.h"
#include "engine/flight_tap.h"
#include "mirror/mirror.h"
#include "queue/worker.h"
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
};

// The running daemon: the object graph, from the mirror to the rules. Start, Tick, Stop and the
// destructor are for one thread, in whose network namespace everything happens; the control
// socket's thread reads counters only.
class Daemon {
 public:
  // Starts from the inside out, so that when the rules go in, everything behind them is ready. On
  // an error all that was started is gone again.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const DaemonOptions& options);
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // About once a second: ends idle steering entries. Returns sentences about losses that have
  // grown since the last call, for the log.
  std::vector<std::string> Tick();

  // An error once a queue's thread has ended: its packets are lost from then on.
  absl::Status Health() const;

  // Takes the rules away, answers every queued packet, ends the threads. The first error, if any;
  // it goes on after errors. A second call does nothing.
  absl::Status Stop();

  // What of the installation could not be done and does not matter to the rest: sentences.
  std::vector<std::string> warnings() const;

  // The object of `utproxy stats -j`. Any thread.
  Json Stats() const;

 private:
  struct Queue {
    const Target* target;
    std::unique_ptr<Decider> decider;
    std::unique_ptr<FlightTap> tap;
    std::unique_ptr<QueueWorker> worker;  // after what it calls: it goes first
  };

  explicit Daemon(const DaemonOptions& options) : options_(options) {}
  absl::Status StartSteering();
  absl::Status StartQueues();
  absl::Status StartRules();
  absl::Status StartFastPath();
  absl::Status StartQueue(const Target& target, uint16_t number);
  absl::Status Handle(const Json& request, const ControlServer::Writer& write);
  absl::Status HandleSockets(const Json& request, const ControlServer::Writer& write);
  absl::Status HandleTrace(const Json& request, const ControlServer::Writer& write);
  absl::Status HandleExplain(const Json& request, const ControlServer::Writer& write);
  const Target* FindTarget(const std::string& name) const;
  void ExplainSteering(const Packet& packet, Explanation* explanation);
  void WarnOfOtherProtocols(std::vector<std::string>* sentences);
  Losses CountLosses() const;

  const DaemonOptions options_;
  int64_t started_ns_ = 0;
  std::unique_ptr<Steering> steering_;
  std::unique_ptr<Mirror> mirror_;
  std::vector<Queue> queues_;
  std::optional<InstalledRuleset> ruleset_;
  std::unique_ptr<FastPath> fast_path_;  // after what it uses
  std::unique_ptr<ControlServer> control_;
  std::atomic<int> trace_readers_{0};
  Losses last_losses_;
  bool warned_of_protocols_ = false;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_DAEMON_H_
