// SPDX-License-Identifier: GPL-3.0-or-later
// How much does deciding cost beside the queue itself? Fills the queue while nobody reads, then
// times the draining, so that no sender has to keep up; packets are delivered to a local socket.
// Contestants in turn: a worker that accepts all with a mark, the same with a flight recorder, and
// utproxy's own decisions as in the daemon, with mirror, exact queries, steering and the flight
// recorder.
//
// Usage: drain [PACKETS [ROUNDS [FLOWS [ON_PORT]]]]. Prints a line a round and the medians. The
// packets go to port 5000; utproxy redirects them to ON_PORT (default 5090: steered).
#include <absl/strings/str_cat.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "arguments.h"
#include "base/clock.h"
#include "engine/decider.h"
#include "engine/flight_tap.h"
#include "queue/accept_all.h"
#include "queue/worker.h"
#include "support/sockets.h"

namespace utproxy {
namespace {

constexpr char kAsked[] = "127.0.0.1:5000";
constexpr uint16_t kOnPort = 5090;

size_t Take(const UniqueFd& fd) {
  char data[64];
  size_t n = 0;
  while (::recv(fd.get(), data, sizeof data, MSG_DONTWAIT) >= 0) ++n;
  return n;
}

struct Round {
  double kpps = 0;
  size_t delivered = 0;
};

// Fills a queue of `packets`, all flows in turn, and drains it with `decider`.
Round Drain(BatchDecider* decider, const UniqueFd& listener, size_t packets,
            const std::vector<UniqueFd>& flows, BatchObserver* observer = nullptr) {
  QueueOptions options;
  options.maxlen = static_cast<uint32_t>(packets);
  auto worker = QueueWorker::Create(0, options, decider, observer);
  if (!worker.ok()) {
    std::fprintf(stderr, "%s\n", std::string(worker.status().message()).c_str());
    std::exit(1);
  }
  const char data[22] = {};
  for (size_t i = 0; i < packets; ++i) {
    (void)::send(flows[i % flows.size()].get(), data, sizeof data, 0);
  }
  const int64_t before = MonotonicNs();
  if (!(*worker)->Start().ok() || !(*worker)->Stop().ok()) std::exit(1);
  const double seconds = static_cast<double>(MonotonicNs() - before) / 1e9;
  return {static_cast<double>((*worker)->counters().packets.value()) / seconds / 1e3,
          Take(listener)};
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

UniqueFd BigBuffer(UniqueFd fd) {
  const int bytes = 256 << 20;
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
  return fd;
}

// What one packet takes at `kpps`, in nanoseconds.
double PacketNs(double kpps) { return 1e6 / kpps; }

// A worker that accepts all, whatever `observer` (may be null) does beside it.
Round DrainAcceptingAll(const char* name, size_t packets, const std::vector<UniqueFd>& flows,
                        BatchObserver* observer) {
  AcceptAll decider(/*mark=*/1);
  const UniqueFd at_asked = BigBuffer(testing::Bind(SOCK_DGRAM, kAsked));
  const Round r = Drain(&decider, at_asked, packets, flows, observer);
  std::printf("%-11s %8.0f kpps  %zu delivered\n", name, r.kpps, r.delivered);
  return r;
}

int Main(size_t packets, int rounds, size_t flow_count, uint16_t on_port) {
  rlimit limit{.rlim_cur = 20000, .rlim_max = 20000};
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
  if (!testing::EnterFreshNetns() ||
      std::system("iptables-nft -t mangle -A PREROUTING -i lo -p udp --dport 5000 -j NFQUEUE "
                  "--queue-num 0 >/dev/null 2>&1") != 0) {
    std::fprintf(stderr, "drain: needs root, network namespaces and iptables\n");
    return 77;
  }
  std::vector<UniqueFd> flows;
  for (size_t i = 0; i < flow_count; ++i) flows.push_back(testing::Connect(SOCK_DGRAM, kAsked));
  std::vector<double> all, recorded, ours;
  bool complete = true;
  for (int i = 0; i < rounds; ++i) {
    FlightTap tap;
    const Round plain = DrainAcceptingAll("accept-all", packets, flows, nullptr);
    const Round taped = DrainAcceptingAll("recorded", packets, flows, &tap);
    all.push_back(plain.kpps);
    recorded.push_back(taped.kpps);
    complete = complete && plain.delivered == packets && taped.delivered == packets &&
               tap.recorder().end() == packets;
    const UniqueFd listener = BigBuffer(testing::Bind(
        SOCK_DGRAM, absl::StrCat("127.0.0.1:", on_port).c_str(), {.transparent = true}));
    auto steering = Steering::Open({});
    auto mirror = Mirror::Start({});
    auto client = DiagClient::Open();
    if (!steering.ok() || !mirror.ok() || !client.ok()) return 1;
    Decider decider({.on_port = on_port, .mark_value = 1}, mirror->get(),
                    ExactQuerier(std::move(*client), &(*mirror)->table()), steering->get());
    const Round r = Drain(&decider, listener, packets, flows, &tap);
    ours.push_back(r.kpps);
    complete = complete && r.delivered == packets;
    std::printf("utproxy     %8.0f kpps  %zu delivered, %llu by exact queries\n", r.kpps,
                r.delivered, static_cast<unsigned long long>(decider.counters().by_exact.value()));
  }
  std::printf("median: accept-all %.0f kpps, utproxy %.0f kpps, ratio %.2f\n", Median(all),
              Median(ours), Median(ours) / Median(all));
  std::printf("median: flight recorder %.0f ns a packet\n",
              PacketNs(Median(recorded)) - PacketNs(Median(all)));
  return complete ? 0 : 1;
}

}  // namespace
}  // namespace utproxy

int main(int argc, char** argv) {
  const utproxy::Arguments arguments(argc, argv);
  return utproxy::Main(arguments.Number<size_t>(1, 50000), arguments.Number(2, 5),
                       arguments.Number<size_t>(3, 1), arguments.Number(4, utproxy::kOnPort));
}
