// SPDX-License-Identifier: GPL-3.0-or-later
#include "steer/flow_index.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "fake_flow_map.h"

namespace utproxy {
namespace {

using PutResult = FlowIndex::PutResult;
using Target = FlowIndex::Target;

constexpr FlowIndex::Options kOptions{
    .max_flows = 8, .tcp_lifetime_ns = 100, .udp_lifetime_ns = 1000, .evict_idle_ns = 10};

FlowKey Flow(uint16_t port, Proto proto = Proto::kTcp) {
  return {.local = *Address::Parse("192.0.2.1"),
          .remote = *Address::Parse("198.51.100.7"),
          .local_port = 53,
          .remote_port = port,
          .proto = proto};
}

class FlowIndexTest : public ::testing::Test {
 protected:
  PutResult Put(const FlowKey& flow, uint64_t cookie, int64_t now) {
    const Target target{flow, cookie};
    PutResult result;
    index_.Put({&target, 1}, {&result, 1}, now);
    return result;
  }
  std::vector<PutResult> PutAll(const std::vector<Target>& targets, int64_t now) {
    std::vector<PutResult> results(targets.size());
    index_.Put(targets, absl::MakeSpan(results), now);
    return results;
  }

  FakeFlowMap map_{8};
  FlowIndex index_{&map_, kOptions};
};

TEST_F(FlowIndexTest, AdoptedEntriesStandAndEnd) {
  index_.Adopt({Flow(1), 7}, 50);
  EXPECT_EQ(index_.CookieOf(Flow(1)), 7u);
  EXPECT_TRUE(index_.Refresh(Flow(1), 7, 60));
  EXPECT_EQ(index_.stats().entries, 1u);
  EXPECT_EQ(index_.stats().inserted, 0u);
  index_.Expire(159);
  EXPECT_TRUE(index_.Contains(Flow(1)));
  index_.Expire(160);
  EXPECT_FALSE(index_.Contains(Flow(1)));
}

TEST_F(FlowIndexTest, ARepeatTouchesNoMap) {
  EXPECT_EQ(Put(Flow(1), 7, 0), PutResult::kStands);
  EXPECT_EQ(map_.Get(Flow(1)), 7u);
  EXPECT_TRUE(index_.Refresh(Flow(1), 7, 1));
  EXPECT_EQ(Put(Flow(1), 7, 2), PutResult::kStands);
  EXPECT_EQ(map_.writes, 1);
  EXPECT_FALSE(index_.Refresh(Flow(1), 8, 3)) << "another listener is not a repeat";
  EXPECT_FALSE(index_.Refresh(Flow(1, Proto::kUdp), 7, 3));
  EXPECT_EQ(Put(Flow(1), 8, 3), PutResult::kStands);
  EXPECT_EQ(map_.Get(Flow(1)), 8u);
  EXPECT_EQ(index_.stats().entries, 1u);
  EXPECT_EQ(index_.stats().inserted, 1u);
  EXPECT_EQ(index_.stats().rewritten, 1u);
  EXPECT_EQ(index_.stats().refreshed, 2u);
}

TEST_F(FlowIndexTest, ABatchIsOneWrite) {
  const std::vector<Target> batch{{Flow(1), 7}, {Flow(2), 7}, {Flow(3), 9}, {Flow(4), 7}};
  EXPECT_EQ(PutAll(batch, 0), std::vector(4, PutResult::kStands));
  EXPECT_EQ(map_.writes, 1);
  EXPECT_EQ(map_.Get(Flow(3)), 9u);
  EXPECT_EQ(map_.Get(Flow(4)), 7u);
}

TEST_F(FlowIndexTest, AFlowTwiceInABatch) {
  const std::vector<Target> batch{{Flow(1), 7}, {Flow(1), 7}, {Flow(2), 7}, {Flow(2), 8}};
  EXPECT_EQ(PutAll(batch, 0), std::vector(4, PutResult::kStands));
  EXPECT_EQ(index_.stats().entries, 2u);
  EXPECT_EQ(map_.Get(Flow(1)), 7u);
  EXPECT_EQ(map_.Get(Flow(2)), 8u);
}

TEST_F(FlowIndexTest, LifetimesBeginAnewWithEachUse) {
  Put(Flow(1), 7, 0);
  Put(Flow(2), 7, 0);
  Put(Flow(3, Proto::kUdp), 7, 0);
  EXPECT_TRUE(index_.Refresh(Flow(2), 7, 50));
  index_.Expire(99);
  EXPECT_EQ(index_.stats().expired, 0u);
  index_.Expire(100);
  EXPECT_FALSE(index_.Contains(Flow(1)));
  EXPECT_FALSE(map_.Get(Flow(1)));
  EXPECT_TRUE(index_.Contains(Flow(2)));
  index_.Expire(150);
  EXPECT_FALSE(index_.Contains(Flow(2)));
  EXPECT_TRUE(index_.Contains(Flow(3, Proto::kUdp)));
  index_.Expire(1000);
  EXPECT_EQ(index_.stats().expired, 3u);
  EXPECT_EQ(index_.stats().entries, 0u);
  EXPECT_EQ(map_.size(), 0u);
}

TEST(FlowIndex, WholeDestinationsHaveLifetimesOfTheirOwn) {
  FakeFlowMap map(8);
  FlowIndex index(&map, {.max_flows = 8,
                         .tcp_lifetime_ns = 100,
                         .udp_lifetime_ns = 1000,
                         .whole_tcp_lifetime_ns = 10,
                         .whole_udp_lifetime_ns = 50});
  const FlowKey tcp = WholeDestination(Flow(1)), udp = WholeDestination(Flow(1, Proto::kUdp));
  for (const FlowKey& flow : {tcp, udp}) {
    const Target target{flow, 7};
    PutResult result{};
    index.Put({&target, 1}, {&result, 1}, 0);
  }
  index.Expire(10);
  EXPECT_FALSE(index.Contains(tcp));
  EXPECT_TRUE(index.Contains(udp));
  index.Expire(50);
  EXPECT_FALSE(index.Contains(udp));
}

TEST_F(FlowIndexTest, RemoveTakesOneEntryAway) {
  Put(Flow(1), 7, 0);
  Put(Flow(2), 7, 0);
  index_.Remove(Flow(1), 10);
  index_.Remove(Flow(1), 10);
  index_.Remove(Flow(3), 10);
  EXPECT_FALSE(index_.Contains(Flow(1)));
  EXPECT_FALSE(map_.Get(Flow(1)));
  EXPECT_TRUE(index_.Contains(Flow(2)));
  EXPECT_EQ(index_.stats().removed, 1u);
  EXPECT_EQ(index_.stats().entries, 1u);
  Put(Flow(1), 8, 20);
  EXPECT_EQ(map_.Get(Flow(1)), 8u);
}

TEST_F(FlowIndexTest, FullEvictsTheLeastRecentlyUsed) {
  for (uint16_t i = 0; i < 8; ++i) Put(Flow(i), 7, i);
  EXPECT_TRUE(index_.Refresh(Flow(0), 7, 20));
  EXPECT_EQ(PutAll({{Flow(100), 7}, {Flow(101), 7}}, 30), std::vector(2, PutResult::kStands));
  EXPECT_FALSE(index_.Contains(Flow(1)));
  EXPECT_FALSE(index_.Contains(Flow(2)));
  EXPECT_FALSE(map_.Get(Flow(1)));
  EXPECT_TRUE(index_.Contains(Flow(0)));
  EXPECT_TRUE(index_.Contains(Flow(3)));
  EXPECT_EQ(index_.stats().evicted, 2u);
  EXPECT_EQ(Put(Flow(1), 7, 31), PutResult::kStands) << "an evicted flow is written anew";
  EXPECT_EQ(map_.Get(Flow(1)), 7u);
  EXPECT_EQ(map_.overfull, 0);
}

TEST_F(FlowIndexTest, WhatWasUsedAMomentAgoIsNotEvicted) {
  for (uint16_t i = 0; i < 8; ++i) Put(Flow(i), 7, 5);
  EXPECT_EQ(Put(Flow(100), 7, 14), PutResult::kFull);
  EXPECT_EQ(index_.stats().full, 1u);
  EXPECT_TRUE(index_.Contains(Flow(0)));
  EXPECT_EQ(Put(Flow(100), 7, 15), PutResult::kStands);
}

TEST_F(FlowIndexTest, ABatchLargerThanTheMap) {
  std::vector<Target> batch;
  for (uint16_t i = 0; i < 20; ++i) batch.push_back({Flow(i), 7});
  const std::vector<PutResult> results = PutAll(batch, 0);
  EXPECT_EQ(std::count(results.begin(), results.end(), PutResult::kStands), 8);
  EXPECT_EQ(std::count(results.begin(), results.end(), PutResult::kFull), 12);
  EXPECT_EQ(map_.overfull, 0);
}

TEST_F(FlowIndexTest, ARefusedWriteIsReportedAndNotBelieved) {
  map_.RefuseWrites(Flow(2));
  EXPECT_EQ(PutAll({{Flow(1), 7}, {Flow(2), 7}, {Flow(3), 7}}, 0),
            (std::vector{PutResult::kStands, PutResult::kFailed, PutResult::kStands}));
  EXPECT_FALSE(index_.Contains(Flow(2)));
  EXPECT_EQ(index_.stats().entries, 2u);
  map_.RefuseWrites(Flow(1));
  EXPECT_EQ(Put(Flow(1), 8, 1), PutResult::kFailed);
  EXPECT_FALSE(index_.Refresh(Flow(1), 8, 1));
  EXPECT_TRUE(index_.Refresh(Flow(1), 7, 1)) << "the earlier entry stands";
  map_.RefuseNothing();
  EXPECT_EQ(PutAll({{Flow(2), 7}, {Flow(1), 8}}, 2), std::vector(2, PutResult::kStands));
}

TEST_F(FlowIndexTest, ARefusedErasureLeavesTheEntryStanding) {
  Put(Flow(1), 7, 0);
  Put(Flow(2), 7, 0);
  map_.RefuseErasures(Flow(1));
  index_.Expire(100);
  EXPECT_TRUE(index_.Contains(Flow(1)));
  EXPECT_FALSE(index_.Contains(Flow(2)));
  EXPECT_EQ(index_.stats().erase_failed, 1u);
  map_.RefuseNothing();
  index_.Expire(200);
  EXPECT_EQ(map_.size(), 0u);
}

// Random steps against a model that keeps no lists and no shards.
class Model {
 public:
  struct Entry {
    uint64_t cookie;
    int64_t used;
  };
  bool Put(uint16_t port, uint64_t cookie, int64_t now) {
    if (entries_.count(port) == 0 && entries_.size() == kOptions.max_flows && !Evict(now)) {
      return false;
    }
    entries_[port] = {cookie, now};
    return true;
  }
  void Expire(int64_t now) {
    std::erase_if(entries_,
                  [&](const auto& e) { return e.second.used + kOptions.tcp_lifetime_ns <= now; });
  }
  const std::map<uint16_t, Entry>& entries() const { return entries_; }

