// SPDX-License-Identifier: GPL-3.0-or-later
// What does the flight recorder cost a packet by itself? Batches of 64 go through it, with nothing
// between them; what it costs among all else that a packet takes, `drain` tells.
//
// Usage: recorder [PACKETS [ROUNDS]]. Prints nanoseconds a packet, and a sum of what was recorded.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "arguments.h"
#include "base/clock.h"
#include "engine/flight_tap.h"

namespace utproxy {
namespace {

constexpr size_t kBatch = 64;

double Round(size_t packets, bool with_socket, uint64_t* sum) {
  FlightTap tap;
  std::array<uint8_t, 60> bytes{};
  std::array<QueuedPacket, kBatch> queued;
  std::array<Decision, kBatch> decisions;
  for (size_t i = 0; i < kBatch; ++i) {
    queued[i].bytes = bytes;
    queued[i].true_length = bytes.size();
    if (with_socket) decisions[i].socket = Socket{.cookie = i};
  }
  uint32_t id = 0;
  const auto run = [&](size_t count) {
    for (size_t done = 0; done < count; done += kBatch) {
      for (QueuedPacket& q : queued) q.id = id++;
      tap.Decided({.packets = queued, .decisions = decisions, .decided_ns = 1, .took_ns = 64});
    }
  };
  run(FlightRecorder::kDefaultCapacity);  // its memory is touched for the first time
  const int64_t before = MonotonicNs();
  run(packets);
  const auto took = static_cast<double>(MonotonicNs() - before);
  TraceRecord last;
  const uint64_t end = tap.recorder().end();
  if (tap.recorder().Read(end - 1, &last) != FlightRecorder::Result::kRead) std::exit(1);
  *sum += last.id;
  return took / static_cast<double>(packets);
}

int Main(size_t packets, int rounds) {
  uint64_t sum = 0;
  for (const bool with_socket : {false, true}) {
    std::vector<double> ns;
    for (int i = 0; i < rounds; ++i) ns.push_back(Round(packets, with_socket, &sum));
    std::sort(ns.begin(), ns.end());
    std::printf("%s a socket: median %.1f ns a packet, best %.1f\n",
                with_socket ? "with" : "without", ns[ns.size() / 2], ns[0]);
  }
  std::printf("sum %llu\n", static_cast<unsigned long long>(sum));
  return 0;
}

}  // namespace
}  // namespace utproxy

int main(int argc, char** argv) {
  const utproxy::Arguments arguments(argc, argv);
  return utproxy::Main(arguments.Number<size_t>(1, 5'000'000), arguments.Number(2, 5));
}
