// SPDX-License-Identifier: GPL-3.0-or-later
#include "utproxy/socket_table_layout.h"

#include <gtest/gtest.h>

#include <array>
#include <random>

#include "table_testing.h"

namespace utproxy {
namespace {

TEST(SocketTableLayout, MatchFindsEachTagAndNothingElse) {
  using table_internal::Bucket;
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    // Few different bytes, so that there is something to find; 0, 0x7f, 0x80, 0xff among them.
    constexpr uint8_t kBytes[] = {0, 1, 0x7f, 0x80, 0x81, 0xff};
    Bucket bucket{};
    std::array<uint8_t, 16> tags;
    for (int s = 0; s < 16; ++s) {
      tags[s] = kBytes[random() % 6];
      bucket.tags[s / 8] |= uint64_t{tags[s]} << s % 8 * 8;
    }
    for (const uint8_t tag : kBytes) {
      uint32_t expected = 0;
      for (int s = 0; s < 16; ++s) expected |= uint32_t{tags[s] == tag} << s;
      ASSERT_EQ(table_internal::Match(bucket, tag), expected);
      ASSERT_EQ(table_internal::MatchPortable(bucket.tags[0], bucket.tags[1], tag), expected);
    }
  }
}

TEST(SocketTableLayout, BucketsDivideTheHashes) {
  for (const uint64_t count : {16, 17, 1000, 89651, 2000003}) {
    const table_internal::Array array{.heads = nullptr, .entries = nullptr, .count = count};
    EXPECT_EQ(array.FirstHash(0), 0u);
    EXPECT_EQ(array.FirstHash(count), uint64_t{1} << 32);
    for (uint64_t i = 1; i < count; i += 1 + count / 1000) {
      const auto first = static_cast<uint32_t>(array.FirstHash(i));
      ASSERT_EQ(array.IndexOf(first), i);
      ASSERT_EQ(array.IndexOf(first - 1), i - 1);
    }
  }
}

TEST(FlowHash, DependsOnEveryBitAndOnTheSecret) {
  const auto a = FlowHash::Create(), b = FlowHash::Create();
  ASSERT_TRUE(a.ok() && b.ok());
  const FlowKey key = FlowSocket(5, 0).key();
  EXPECT_EQ((*a)(key), (*a)(FlowKey(key)));
  EXPECT_NE((*a)(key), (*b)(key));
  for (size_t bit = 0; bit < 37 * 8; ++bit) {
    FlowKey other = key;
    reinterpret_cast<uint8_t*>(&other)[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    EXPECT_NE((*a)(key) >> 32, (*a)(other) >> 32) << bit;
  }
}

}  // namespace
}  // namespace utproxy
