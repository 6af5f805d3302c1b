// SPDX-License-Identifier: GPL-3.0-or-later
//
// Workers come and go, each makes entries, most of which end: what that takes does not grow.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#include "steer/flow_index.h"
#include "support/memory.h"

namespace utproxy {
namespace {

constexpr uint32_t kMany = 20000;
constexpr uint32_t kStays = 64;  // one of so many
constexpr FlowIndex::Options kOptions{.max_flows = 4 * kMany,
                                      .tcp_lifetime_ns = INT64_MAX / 2,
                                      .udp_lifetime_ns = 100,
                                      .evict_idle_ns = 10};

// Takes everything and no memory.
class NoMap final : public FlowMap {
 public:
  size_t Write(absl::Span<const FlowKey> keys, absl::Span<const uint64_t>) override {
    return keys.size();
  }
  size_t Erase(absl::Span<const FlowKey> keys) override { return keys.size(); }
};

FlowKey Flow(uint32_t round, uint32_t i) {
  return {.local = Address::FromIpv4(round),
          .remote = Address::FromIpv4(i),
          .local_port = 53,
          .proto = i % kStays == 0 ? Proto::kTcp : Proto::kUdp};
}

class Workers {
 public:
  ~Workers() {
    go_ = true;
    go_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  // One more, which stays, and with it what it has of malloc.
  void Round() {
    std::atomic<bool> done = false;
    threads_.emplace_back([this, &done, round = static_cast<uint32_t>(threads_.size())] {
      Fill(round);
      done = true;
      done.notify_all();
      go_.wait(false);
    });
    done.wait(false);
    now_ += 100;
    index_.Expire(now_);
  }
  uint64_t entries() const { return index_.stats().entries; }

 private:
  void Fill(uint32_t round) {
    FlowIndex::PutResult result;
    for (uint32_t i = 0; i < kMany; ++i) {
      const FlowIndex::Target target{Flow(round, i), 7};
      index_.Put({&target, 1}, {&result, 1}, now_);
      if (result != FlowIndex::PutResult::kStands) std::abort();
    }
  }

  NoMap map_;
  FlowIndex index_{&map_, kOptions};
  int64_t now_ = 1000;
  std::atomic<bool> go_ = false;
  std::vector<std::thread> threads_;
};

TEST(FlowMemoryTest, IsThatOfTheMostEntriesAtATime) {
  if (!testing::kAllocatorIsReal) GTEST_SKIP() << "a sanitizer's allocator keeps what is freed";
  if (testing::AnonymousKb() < 0) GTEST_SKIP() << "no /proc/self/smaps_rollup";
  Workers workers;
  for (int i = 0; i < 4; ++i) workers.Round();
  const long after_n = testing::AnonymousKb();
  for (int i = 0; i < 4; ++i) workers.Round();
  const long after_2n = testing::AnonymousKb();
  EXPECT_LT(workers.entries(), 2 * kMany);
  // 20,000 entries have 1.6 MB; those that stay 25 kB each time, stacks and the rest as much.
  EXPECT_LT(after_2n - after_n, 1024) << after_n << " kB, then " << after_2n << " kB";
}

}  // namespace
}  // namespace utproxy
