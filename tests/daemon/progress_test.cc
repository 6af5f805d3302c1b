// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace utproxy {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(Progress, TellsWhoStandsStill) {
  Progress progress;
  progress.Look({{"mirror", 1}, {"queue 0", 5}}, 1000);
  EXPECT_THAT(progress.Stuck(1100, 100), IsEmpty());
  progress.Look({{"mirror", 1}, {"queue 0", 6}}, 1080);
  EXPECT_THAT(progress.Stuck(1101, 100), ElementsAre("mirror"));
  progress.Look({{"mirror", 2}, {"queue 0", 6}}, 1150);
  EXPECT_THAT(progress.Stuck(1180, 100), IsEmpty());
  EXPECT_THAT(progress.Stuck(1181, 100), ElementsAre("queue 0"));
}

TEST(Progress, AnyOtherCountIsProgress) {
  Progress progress;
  progress.Look({{"queue 0", UINT64_MAX}}, 0);
  progress.Look({{"queue 0", 0}}, 100);
  EXPECT_THAT(progress.Stuck(150, 100), IsEmpty());
}

TEST(Progress, ForgetsWhoHasGone) {
  Progress progress;
  progress.Look({{"mirror", 1}, {"queue 7", 1}}, 0);
  progress.Look({{"mirror", 2}}, 50);
  EXPECT_THAT(progress.Stuck(1000, 100), ElementsAre("mirror"));
  // One that comes again has all the time anew.
  progress.Look({{"mirror", 3}, {"queue 7", 1}}, 1000);
  EXPECT_THAT(progress.Stuck(1050, 100), IsEmpty());
}

}  // namespace
}  // namespace utproxy
