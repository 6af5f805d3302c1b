// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/stats.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/clock.h"
#include "queue/queue_stats.h"
#include "ruleset/fast_path_sets.h"
#include "ruleset/nft_batch.h"

namespace utproxy {
namespace {

// The upper bound of the bucket that holds the share `per_mille` of all packets.
uint64_t Percentile(const std::array<uint64_t, 40>& histogram, uint64_t per_mille) {
  const uint64_t total = std::accumulate(histogram.begin(), histogram.end(), uint64_t{0});
  uint64_t seen = 0;
  for (size_t i = 0; i < histogram.size(); ++i) {
    seen += histogram[i];
    if (total != 0 && seen * 1000 >= total * per_mille) return Log2Histogram<40>::Limit(i);
  }
  return 0;
}

Json QueueJson(const std::string& target, uint16_t number, const WorkerCounters& worker) {
  Json json;
  json["queue"] = number;
  json["target"] = target;
  json["packets"] = worker.packets.value();
  json["batches"] = worker.batches.value();
  const absl::StatusOr<std::optional<QueueStats>> kernel = ReadQueueStats(number);
  if (kernel.ok() && kernel->has_value()) {
    json["depth"] = (*kernel)->depth;
    json["dropped"] = (*kernel)->dropped;
    json["user_dropped"] = (*kernel)->user_dropped;
  }
  return json;
}

Json PortsJson(const std::vector<PortStatus>& ports, const StatsTotals& totals) {
  Json json = Json::array();
  for (const PortStatus& port : ports) {
    const auto count = totals.to_port.find(port.port);
    json.push_back({{"port", port.port},
                    {"backup", port.backup},
                    {"packets", count == totals.to_port.end() ? 0 : count->second},
                    {"listens", port.listens}});
  }
  return json;
}

}  // namespace

void StatsTotals::Add(const WorkerCounters& worker) {
  packets += worker.packets.value();
  bytes += worker.bytes.value();
  accepted += worker.accepted.value();
  dropped += worker.dropped.value();
  marked += worker.marked.value();
  marked_before += worker.marked_before.value();
  for (size_t i = 0; i < reasons.size(); ++i) reasons[i] += worker.reasons[i].value();
  for (size_t i = 0; i < decide_ns.size(); ++i) decide_ns[i] += worker.decide_ns_packets.bucket(i);
}

void StatsTotals::Add(const DeciderCounters& decider, const Spread* spread) {
  for (size_t i = 0; spread != nullptr && i < spread->size(); ++i) {
    to_port[spread->port(i)] += decider.to_port[i].value();
  }
  by_mirror += decider.by_mirror.value();
  by_cache += decider.by_cache.value();
  by_exact += decider.by_exact.value();
  over_budget += decider.over_budget.value();
  exact_queries += decider.exact_queries.value();
  time_wait_ended += decider.time_wait_ended.value();
  time_wait_end_failed += decider.time_wait_end_failed.value();
  steered += decider.steered.value();
}

template <typename Op>
void StatsTotals::Combine(const StatsTotals& other, Op op) {
  for (const auto member :
       {&StatsTotals::packets, &StatsTotals::bytes, &StatsTotals::accepted, &StatsTotals::dropped,
        &StatsTotals::marked, &StatsTotals::marked_before, &StatsTotals::by_mirror,
        &StatsTotals::by_cache, &StatsTotals::by_exact, &StatsTotals::over_budget,
        &StatsTotals::exact_queries, &StatsTotals::time_wait_ended,
        &StatsTotals::time_wait_end_failed, &StatsTotals::steered}) {
    this->*member = op(this->*member, other.*member);
  }
  for (const auto& [port, count] : other.to_port) to_port[port] = op(to_port[port], count);
  std::transform(reasons.begin(), reasons.end(), other.reasons.begin(), reasons.begin(), op);
  std::transform(decide_ns.begin(), decide_ns.end(), other.decide_ns.begin(), decide_ns.begin(),
                 op);
}

void StatsTotals::Add(const StatsTotals& other) { Combine(other, std::plus<uint64_t>()); }

void StatsTotals::Subtract(const StatsTotals& other) { Combine(other, std::minus<uint64_t>()); }

void StatsTotals::PutInto(Json* json) const {
  (*json)["packets"] = packets;
  (*json)["bytes"] = bytes;
  (*json)["verdicts"] = {{"accept", accepted},
                         {"drop", dropped},
                         {"marked", marked},
                         {"marked_before", marked_before}};
  Json& by_reason = (*json)["reasons"];
  for (size_t i = 0; i < reasons.size(); ++i) {
    by_reason[ReasonName(static_cast<Reason>(i))] = reasons[i];
  }
  (*json)["decided_by"] = {{"mirror", by_mirror},
                           {"cache", by_cache},
                           {"exact", by_exact},
                           {"over_budget", over_budget},
                           {"exact_queries", exact_queries}};
  (*json)["time_wait"] = {{"ended", time_wait_ended}, {"end_failed", time_wait_end_failed}};
}

// Powers of two, so each figure is right within a factor of two.
Json StatsTotals::Latency() const {
  return {{"p50", Percentile(decide_ns, 500)},
          {"p99", Percentile(decide_ns, 990)},
          {"p999", Percentile(decide_ns, 999)}};
}

void StatsBuilder::AddTarget(const std::string& name, const StatsTotals& totals) {
  totals_.Add(totals);
  const auto same = [&](const auto& entry) { return entry.first == name; };
  auto it = std::find_if(targets_.begin(), targets_.end(), same);
  if (it == targets_.end()) it = targets_.insert(targets_.end(), {name, StatsTotals{}});
  it->second.Add(totals);
}

void StatsBuilder::AddQueue(const std::string& target, const QueueWorker& worker) {
  queues_.push_back(QueueJson(target, worker.number(), worker.counters()));
}

void StatsBuilder::SetMirror(const MirrorStats& stats, int64_t now_ns) {
  mirror_ = {{"sockets", stats.sockets},
             {"bytes", stats.bytes},
             {"age_ms", (now_ns - stats.last_refresh_ns) / kNsPerMs},
             {"sweep_age_ms", (now_ns - stats.last_sweep_ns) / kNsPerMs},
             {"sweep_cost_us", stats.sweep_cost_ns / 1000},
             {"destroy_events", stats.destroy_events},
             {"lost_events", stats.lost_events},
             {"learned", stats.learned},
             {"feed_dropped", stats.feed_dropped},
             {"rejected", stats.rejected},
             {"failures", stats.failures}};
}

void StatsBuilder::SetSteering(const Steering::Stats& stats, const absl::Status& listener_error) {
  steering_ = {{"entries", stats.flows.entries},
               {"inserted", stats.flows.inserted},
               {"rewritten", stats.flows.rewritten},
               {"refreshed", stats.flows.refreshed},
               {"expired", stats.flows.expired},
               {"evicted", stats.flows.evicted},
               {"removed", stats.flows.removed},
               {"full", stats.flows.full},
               {"failed", stats.flows.failed},
               {"listeners", stats.listeners.held},
               {"listeners_unreachable", stats.listeners.unreachable},
               {"steered", stats.program.steered},
               {"by_destination", stats.program.by_destination},
               {"no_entry", stats.program.no_entry},
               {"socket_gone", stats.program.socket_gone},
               {"assign_refused", stats.program.assign_refused}};
  if (!listener_error.ok()) {
    const absl::string_view message = listener_error.message();
    steering_["listener_error"] = std::string(message);
  }
}

// No figures where there are no rules, or they can't be read.
void StatsBuilder::SetFastPath(const FastPath& fast_path) {
  fast_path_ = Json::object();
  absl::StatusOr<NetlinkSocket> nft = OpenNftSocket();
  if (!nft.ok()) return;
  const absl::StatusOr<std::optional<FastPathCounters>> counters = ReadFastPathCounters(*nft);
  if (!counters.ok() || !counters->has_value()) return;
  fast_path_ = {{"tcp", (*counters)->tcp},
                {"udp", (*counters)->udp},
                {"flows_forgotten", fast_path.flushes()},
                {"behind", fast_path.behind()}};
}

Json StatsBuilder::Build() const {
  Json json;
  json["uptime_s"] = uptime_ns_ / kNsPerSec;
  json["configuration"] = configuration_;
  totals_.PutInto(&json);
  json["decide_ns"] = totals_.Latency();
  json["losses"] = ToJson(losses_);
  json["targets"] = Json::object();
  for (const auto& [name, totals] : targets_) {
    totals.PutInto(&json["targets"][name]);
    const auto ports = ports_.find(name);
    if (ports == ports_.end()) continue;
    json["targets"][name]["on_ports"] = PortsJson(ports->second, totals);
  }
  json["queues"] = queues_;
  json["mirror"] = mirror_;
  json["steering"] = steering_;
  if (!fast_path_.is_null()) json["fast_path"] = fast_path_;
  return json;
}

}  // namespace utproxy
