// SPDX-License-Identifier: GPL-3.0-or-later
// What a queue costs without a decision: utproxy's own worker threads and system calls, and every
// packet accepted with a mark. The packets to one port can be dropped instead, so that they meet
// the same end as utproxy's misses.
//
// Usage: accept_all QUEUES [DROPPED_PORT [MAXLEN]]. Queues 0 to QUEUES - 1, mark 1. A port of 0
// drops none. Prints "ready" and runs
// until SIGTERM or SIGINT; then prints how many packets it saw and the kernel dropped before it.
#include "queue/accept_all.h"

#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "queue/queue_stats.h"
#include "queue/worker.h"

namespace utproxy {
namespace {

int Main(int queues, uint16_t dropped_port, const QueueOptions& options) {
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  AcceptAll decider(/*mark=*/1, dropped_port);
  std::vector<std::unique_ptr<QueueWorker>> workers;
  for (int i = 0; i < queues; ++i) {
    auto worker = QueueWorker::Create(static_cast<uint16_t>(i), options, &decider);
    if (!worker.ok() || !(*worker)->Start().ok()) {
      std::fprintf(stderr, "accept_all: queue %d: %s\n", i,
                   std::string(worker.status().message()).c_str());
      return 1;
    }
    workers.push_back(std::move(*worker));
  }
  std::printf("ready\n");
  std::fflush(stdout);
  int signal = 0;
  sigwait(&ends, &signal);
  unsigned long long packets = 0, lost = 0;
  for (const auto& worker : workers) {
    const auto kernel = ReadQueueStats(worker->number());
    if (kernel.ok() && kernel->has_value()) lost += (*kernel)->dropped + (*kernel)->user_dropped;
    if (!worker->Stop().ok()) return 1;
    packets += worker->counters().packets.value();
  }
  std::printf("packets %llu lost %llu\n", packets, lost);
  return 0;
}

}  // namespace
}  // namespace utproxy

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: accept_all QUEUES [DROPPED_PORT [MAXLEN]]\n");
    return 2;
  }
  utproxy::QueueOptions options;
  if (argc > 3) options.maxlen = static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10));
  return utproxy::Main(std::atoi(argv[1]), static_cast<uint16_t>(argc > 2 ? std::atoi(argv[2]) : 0),
                       options);
}
