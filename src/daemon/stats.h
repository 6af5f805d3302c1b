// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_STATS_H_
#define UTPROXY_DAEMON_STATS_H_

#include <absl/status/status.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "daemon/fast_path.h"
#include "daemon/json.h"
#include "daemon/losses.h"
#include "daemon/port_watch.h"
#include "engine/decider.h"
#include "mirror/mirror.h"
#include "queue/worker.h"
#include "steer/steering.h"

namespace utproxy {

// What queues have done; sums of counters. A plain value.
struct StatsTotals {
  uint64_t packets = 0, bytes = 0, accepted = 0, dropped = 0, marked = 0, marked_before = 0;
  std::array<uint64_t, kReasonCount> reasons{};
  uint64_t by_mirror = 0, by_cache = 0, by_exact = 0, over_budget = 0, exact_queries = 0;
  uint64_t time_wait_ended = 0, time_wait_end_failed = 0, steered = 0;
  std::array<uint64_t, 40> decide_ns{};  // log2 histogram
  // Packets led to the listener at each of a target's several on-ports.
  std::map<uint16_t, uint64_t> to_port;

  void Add(const WorkerCounters& worker);
  // `spread`: the decider's ports where it has several, else null.
  void Add(const DeciderCounters& decider, const Spread* spread);
  void Add(const StatsTotals& other);
  void Subtract(const StatsTotals& other);
  // packets, bytes, verdicts, reasons, decided_by, time_wait.
  void PutInto(Json* json) const;
  // Percentiles.
  Json Latency() const;

 private:
  template <typename Op>
  void Combine(const StatsTotals& other, Op op);
};

// Puts together the object of `utproxy stats -j`: totals on top, the same by target, and a part
// for each queue, the losses, the mirror and steering.
class StatsBuilder {
 public:
  explicit StatsBuilder(int64_t uptime_ns) : uptime_ns_(uptime_ns) {}

  // Counts that are no target's.
  void AddTotals(const StatsTotals& totals) { totals_.Add(totals); }
  void AddTarget(const std::string& name, const StatsTotals& totals);
  // Its several on-ports, with who listens there now.
  void AddPorts(const std::string& name, std::vector<PortStatus> ports) {
    ports_[name] = std::move(ports);
  }
  void AddQueue(const std::string& target, const QueueWorker& worker);
  void SetLosses(const Losses& losses) { losses_ = losses; }
  void SetConfiguration(uint32_t number) { configuration_ = number; }
  void SetMirror(const MirrorStats& stats, int64_t now_ns);
  void SetSteering(const Steering::Stats& stats, const absl::Status& listener_error);
  void SetFastPath(const FastPath& fast_path);
  Json Build() const;

 private:
  const int64_t uptime_ns_;
  uint32_t configuration_ = 0;
  StatsTotals totals_;
  std::vector<std::pair<std::string, StatsTotals>> targets_;
  std::map<std::string, std::vector<PortStatus>> ports_;
  Json queues_ = Json::array();
  Losses losses_;
  Json mirror_;
  Json steering_;
  Json fast_path_;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_STATS_H_
