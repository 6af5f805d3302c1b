// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/flight_tap.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace utproxy {
namespace {

TEST(FlightTap, KeepsWhatIsKnownOfEachPacketOfABatch) {
  const std::vector<uint8_t> bytes(200, 0x45);
  std::vector<QueuedPacket> packets(3);
  std::vector<Decision> decisions(3);
  for (uint32_t i = 0; i < 3; ++i) {
    packets[i].id = 10 + i;
    packets[i].packet.dport = static_cast<uint16_t>(100 + i);
    packets[i].bytes = absl::MakeConstSpan(bytes).first(20 + 90 * i);
    packets[i].true_length = 1500;
    packets[i].arrived_ns = i == 1 ? 0 : 5000 + i;
    decisions[i].mark = i;
    decisions[i].reason = i == 2 ? Reason::kListener : Reason::kNoSocket;
  }
  FlightTap tap;
  tap.Decided({.packets = packets, .decisions = decisions, .decided_ns = 777, .took_ns = 900});
  ASSERT_EQ(tap.recorder().end(), 3u);
  for (uint32_t i = 0; i < 3; ++i) {
    TraceRecord record;
    ASSERT_EQ(tap.recorder().Read(i, &record), FlightRecorder::Result::kRead);
    EXPECT_EQ(record.id, 10 + i);
    EXPECT_EQ(record.packet.dport, 100 + i);
    EXPECT_EQ(record.mark, i);
    EXPECT_EQ(record.reason, decisions[i].reason);
    EXPECT_EQ(record.decided_ns, 777);
    EXPECT_EQ(record.decide_ns, 300u) << "a third of the batch's";
    EXPECT_EQ(record.arrived_ns, packets[i].arrived_ns) << "no stamp is left from the one before";
    EXPECT_EQ(record.true_length, 1500u);
    EXPECT_EQ(record.captured, std::min<size_t>(packets[i].bytes.size(), kTraceSnapLength));
  }
}

TEST(FlightTap, ABatchOfNothingIsNothing) {
  FlightTap tap;
  tap.Decided({.packets = {}, .decisions = {}, .decided_ns = 1, .took_ns = 1});
  EXPECT_EQ(tap.recorder().end(), 0u);
}

}  // namespace
}  // namespace utproxy
