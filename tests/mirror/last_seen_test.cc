// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/last_seen.h"

#include <gtest/gtest.h>

namespace utproxy {
namespace {

TEST(LastSeenTest, TheLastWordCounts) {
  LastSeen seen;
  EXPECT_EQ(seen.Find(1, 0), std::nullopt);
  seen.Note(1, false, 0);
  seen.Note(1, true, 1);
  EXPECT_EQ(seen.Find(1, 2), true);
  seen.Note(1, false, 3);
  EXPECT_EQ(seen.Find(1, 4), false);
}

TEST(LastSeenTest, ButNotForEver) {
  LastSeen seen;
  seen.Note(1, true, 0);
  EXPECT_EQ(seen.Find(1, LastSeen::kMaxAgeNs), true);
  EXPECT_EQ(seen.Find(1, LastSeen::kMaxAgeNs + 1), std::nullopt);
}

TEST(LastSeenTest, AsManyAsPromisedAndNotManyMore) {
  LastSeen seen;
  constexpr uint64_t kCount = 5 * LastSeen::kGeneration + 5;
  for (uint64_t cookie = 1; cookie <= kCount; ++cookie) seen.Note(cookie, cookie % 2 == 0, 0);
  uint64_t found = 0;
  for (uint64_t cookie = 1; cookie <= kCount; ++cookie) {
    const std::optional<bool> is = seen.Find(cookie, 0);
    if (kCount - cookie < LastSeen::kGeneration) {
      EXPECT_TRUE(is) << cookie;
    }
    EXPECT_EQ(is.value_or(cookie % 2 == 0), cookie % 2 == 0) << cookie;
    found += is.has_value();
  }
  EXPECT_LE(found, 2 * LastSeen::kGeneration);
}

// An older generation's word does not outlive a newer one's.
TEST(LastSeenTest, TheNewerGenerationGoesFirst) {
  LastSeen seen;
  seen.Note(1, true, 0);
  for (uint64_t cookie = 2; cookie < LastSeen::kGeneration + 10; ++cookie) {
    seen.Note(cookie, true, 0);
  }
  seen.Note(1, false, 0);
  EXPECT_EQ(seen.Find(1, 0), false);
}

}  // namespace
}  // namespace utproxy
