// SPDX-License-Identifier: GPL-3.0-or-later
// What Steer() costs a packet: for flows it has never seen, one by one and in batches, and for
// flows it knows. Time per flow is 1 / items_per_second.
#include <benchmark/benchmark.h>
#include <sched.h>
#include <sys/socket.h>

#include <cstdio>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "kernel_fixture.h"
#include "steer/steering.h"

namespace utproxy {
namespace {

struct Bed {
  UniqueFd listener = Listen(SOCK_DGRAM, "127.0.0.1:1090");
  uint64_t cookie = CookieOf(listener);
  uint32_t inode = InodeOf(listener);
  std::unique_ptr<Steering> steering;
};

std::unique_ptr<Bed> MakeBed(benchmark::State& state, uint32_t max_flows) {
  if (const std::string why = EnterNetns(); !why.empty()) {
    state.SkipWithError(why.c_str());
    return nullptr;
  }
  auto bed = std::make_unique<Bed>();
  auto steering = Steering::Open({.max_flows = max_flows, .evict_idle_ns = 0});
  if (!steering.ok()) {
    state.SkipWithError(steering.status().ToString().c_str());
    return nullptr;
  }
  bed->steering = *std::move(steering);
  return bed;
}

void Number(std::vector<SteerRequest>& requests, const Bed& bed, uint32_t first) {
  for (SteerRequest& request : requests) {
    request = {
        .flow = {.remote = Address::FromIpv4(first++), .local_port = 53, .proto = Proto::kUdp},
        .listener_cookie = bed.cookie,
        .listener_inode = bed.inode};
  }
}

bool AllSteered(const std::vector<SteerResult>& results) {
  for (const SteerResult result : results) {
    if (result != SteerResult::kSteered) return false;
  }
  return true;
}

// Args: batch size, room. With little room every new flow evicts an old one.
void NewFlows(benchmark::State& state) {
  const auto bed = MakeBed(state, static_cast<uint32_t>(state.range(1)));
  if (bed == nullptr) return;
  std::vector<SteerRequest> requests(static_cast<size_t>(state.range(0)));
  std::vector<SteerResult> results(requests.size());
  uint32_t next = 1;
  for (auto _ : state) {
    Number(requests, *bed, next);
    next += static_cast<uint32_t>(requests.size());
    bed->steering->Steer(requests, absl::MakeSpan(results));
    if (!AllSteered(results)) state.SkipWithError("not steered");
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
  state.counters["evicted"] = static_cast<double>(bed->steering->stats().flows.evicted);
}

// Args: batch size, number of flows that are known.
void KnownFlows(benchmark::State& state) {
  const auto bed = MakeBed(state, 1 << 18);
  if (bed == nullptr) return;
  const auto flows = static_cast<uint32_t>(state.range(1));
  std::vector<SteerRequest> requests(static_cast<size_t>(state.range(0)));
  std::vector<SteerResult> results(requests.size());
  uint32_t next = 1;
  const auto step = [&] {
    Number(requests, *bed, next);
    next = next + requests.size() > flows ? 1 : next + static_cast<uint32_t>(requests.size());
    bed->steering->Steer(requests, absl::MakeSpan(results));
  };
  for (uint32_t i = 0; i < flows; i += static_cast<uint32_t>(requests.size())) step();
  const uint64_t inserted = bed->steering->stats().flows.inserted;
  next = 1;
  for (auto _ : state) {
    step();
    if (!AllSteered(results)) state.SkipWithError("not steered");
  }
  if (bed->steering->stats().flows.inserted != inserted) state.SkipWithError("not known");
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

// Arg: entries that all expire at once.
void Expire(benchmark::State& state) {
  const auto bed = MakeBed(state, static_cast<uint32_t>(state.range(0)));
  if (bed == nullptr) return;
  std::vector<SteerRequest> requests(static_cast<size_t>(state.range(0)));
  std::vector<SteerResult> results(requests.size());
  Number(requests, *bed, 1);
  for (auto _ : state) {
    state.PauseTiming();
    bed->steering->Steer(requests, absl::MakeSpan(results));
    state.ResumeTiming();
    bed->steering->Expire(MonotonicNs() + 3600 * kNsPerSec);
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

BENCHMARK(NewFlows)
    ->Args({1, 1 << 20})
    ->Args({8, 1 << 20})
    ->Args({32, 1 << 20})
    ->Args({128, 1 << 20});
BENCHMARK(NewFlows)->Args({1, 1 << 16})->Args({32, 1 << 16});
BENCHMARK(KnownFlows)->ArgsProduct({{1, 32}, {64, 1 << 18}});
BENCHMARK(Expire)->Arg(1 << 16);

}  // namespace
}  // namespace utproxy

BENCHMARK_MAIN();