 private:
  bool Evict(int64_t now) {
    const auto oldest = std::min_element(
        entries_.begin(), entries_.end(),
        [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
    if (now - oldest->second.used < kOptions.evict_idle_ns) return false;
    entries_.erase(oldest);
    return true;
  }
  std::map<uint16_t, Entry> entries_;
};

TEST_F(FlowIndexTest, AgreesWithAModel) {
  std::mt19937 random(42);
  Model model;
  int64_t now = 0;
  int full = 0, stood = 0;
  for (int step = 0; step < 20000; ++step) {
    // No two uses at one time: the order of eviction is defined.
    now += random() % 64 == 0 ? 120 : 1;
    if (random() % 16 == 0) {
      index_.Expire(now);
      model.Expire(now);
    } else {
      const auto port = static_cast<uint16_t>(random() % 12);
      const uint64_t cookie = 1 + random() % 2;
      const bool stands = Put(Flow(port), cookie, now) == PutResult::kStands;
      ASSERT_EQ(stands, model.Put(port, cookie, now)) << step;
      ++(stands ? stood : full);
    }
    ASSERT_EQ(index_.stats().entries, model.entries().size()) << step;
    ASSERT_EQ(map_.size(), model.entries().size()) << step;
    for (const auto& [port, entry] : model.entries()) {
      ASSERT_TRUE(index_.Contains(Flow(port))) << step;
      ASSERT_EQ(map_.Get(Flow(port)), entry.cookie) << step;
    }
  }
  EXPECT_GT(stood, 1000);
  EXPECT_GT(full, 100);
  EXPECT_GT(index_.stats().evicted, 100u);
  EXPECT_GT(index_.stats().expired, 100u);
}

}  // namespace
}  // namespace utproxy
