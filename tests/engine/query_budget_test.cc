// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/query_budget.h"

#include <gtest/gtest.h>

namespace utproxy {
namespace {

int TakeAll(TokenBucket& bucket) {
  int taken = 0;
  while (bucket.Take()) ++taken;
  return taken;
}

TEST(TokenBucketTest, StartsFull) {
  TokenBucket bucket(100, 7);
  EXPECT_EQ(TakeAll(bucket), 7);
}

TEST(TokenBucketTest, EarnsByTheClockAndNoMoreThanItsBurst) {
  TokenBucket bucket(1000, 50);
  const int64_t start = 123 * kNsPerSec;
  bucket.Refill(start);
  EXPECT_EQ(TakeAll(bucket), 50);
  bucket.Refill(start);
  EXPECT_EQ(TakeAll(bucket), 0);
  bucket.Refill(start + 20 * kNsPerMs);
  EXPECT_EQ(TakeAll(bucket), 20);
  bucket.Refill(start + 30 * kNsPerSec);
  EXPECT_EQ(TakeAll(bucket), 50);
}

TEST(TokenBucketTest, KeepsPartsOfATokenForTheNextCall) {
  TokenBucket bucket(1000, 50);
  bucket.Refill(0);
  TakeAll(bucket);
  int taken = 0;
  // Two thirds of a token each time.
  for (int64_t i = 1; i <= 60; ++i) {
    bucket.Refill(i * 666'667);
    taken += TakeAll(bucket);
  }
  EXPECT_EQ(taken, 40);
}

// On a host that has been up for long, and after a long rest, the product of time and rate does not
// fit 64 bits.
TEST(TokenBucketTest, SavesUpWhereTokensAreShort) {
  TokenBucket bucket(1000, 50, /*together=*/10);
  bucket.Refill(0);
  EXPECT_EQ(TakeAll(bucket), 50) << "none is held back while there are enough";
  bucket.Refill(9'000'000);
  EXPECT_EQ(TakeAll(bucket), 0);
  bucket.Refill(10'000'000);
  EXPECT_EQ(TakeAll(bucket), 10);
  bucket.Refill(49'000'000);
  EXPECT_FALSE(bucket.Take(8)) << "ten takings of eight are more than the burst: all of it";
  bucket.Refill(60'000'000);
  EXPECT_TRUE(bucket.Take(8));
}

TEST(TokenBucketTest, TakesClocksOfAnyValue) {
  constexpr int64_t kYear = 365 * 86400 * kNsPerSec;
  TokenBucket bucket(5000, 256);
  bucket.Refill(kYear);
  EXPECT_EQ(TakeAll(bucket), 256);
  bucket.Refill(kYear + kNsPerMs);
  EXPECT_EQ(TakeAll(bucket), 5);
  bucket.Refill(50 * kYear);
  EXPECT_EQ(TakeAll(bucket), 256);
}

TEST(TokenBucketTest, ARateOfZeroGivesTheBurstOnce) {
  TokenBucket bucket(0, 2);
  EXPECT_EQ(TakeAll(bucket), 2);
  bucket.Refill(kNsPerSec);
  bucket.Refill(9 * kNsPerSec);
  EXPECT_EQ(TakeAll(bucket), 0);
}

TEST(QueryBudgetTest, NoClassTakesFromAnother) {
  QueryBudget budget({.known = 1,
                      .syn = 2,
                      .young = 0,
                      .segment = 0,
                      .datagram = 4,
                      .burst = 3,
                      .datagram_burst = 4});
  budget.Refill(0);
  const auto take_all = [&](QueryClass query) {
    int taken = 0;
    while (budget.Take(query)) ++taken;
    return taken;
  };
  EXPECT_EQ(take_all(QueryClass::kSyn), 3);
  EXPECT_EQ(take_all(QueryClass::kSegment), 0) << "a rate of 0 is no budget at all";
  EXPECT_EQ(take_all(QueryClass::kDatagram), 4);
  EXPECT_EQ(take_all(QueryClass::kKnown), 3);
  budget.Refill(kNsPerSec);
  EXPECT_EQ(take_all(QueryClass::kKnown), 0) << "saved up until the burst is full";
  EXPECT_EQ(take_all(QueryClass::kSyn), 0);
  EXPECT_EQ(take_all(QueryClass::kDatagram), 4);
}

// Asks about `each_ms` packets each millisecond for a second; returns how many were granted.
int GrantedInASecond(QueryBudget& budget, int64_t from_ns, int each_ms) {
  int granted = 0;
  for (int64_t ms = 1; ms <= 1000; ++ms) {
    budget.Refill(from_ns + ms * kNsPerMs);
    for (int i = 0; i < each_ms; ++i) granted += budget.Take(QueryClass::kSyn);
  }
  return granted;
}

TEST(QueryBudgetTest, AFloodIsAskedAboutLessUntilItIsOver) {
  QueryBudget budget({.syn = 1000, .burst = 16});
  int64_t at_ns = 5 * kNsPerSec;
  budget.Refill(at_ns);
  const auto second = [&](int each_ms) {
    const int granted = GrantedInASecond(budget, at_ns, each_ms);
    at_ns += kNsPerSec;
    return granted;
  };
  EXPECT_NEAR(second(1), 1000, 1);
  EXPECT_NEAR(second(3), 1000, 20) << "more than there are tokens for, but no flood";
  EXPECT_FALSE(budget.flooded());
  EXPECT_NEAR(second(20), 100 + 900 / 8, 20);
  EXPECT_TRUE(budget.flooded());
  EXPECT_NEAR(second(20), 1000 / 8, 5);
  EXPECT_NEAR(second(1), 1000 / 8, 5) << "as many as would be granted, but is it over?";
  EXPECT_TRUE(budget.flooded());
  for (int64_t ms = 1; ms <= 300; ++ms) {
    budget.Refill(at_ns + ms * kNsPerMs);
    if (ms % 4 == 0) budget.Take(QueryClass::kSyn);
  }
  EXPECT_FALSE(budget.flooded());
  EXPECT_TRUE(budget.Take(QueryClass::kDatagram)) << "another class is as ever";
}

}  // namespace
}  // namespace utproxy
