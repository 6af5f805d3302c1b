// SPDX-License-Identifier: GPL-3.0-or-later
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include "fake_flow_map.h"
#include "steer/flow_index.h"

namespace utproxy {
namespace {

constexpr uint32_t kMaxFlows = 96;
constexpr uint16_t kFlows = 160;  // more than there is room for
constexpr int64_t kLifetime = 400, kEvictIdle = 40;

FlowKey Flow(uint16_t port) {
  return {
      .local_port = 53, .remote_port = port, .proto = port % 2 == 0 ? Proto::kTcp : Proto::kUdp};
}

class Stress {
 public:
  void Run() {
    std::vector<std::thread> workers;
    for (unsigned seed = 0; seed < 4; ++seed) {
      workers.emplace_back([this, seed] { Work(seed); });
    }
    std::thread expirer([this] {
      while (!stop_) {
        index_.Expire(Now());
        std::this_thread::sleep_for(std::chrono::microseconds(300));
      }
    });
    for (std::thread& worker : workers) worker.join();
    stop_ = true;
    expirer.join();
  }

  // The clock of the test: every step of any thread is a tick.
  int64_t Now() { return clock_.fetch_add(1); }

  void Work(unsigned seed) {
    std::mt19937 random(seed);
    for (int round = 0; round < 300; ++round) {
      std::vector<FlowIndex::Target> batch(1 + random() % 24);
      for (FlowIndex::Target& target : batch) {
        target = {Flow(static_cast<uint16_t>(random() % kFlows)), 1 + random() % 3};
      }
      std::vector<FlowIndex::PutResult> results(batch.size());
      const int64_t start = Now();
      index_.Put(batch, absl::MakeSpan(results), start);
      for (size_t i = 0; i < batch.size(); ++i) {
        if (results[i] == FlowIndex::PutResult::kStands) CheckStands(batch[i].flow, start);
        failed_ += results[i] == FlowIndex::PutResult::kFailed;
      }
    }
  }

  // Without an entry in the map after Put, time must have passed for its expiry or its eviction.
  void CheckStands(const FlowKey& flow, int64_t put_at) {
    ++checked_;
    if (!map_.Get(flow) && clock_ - put_at < kEvictIdle) ++missing_;
  }

  FakeFlowMap map_{kMaxFlows};
  FlowIndex index_{&map_,
                   {.max_flows = kMaxFlows,
                    .tcp_lifetime_ns = kLifetime,
                    .udp_lifetime_ns = 2 * kLifetime,
                    .evict_idle_ns = kEvictIdle}};
  std::atomic<int64_t> clock_{1'000'000};
  std::atomic<bool> stop_{false};
  std::atomic<int> checked_{0}, missing_{0}, failed_{0};
};

TEST(FlowIndexStress, IndexAndMapAgree) {
  Stress stress;
  stress.Run();
  EXPECT_GT(stress.checked_, 0);
  EXPECT_EQ(stress.missing_, 0);
  EXPECT_EQ(stress.failed_, 0);
  EXPECT_EQ(stress.map_.overfull, 0);
  EXPECT_EQ(stress.map_.collisions, 0);
  const FlowIndex::Stats stats = stress.index_.stats();
  EXPECT_GT(stats.evicted, 0u);
  EXPECT_GT(stats.rewritten, 0u);
  EXPECT_EQ(stats.entries, stress.map_.size());
  EXPECT_EQ(stats.inserted - stats.expired - stats.evicted, stats.entries);
  for (uint16_t port = 0; port < kFlows; ++port) {
    const auto cookie = stress.map_.Get(Flow(port));
    EXPECT_EQ(stress.index_.Contains(Flow(port)), cookie.has_value());
    if (cookie) {
      EXPECT_TRUE(stress.index_.Refresh(Flow(port), *cookie, stress.Now())) << port;
    }
  }
  stress.index_.Expire(stress.Now() + 2 * kLifetime + 1);
  EXPECT_EQ(stress.map_.size(), 0u);
}

}  // namespace
}  // namespace utproxy
