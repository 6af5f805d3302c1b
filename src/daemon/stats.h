// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_STATS_H_
#define UTPROXY_DAEMON_STATS_H_

#include <absl/status/status.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "daemon/fast_path.h"
#include "daemon/json.h"
#include "daemon/losses.h"
#include "engine/decider.h"
#include "mirror/mirror.h"
#include "queue/worker.h"
#include "steer/steering.h"

namespace utproxy {

// Puts together the object of `utproxy stats -j`: totals on top, the same by target, and a part
// for each queue, the losses, the mirror and steering.
class StatsBuilder {
 public:
  explicit StatsBuilder(int64_t uptime_ns) : uptime_ns_(uptime_ns) {}

  void AddQueue(const std::string& target, const QueueWorker& worker,
                const DeciderCounters& decider);
  void SetLosses(const Losses& losses) { losses_ = losses; }
  void SetMirror(const MirrorStats& stats, int64_t now_ns);
  void SetSteering(const Steering::Stats& stats, const absl::Status& listener_error);
  void SetFastPath(const FastPath& fast_path);
  Json Build() const;

 private:
  struct Totals {
    uint64_t packets = 0, bytes = 0, accepted = 0, dropped = 0, marked = 0, truncated = 0;
    std::array<uint64_t, kReasonCount> reasons{};
    uint64_t by_mirror = 0, by_cache = 0, by_exact = 0, over_budget = 0, exact_queries = 0;
    uint64_t time_wait_ended = 0, time_wait_end_failed = 0, steered = 0;
    std::array<uint64_t, 40> decide_ns{};  // log2 histogram

    void Add(const WorkerCounters& worker, const DeciderCounters& decider);
    void PutInto(Json* json) const;
    Json Latency() const;
  };

  const int64_t uptime_ns_;
  Totals totals_;
  std::vector<std::pair<std::string, Totals>> targets_;
  Json queues_ = Json::array();
  Losses losses_;
  Json mirror_;
  Json steering_;
  Json fast_path_;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_STATS_H_
