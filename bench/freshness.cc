// SPDX-License-Identifier: GPL-3.0-or-later
//
// How late is the mirror, and what does it cost, beside connections that come and go?
//
//   freshness SOCKETS RATE SECONDS SAMPLES
//
// In a namespace of its own: SOCKETS idle TCP sockets, and RATE connections a second over lo to a
// listener whose packets a queue's worker decides with the mirror and exact queries, as utproxy
// does. First, for SECONDS, the processor time of the mirror's thread; then, the connections going
// on, SAMPLES of each delay: from the return of a call until the table shows what it did. Prints
// one JSON object. bench/freshness.py runs it for several SOCKETS and RATEs.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/clock.h"
#include "churn/idle.h"
#include "connection_load.h"
#include "engine/decider.h"
#include "freshness_probe.h"
#include "queue/worker.h"
#include "support/netns.h"
#include "support/sockets.h"

namespace utproxy {
namespace {

using bench::ConnectionLoad;
using bench::FreshnessProbe;

constexpr uint16_t kPort = 5000;

// Processor time, in ns, of this process's thread of that name so far; 0 where there is none.
int64_t ThreadTimeNs(const std::string& name) {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string comm;
    std::getline(std::ifstream(task.path() / "comm"), comm);
    int64_t run_ns = 0;
    if (comm == name && std::ifstream(task.path() / "schedstat") >> run_ns) return run_ns;
  }
  return 0;
}

[[noreturn]] void Fail(absl::string_view what) {
  std::fprintf(stderr, "freshness: %s\n", std::string(what).c_str());
  std::exit(1);
}

template <class T>
T Get(absl::StatusOr<T> value) {
  if (!value.ok()) Fail(value.status().message());
  return *std::move(value);
}

// What had happened at one moment.
struct Reading {
  int64_t now_ns, mirror_ns;
  uint64_t connections, queries, packets;
  MirrorStats mirror;
};

void PrintDelays(const char* name, const std::vector<double>& microseconds) {
  std::printf(",\n \"%s\": [", name);
  const char* comma = "";
  for (const double value : microseconds) {
    std::printf("%s%.0f", comma, value);
    comma = ", ";
  }
  std::printf("]");
}

void PrintCosts(size_t sockets, double rate, const Reading& a, const Reading& b) {
  const double seconds = static_cast<double>(b.now_ns - a.now_ns) / 1e9;
  const auto connections = static_cast<double>(b.connections - a.connections);
  const auto each = [&](uint64_t from, uint64_t to) {
    return connections == 0 ? 0.0 : static_cast<double>(to - from) / connections;
  };
  std::printf("{\"table_bytes\": %llu,\n ", static_cast<unsigned long long>(b.mirror.bytes));
  std::printf("\"sockets\": %zu, \"rate\": %.0f, \"seconds\": %.2f, \"connections_per_s\": %.0f,\n",
              sockets, rate, seconds, connections / seconds);
  std::printf(" \"mirror_share\": %.5f, \"queries_per_connection\": %.3f, ",
              static_cast<double>(b.mirror_ns - a.mirror_ns) / 1e9 / seconds,
              each(a.queries, b.queries));
  std::printf("\"packets_per_connection\": %.3f, \"events_per_connection\": %.3f,\n",
              each(a.packets, b.packets), each(a.mirror.destroy_events, b.mirror.destroy_events));
  std::printf(" \"table\": %llu, \"sweep_ms\": %.2f, \"lost_events\": %llu, \"feed_dropped\": %llu",
              static_cast<unsigned long long>(b.mirror.sockets),
              static_cast<double>(b.mirror.sweep_cost_ns) / 1e6,
              static_cast<unsigned long long>(b.mirror.lost_events),
              static_cast<unsigned long long>(b.mirror.feed_dropped));
}

int Main(size_t sockets, double rate, double seconds, int samples) {
  const std::string why = testing::EnterNetns();
  if (!why.empty() || std::system("iptables-nft -t mangle -A PREROUTING -i lo -p tcp --dport 5000 "
                                  "-j NFQUEUE --queue-num 0 >/dev/null 2>&1") != 0) {
    std::fprintf(stderr, "freshness: skipped: needs root, network namespaces and iptables\n");
    return 77;
  }
  const churn::IdleSockets idle(sockets, 0);
  const auto mirror = Get(Mirror::Start({}));
  Decider decider({.on_port = kPort, .mark_value = 1}, mirror.get(),
                  ExactQuerier(Get(DiagClient::Open()), &mirror->table()), nullptr);
  const auto worker = Get(QueueWorker::Create(0, {}, &decider));
  if (!worker->Start().ok()) Fail("the worker does not start");
  ConnectionLoad load(kPort, rate);
  const auto read = [&] {
    return Reading{MonotonicNs(),
                   ThreadTimeNs("utproxy-mirror"),
                   load.connections(),
                   decider.counters().exact_queries.value(),
                   worker->counters().packets.value(),
                   mirror->stats()};
  };
  // Until the load and the sizes of all buffers are steady.
  ::usleep(static_cast<useconds_t>(seconds * 1e5));
  const Reading before = read();
  ::usleep(static_cast<useconds_t>(seconds * 1e6));
  const Reading after = read();
  PrintCosts(sockets, rate, before, after);
  FreshnessProbe probe(&mirror->table(), kPort);
  for (int i = 0; i < samples; ++i) probe.Sample();
  PrintDelays("accept_us", probe.accept_us());
  PrintDelays("close_us", probe.close_us());
  PrintDelays("listen_us", probe.listen_us());
  PrintDelays("close_listener_us", probe.close_listener_us());
  std::printf("}\n");
  load.Stop();
  return worker->Stop().ok() ? 0 : 1;
}

}  // namespace
}  // namespace utproxy

int main(int argc, char** argv) {
  const auto number = [&](int i, double otherwise) {
    return argc > i ? std::strtod(argv[i], nullptr) : otherwise;
  };
  return utproxy::Main(static_cast<size_t>(number(1, 1000)), number(2, 1000), number(3, 5),
                       static_cast<int>(number(4, 50)));
}
