// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/losses.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace utproxy {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr int64_t kSecond = 1'000'000'000;

TEST(LossLog, TellsAtOnceThenNowAndThenAndAllInTheEnd) {
  LossLog log;
  Losses losses;
  EXPECT_THAT(log.Tell(losses, kSecond), IsEmpty());
  size_t told = 0;
  for (int64_t s = 1; s <= 25; ++s) {
    losses[Loss::kQueueFull] += 100;
    told += log.Tell(losses, s * kSecond).size();
  }
  EXPECT_EQ(told, 3u);  // after 1, 11 and 21 s
  // Nothing new, but the last four have not been told.
  EXPECT_THAT(log.Tell(losses, 30 * kSecond), IsEmpty());
  EXPECT_THAT(log.Tell(losses, 31 * kSecond), ElementsAre(StartsWith("400 packets were dropped")));
  EXPECT_THAT(log.Tell(losses, 60 * kSecond), IsEmpty());
}

TEST(LossLog, EachKindHasItsOwnRate) {
  LossLog log;
  Losses losses;
  losses[Loss::kFlushed] = 1;
  EXPECT_THAT(log.Tell(losses, kSecond), ElementsAre(HasSubstr("removed a chain")));
  losses[Loss::kVerdictError] = 2;
  losses[Loss::kFlushed] = 3;
  EXPECT_THAT(log.Tell(losses, 2 * kSecond), ElementsAre("2 verdicts were refused by the kernel"));
}

TEST(Losses, EachHasAKeyOfItsOwn) { EXPECT_EQ(ToJson(Losses()).size(), kLossCount); }

}  // namespace
}  // namespace utproxy
