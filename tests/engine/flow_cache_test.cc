// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/flow_cache.h"

#include <gtest/gtest.h>

namespace utproxy {
namespace {

FlowKey Flow(uint16_t port) {
  return {.local = *Address::Parse("192.0.2.1"),
          .remote = *Address::Parse("10.0.0.9"),
          .local_port = 53,
          .remote_port = port,
          .proto = Proto::kUdp};
}

Decision Hit(uint16_t lport, Origin origin = Origin::kExact) {
  return {.verdict = Verdict::kAccept, .lport = lport, .origin = origin};
}

// Longer than what times are rounded by.
constexpr int64_t kTickNs = 10'000'000;

TEST(FlowCache, AnEntryHoldsForItsFlowInterfaceCircumstancesAndTime) {
  FlowCache cache(64);
  cache.Store(Flow(1), 2, 77, 1000, Hit(5));
  const auto find = [&](uint16_t port, uint32_t iif, uint64_t circumstances, int64_t now_ns) {
    return cache.Find(Flow(port), iif, circumstances, now_ns).decision;
  };
  ASSERT_NE(find(1, 2, 77, 2000), nullptr);
  EXPECT_EQ(find(1, 2, 77, 2000)->lport, 5u);
  EXPECT_EQ(find(2, 2, 77, 2000), nullptr);
  EXPECT_EQ(find(1, 3, 77, 2000), nullptr) << "another interface";
  EXPECT_EQ(find(1, 2, 78, 2000), nullptr) << "something changed";
  EXPECT_NE(find(1, 2, 77, FlowCache::kMaxAgeNs - kTickNs), nullptr);
  EXPECT_EQ(find(1, 2, 77, 1000 + FlowCache::kMaxAgeNs), nullptr);
}

TEST(FlowCache, AFlowIsSettledForAWhileAndAGuessIsGoodForThatLong) {
  FlowCache cache(64);
  cache.Store(Flow(1), 2, 77, 0, Hit(5));
  cache.Store(Flow(2), 2, 77, 0, Hit(5, Origin::kOverBudget));
  EXPECT_FALSE(cache.Find(Flow(1), 2, 77, 0).guessed);
  EXPECT_TRUE(cache.Find(Flow(2), 2, 77, 0).guessed);
  const int64_t before = FlowCache::kSettledNs - kTickNs, after = FlowCache::kSettledNs;
  EXPECT_TRUE(cache.Find(Flow(1), 2, 77, before).settled);
  EXPECT_FALSE(cache.Find(Flow(1), 2, 77, after).settled);
  EXPECT_NE(cache.Find(Flow(1), 2, 77, after).decision, nullptr);
  EXPECT_NE(cache.Find(Flow(2), 2, 77, before).decision, nullptr);
  EXPECT_EQ(cache.Find(Flow(2), 2, 77, after).decision, nullptr);
  cache.Settle(Flow(1), 2, after);
  cache.Settle(Flow(3), 2, after);  // not known: nothing to do
  EXPECT_TRUE(cache.Find(Flow(1), 2, 77, after).settled);
  EXPECT_EQ(cache.Find(Flow(1), 2, 77, FlowCache::kMaxAgeNs).decision, nullptr)
      << "settling makes it no younger";
}

TEST(FlowCache, CollidingFlowsPushTheOldestOutAndAreNeverMistaken) {
  FlowCache cache(FlowCache::kWays);  // every flow has the same slots
  for (uint16_t port = 1; port < 100; ++port) {
    cache.Store(Flow(port), 1, 0, port * kTickNs, Hit(port));
    for (uint16_t kept = 1; kept <= port; ++kept) {
      const Decision* found = cache.Find(Flow(kept), 1, 0, port * kTickNs).decision;
      ASSERT_EQ(found != nullptr, kept + FlowCache::kWays > port) << kept << " of " << port;
      if (found != nullptr) {
        EXPECT_EQ(found->lport, kept);
      }
    }
  }
}

// More than it has room for: it forgets, but never mistakes one for another.
TEST(FlowCache, HoldsManyDecisions) {
  FlowCache cache(1 << 14);
  int known = 0;
  for (uint16_t port = 1; port <= 3000; ++port) {
    cache.Store(Flow(port), 1, 0, 0, Hit(port));
    ASSERT_NE(cache.Find(Flow(port), 1, 0, 0).decision, nullptr);
  }
  for (uint16_t port = 1; port <= 3000; ++port) {
    const Decision* found = cache.Find(Flow(port), 1, 0, 0).decision;
    if (found == nullptr) continue;
    EXPECT_EQ(found->lport, port);
    ++known;
  }
  EXPECT_GT(known, 500);
}

}  // namespace
}  // namespace utproxy
