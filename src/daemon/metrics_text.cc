// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/metrics_text.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_replace.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

namespace utproxy {
namespace {

using Labels = std::initializer_list<std::pair<const char*, std::string>>;

// A label's value, as the format quotes it.
std::string Quoted(const std::string& value) {
  return absl::StrCat(
      "\"", absl::StrReplaceAll(value, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}), "\"");
}

class Writer {
 public:
  // Samples written from here on are this metric's.
  void Metric(const char* name, const char* type, const char* help) {
    name_ = absl::StrCat("utproxy_", name);
    absl::StrAppend(&text_, "# HELP ", name_, " ", help, "\n# TYPE ", name_, " ", type, "\n");
  }
  void Sample(const Labels& labels, const Json& value) {
    absl::StrAppend(&text_, name_);
    const char* separator = "{";
    for (const auto& [label, word] : labels) {
      absl::StrAppend(&text_, std::exchange(separator, ","), label, "=", Quoted(word));
    }
    if (labels.size() != 0) absl::StrAppend(&text_, "}");
    absl::StrAppend(&text_, " ",
                    value.is_boolean() ? Json(value.get<bool>() ? 1 : 0).dump() : value.dump(),
                    "\n");
  }
  void Only(const char* name, const char* type, const char* help, const Json& value) {
    Metric(name, type, help);
    Sample({}, value);
  }
  std::string Take() { return std::move(text_); }

