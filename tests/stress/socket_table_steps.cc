// SPDX-License-Identifier: GPL-3.0-or-later
//
// The checks of the stress test, with a schedule in place of threads: the writer is stopped between
// any two of its stores, readers between any two loads. tests/stress/mutants.py leaves parts of the
// table's protocol out and demands that this notices.
#include <gtest/gtest.h>

#include "stress/schedule.h"
#include "stress/table_checks.h"

namespace utproxy {
namespace {

constexpr uint64_t kStores = 2'000'000;

// Of a good hash without a secret, so that a seed's run can be had again, the bits of `kMask`.
template <uint64_t kMask>
struct FixedHash {
  static absl::StatusOr<FixedHash> Create() { return FixedHash(); }
  uint64_t operator()(const FlowKey& key) const {
    uint64_t hash = 0;
    for (int i = 0; i < 5; ++i) {
      hash = (hash ^ table_internal::WordOf(key, i)) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 32;
    }
    return hash * 0xbf58476d1ce4e5b9u & kMask;
  }
};

template <class Hasher>
SocketTableStats Step(uint32_t seed, const Population& of, uint64_t stores = kStores) {
  using Checks = TableChecks<Hasher>;
  Checks checks(of);
  Schedule schedule(seed);
  uint64_t lookups = 0;
  schedule.SetWriter([&] { checks.Write([&](uint32_t) { return !schedule.stopping(); }); });
  for (size_t i = 0; i < Checks::kKinds.size(); ++i) {
    schedule.AddReader([&, i] {
      Random random(static_cast<uint32_t>(i + 1));
      while (!schedule.stopping()) {
        schedule.LookupBegins();
        (checks.*Checks::kKinds[i])(&random);
        ++lookups;
      }
    });
  }
  schedule.Run(stores, [&] { return checks.failures() != 0; });
  EXPECT_EQ(checks.failures(), 0) << checks.first_failure() << ", seed " << seed;
  EXPECT_FALSE(schedule.stuck()) << "a lookup waits for a writer that stands still, seed " << seed;
  EXPECT_GT(lookups, 1000u);
  return checks.stats();
}

// In a head without followers a slot before those in use may be empty.
constexpr Population kOneHead = {.steady = 5, .passing = 6, .group = 2};
constexpr Population kOneChain = {.steady = 12, .passing = 40, .group = 6};
constexpr Population kManyChains = {.steady = 16, .passing = 270, .group = 8};

TEST(SocketTableSteps, OneHead) { Step<FixedHash<uint64_t{0xff} << 32>>(7, kOneHead, 4 * kStores); }

TEST(SocketTableSteps, OneChainOfManyTags) {
  for (const uint32_t seed : {1u, 2u, 3u}) Step<FixedHash<uint64_t{0xff} << 32>>(seed, kOneChain);
}

TEST(SocketTableSteps, OneChainOfOneTag) { Step<ConstantHash<0>>(4, kOneChain); }

TEST(SocketTableSteps, LongChainsThatGrowAndShrink) {
  EXPECT_GE(Step<FixedHash<uint64_t{3} << 62>>(5, kManyChains).rebuilds, 3u);
}

TEST(SocketTableSteps, GoodHash) {
  EXPECT_GE(Step<FixedHash<~uint64_t{0}>>(6, kManyChains).rebuilds, 3u);
}

}  // namespace
}  // namespace utproxy
