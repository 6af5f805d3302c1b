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
  QueryBudget budget({.known = 1, .syn = 2, .young = 0, .segment = 0, .datagram = 4, .burst = 3});
  budget.Refill(0);
  const auto take_all = [&](QueryClass query) {
    int taken = 0;
    while (budget.Take(query)) ++taken;
    return taken;
  };
  EXPECT_EQ(take_all(QueryClass::kSyn), 3);
  EXPECT_EQ(take_all(QueryClass::kSegment), 0) << "a rate of 0 is no budget at all";
  EXPECT_EQ(take_all(QueryClass::kDatagram), 3);
  EXPECT_EQ(take_all(QueryClass::kKnown), 3);
  budget.Refill(kNsPerSec);
  EXPECT_EQ(take_all(QueryClass::kKnown), 1);
  EXPECT_EQ(take_all(QueryClass::kSyn), 2);
  EXPECT_EQ(take_all(QueryClass::kDatagram), 3);
}

}  // namespace
}  // namespace utproxy