 private:
  std::string name_;
  std::string text_;
};

// One sample a target, of the number that stands at `pointer` of its object.
void ByTarget(Writer& w, const Json& stats, const char* name, const char* help,
              const char* pointer) {
  w.Metric(name, "counter", help);
  for (const auto& [target, object] : stats["targets"].items()) {
    w.Sample({{"target", target}}, object.at(Json::json_pointer(pointer)));
  }
}

// Of targets with several on-ports, each port's packets and whether anybody listens there.
void Ports(Writer& w, const Json& stats) {
  for (const bool packets : {true, false}) {
    bool any = false;
    for (const auto& [target, object] : stats["targets"].items()) {
      if (!object.contains("on_ports")) continue;
      if (!std::exchange(any, true)) {
        if (packets) {
          w.Metric("on_port_packets_total", "counter",
                   "Packets led to the listener at each of a target's several on-ports.");
        } else {
          w.Metric("on_port_listens", "gauge", "Whether a transparent listener is there.");
        }
      }
      for (const Json& port : object["on_ports"]) {
        w.Sample({{"target", target}, {"port", port["port"].dump()}},
                 packets ? port["packets"] : Json(!port["listens"].empty()));
      }
    }
  }
}

// One sample a target and key of the object that stands at `key`.
void ByTargetAnd(Writer& w, const Json& stats, const char* name, const char* help, const char* key,
                 const char* label, std::initializer_list<const char*> words = {}) {
  w.Metric(name, "counter", help);
  for (const auto& [target, object] : stats["targets"].items()) {
    for (const auto& [word, value] : object[key].items()) {
      const auto is = [&w = word](const char* wanted) { return w == wanted; };
      if (words.size() != 0 && std::none_of(words.begin(), words.end(), is)) continue;
      w.Sample({{"target", target}, {label, word}}, value);
    }
  }
}

void Targets(Writer& w, const Json& stats) {
  ByTarget(w, stats, "packets_total", "Packets decided.", "/packets");
  ByTarget(w, stats, "bytes_total", "Bytes of the packets decided, from the IP header.", "/bytes");
  ByTargetAnd(w, stats, "verdicts_total", "Packets by verdict.", "verdicts", "verdict",
              {"accept", "drop"});
  ByTarget(w, stats, "marked_packets_total", "Packets accepted with another mark.",
           "/verdicts/marked");
  ByTargetAnd(w, stats, "reasons_total", "Packets by the reason for their verdict.", "reasons",
              "reason");
  ByTargetAnd(w, stats, "decided_by_total", "Packets by what their decision rests on.",
              "decided_by", "by", {"mirror", "cache", "exact", "over_budget"});
  ByTarget(w, stats, "exact_queries_total", "Questions to the kernel about packets.",
           "/decided_by/exact_queries");
  ByTarget(w, stats, "time_wait_ended_total", "TIME_WAIT sockets ended for a new connection.",
           "/time_wait/ended");
}

void Queues(Writer& w, const Json& stats) {
  static constexpr struct {
    const char *key, *name, *type, *help;
  } kMetrics[] = {
      {"packets", "queue_packets_total", "counter", "Packets read from the queue."},
      {"batches", "queue_batches_total", "counter", "Batches that they came in."},
      {"depth", "queue_depth", "gauge", "Packets that wait for a verdict."},
      {"dropped", "queue_dropped_total", "counter", "Packets lost as the queue was full."},
      {"user_dropped", "queue_user_dropped_total", "counter",
       "Packets lost as the socket buffer was full."}};
  for (const auto& metric : kMetrics) {
    w.Metric(metric.name, metric.type, metric.help);
    for (const Json& queue : stats["queues"]) {
      if (!queue.contains(metric.key)) continue;
      w.Sample({{"target", queue["target"].get<std::string>()}, {"queue", queue["queue"].dump()}},
               queue[metric.key]);
    }
  }
}

Json Seconds(const Json& value, double per_second) { return value.get<double>() / per_second; }

void Mirror(Writer& w, const Json& mirror) {
  w.Only("mirror_sockets", "gauge", "Sockets in the mirror.", mirror["sockets"]);
  w.Only("mirror_bytes", "gauge", "Memory of the mirror.", mirror["bytes"]);
  w.Only("mirror_age_seconds", "gauge", "Time since listeners were read last.",
         Seconds(mirror["age_ms"], 1e3));
  w.Only("mirror_sweep_age_seconds", "gauge", "Time since connections were read last.",
         Seconds(mirror["sweep_age_ms"], 1e3));
  w.Only("mirror_destroy_events_total", "counter", "Ends of sockets told of by the kernel.",
         mirror["destroy_events"]);
  w.Only("mirror_lost_events_total", "counter", "Times that such events were lost.",
         mirror["lost_events"]);
  w.Only("mirror_failures_total", "counter", "Reads of the kernel's sockets that failed.",
         mirror["failures"]);
}

void Steering(Writer& w, const Json& steering) {
  if (steering.is_null()) return;
  w.Only("steering_entries", "gauge", "Flows that the sk_lookup program knows.",
         steering["entries"]);
  w.Only("steering_listeners", "gauge", "Listeners that it can lead to.", steering["listeners"]);
  w.Metric("steering_entry_changes_total", "counter", "Changes of its flows.");
  for (const char* kind :
       {"inserted", "rewritten", "refreshed", "expired", "evicted", "removed", "full", "failed"}) {
    w.Sample({{"kind", kind}}, steering[kind]);
  }
  w.Metric("steering_lookups_total", "counter", "What the sk_lookup program did.");
  for (const char* kind :
       {"steered", "by_destination", "no_entry", "socket_gone", "assign_refused"}) {
    w.Sample({{"kind", kind}}, steering[kind]);
  }
}

void FastPath(Writer& w, const Json& stats) {
  if (!stats.contains("fast_path") || !stats["fast_path"].contains("tcp")) return;
  const Json& fast = stats["fast_path"];
  w.Metric("fast_path_packets_total", "counter", "Packets that the kernel's rules carried.");
  for (const char* proto : {"tcp", "udp"}) w.Sample({{"proto", proto}}, fast[proto]);
  w.Only("fast_path_flushes_total", "counter", "Times that its flows were forgotten.",
         fast["flows_forgotten"]);
  w.Only("fast_path_behind", "gauge", "1 where its sets do not show the last change.",
         fast["behind"]);
}

}  // namespace

std::string MetricsText(const Json& stats) {
  Writer w;
  w.Only("uptime_seconds", "gauge", "Time since the start.", stats["uptime_s"]);
  w.Only("configuration", "gauge", "Number of the configuration, 1 for the first.",
         stats["configuration"]);
  Targets(w, stats);
  Ports(w, stats);
  w.Metric("losses_total", "counter", "Packets lost, or decided without effect, by cause.");
  for (const auto& [kind, count] : stats["losses"].items()) w.Sample({{"kind", kind}}, count);
  // Percentiles since the start; upper bounds of powers of two nanoseconds.
  w.Only("decide_p50_seconds", "gauge", "Half of the packets were decided within it.",
         Seconds(stats["decide_ns"]["p50"], 1e9));
  w.Only("decide_p99_seconds", "gauge", "99 % of the packets were decided within it.",
         Seconds(stats["decide_ns"]["p99"], 1e9));
  w.Only("decide_p999_seconds", "gauge", "99.9 % of the packets were decided within it.",
         Seconds(stats["decide_ns"]["p999"], 1e9));
  Queues(w, stats);
  Mirror(w, stats["mirror"]);
  Steering(w, stats["steering"]);
  FastPath(w, stats);
  return w.Take();
}

}  // namespace utproxy
