// SPDX-License-Identifier: GPL-3.0-or-later
#include "queue/queue_stats.h"

#include <gtest/gtest.h>

namespace utproxy {
namespace {

TEST(QueueStats, ReadsTheKernelsLines) {
  const auto all = ParseQueueStats(
      "    0   4711     3 2   256     5     6       77  1\n"
      "65535 4294967295 4294967295 2 65531 1 2 4294967295  1\n");
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].number, 0);
  EXPECT_EQ(all[0].port_id, 4711u);
  EXPECT_EQ(all[0].depth, 3u);
  EXPECT_EQ(all[0].copy_mode, 2u);
  EXPECT_EQ(all[0].copy_range, 256u);
  EXPECT_EQ(all[0].dropped, 5u);
  EXPECT_EQ(all[0].user_dropped, 6u);
  EXPECT_EQ(all[0].last_id, 77u);
  EXPECT_EQ(all[1].number, 65535);
  EXPECT_EQ(all[1].port_id, 4294967295u);
}

TEST(QueueStats, LeavesOutWhatIsNoLine) {
  EXPECT_TRUE(ParseQueueStats("").empty());
  EXPECT_TRUE(ParseQueueStats("\n \n").empty());
  EXPECT_TRUE(ParseQueueStats("1 2 3 4 5 6 7").empty());
  EXPECT_TRUE(ParseQueueStats("65536 1 1 1 1 1 1 1 1").empty());
  EXPECT_TRUE(ParseQueueStats("1 2 3 x 5 6 7 8 1").empty());
  EXPECT_TRUE(ParseQueueStats("1 2 3 4 5 6 7 4294967296 1").empty());
  EXPECT_EQ(ParseQueueStats("1 2 3 4 5 6 7 8").size(), 1u);
}

}  // namespace
}  // namespace utproxy
