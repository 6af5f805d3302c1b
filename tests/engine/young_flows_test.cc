// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/young_flows.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <vector>

#include "support/memory.h"

namespace utproxy {
namespace {

FlowKey Flow(uint32_t n) {
  return {.local = Address::FromIpv4(1),
          .remote = Address::FromIpv4(n),
          .local_port = 80,
          .remote_port = 1};
}

TEST(YoungFlowsTest, KnowsAListenerForAMoment) {
  YoungFlows young;
  EXPECT_FALSE(young.Has(Flow(1)));
  young.Note(Flow(1), 1000);
  EXPECT_TRUE(young.Has(Flow(1)));
  EXPECT_EQ(young.ListenerOf(Flow(1), 1000), 0u);
  young.NoteListener(Flow(1), 7, 1000);
  EXPECT_EQ(young.ListenerOf(Flow(1), 999 + YoungFlows::kTrustNs), 7u);
  EXPECT_EQ(young.ListenerOf(Flow(1), 1000 + YoungFlows::kTrustNs), 0u);
  EXPECT_FALSE(young.Has(Flow(2)));
}

// A configuration's deciders go while what was made after them stays.
TEST(YoungFlowsTest, GiveTheirMemoryBack) {
  if (!testing::kAllocatorIsReal) GTEST_SKIP() << "a sanitizer's allocator keeps what is freed";
  if (testing::AnonymousKb() < 0) GTEST_SKIP() << "no /proc/self/smaps_rollup";
  const auto filled = [] {
    auto young = std::make_unique<YoungFlows>();
    for (uint32_t n = 0; n < 1 << 18; ++n) young->Note(Flow(n), 1);
    return young;
  };
  filled().reset();  // malloc has no mapping for each any more, where it is malloc's
  const long before = testing::AnonymousKb();
  std::vector<std::unique_ptr<YoungFlows>> all;
  std::vector<std::unique_ptr<std::array<char, 96>>> others;
  for (int i = 0; i < 8; ++i) {
    all.push_back(filled());
    others.push_back(std::make_unique<std::array<char, 96>>());
  }
  const long most = testing::AnonymousKb();
  all.clear();
  const long after = testing::AnonymousKb();
  EXPECT_GT(most - before, 8 * 1024);
  EXPECT_LT(after - before, 512) << before << " kB, " << most << " kB, then " << after << " kB";
}

}  // namespace
}  // namespace utproxy
