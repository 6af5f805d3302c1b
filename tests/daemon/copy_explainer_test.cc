// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/copy_explainer.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "support/packets.h"

namespace utproxy {
namespace {

Explanation Dropped() {
  Explanation explanation;
  explanation.decision.verdict = Verdict::kDrop;
  explanation.decision.reason = Reason::kNoSocket;
  explanation.steps.push_back({.kind = StepKind::kListener, .result = "none", .why = "w"});
  return explanation;
}

// Copies of one datagram, of which every second one cannot be explained.
class CopyExplainerTest : public ::testing::Test {
 protected:
  std::optional<Json> Next(CopyExplainer* copies) {
    return copies->Explain({.family = AF_INET,
                            .group = 5,
                            .mark = 0xa0,
                            .indev = 2,
                            .arrived_ns = 1'000'000'000,
                            .payload = bytes_});
  }

  CopyExplainer Make(const char* filter, const TraceParts& parts = {}) {
    return CopyExplainer(
        [this](const Packet&) -> absl::StatusOr<Explanation> {
          if (++asked_ % 2 == 0) return absl::InternalError("ask sock_diag: no answer");
          return Dropped();
        },
        5, *Filter::Compile(filter), parts, [](uint32_t) { return std::string("lan0"); });
  }

  const std::vector<uint8_t> bytes_ = testing::Datagram();
  int asked_ = 0;
};

TEST_F(CopyExplainerTest, AFailureIsToldAndCountedAndTheNextIsExplained) {
  CopyExplainer copies = Make("", {.steps = true, .raw = true});
  for (int round = 1; round <= 3; ++round) {
    const std::optional<Json> good = Next(&copies);
    ASSERT_TRUE(good);
    EXPECT_EQ((*good)["verdict"], "drop");
    EXPECT_EQ((*good)["group"], 5);
    EXPECT_TRUE(good->contains("steps"));
    EXPECT_FALSE(good->contains("error"));
    const std::optional<Json> failed = Next(&copies);
    ASSERT_TRUE(failed);
    EXPECT_EQ((*failed)["error"], "ask sock_diag: no answer");
    EXPECT_EQ((*failed)["failed_total"], round);
    EXPECT_EQ((*failed)["time"], "1970-01-01T00:00:01.000000000Z");
    EXPECT_EQ((*failed)["packet"]["dst"], "203.0.113.80");
    EXPECT_EQ((*failed)["packet"]["mark"], "0xa0");
    EXPECT_EQ((*failed)["raw"]["length"], bytes_.size());
    EXPECT_FALSE(failed->contains("verdict"));
  }
}

TEST_F(CopyExplainerTest, TheFilterSaysWhichFailuresAreShownAndNotWhichAreCounted) {
  for (const auto& [filter, shown] :
       {std::pair("dport 53", true), std::pair("dport 54", false), std::pair("verdict drop", true),
        std::pair("verdict accept", true), std::pair("mark 0xa0", true),
        std::pair("iif wan0", false)}) {
    CopyExplainer copies = Make(filter);
    asked_ = 1;
    EXPECT_EQ(Next(&copies).has_value(), shown) << filter;
  }
  CopyExplainer copies = Make("reason fragment or dport 53 and reason no_socket");
  asked_ = 1;
  EXPECT_EQ((*Next(&copies))["failed_total"], 1);
}

TEST_F(CopyExplainerTest, OnlyThePartsAskedFor) {
  CopyExplainer copies = Make("", {.steps = false, .raw = false});
  const std::optional<Json> json = Next(&copies);
  ASSERT_TRUE(json);
  EXPECT_FALSE(json->contains("steps") || json->contains("kernel") || json->contains("raw"));
}

}  // namespace
}  // namespace utproxy
