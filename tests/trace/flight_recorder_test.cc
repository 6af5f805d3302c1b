// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace/flight_recorder.h"

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace utproxy {
namespace {

// A record all of whose words follow from its number, so that a torn one gives itself away.
TraceRecord Make(uint64_t number, size_t captured) {
  TraceRecord record;
  record.decided_ns = static_cast<int64_t>(number);
  record.decide_ns = ~number;
  record.time_wait_cookie = number * 0x9e3779b97f4a7c15u;
  record.id = static_cast<uint32_t>(number);
  record.mark = static_cast<uint32_t>(number) ^ 0x5a5a5a5au;
  record.has_socket = true;
  record.socket.cookie = number + 1;
  const std::vector<uint8_t> bytes(captured, static_cast<uint8_t>(number));
  KeepBytes(bytes, static_cast<uint32_t>(captured), &record);
  return record;
}

void ExpectWhole(const TraceRecord& record, uint64_t number) {
  ASSERT_EQ(record.decided_ns, static_cast<int64_t>(number));
  ASSERT_EQ(record.decide_ns, ~number);
  ASSERT_EQ(record.time_wait_cookie, number * 0x9e3779b97f4a7c15u);
  ASSERT_EQ(record.id, static_cast<uint32_t>(number));
  ASSERT_EQ(record.mark, static_cast<uint32_t>(number) ^ 0x5a5a5a5au);
  ASSERT_EQ(record.socket.cookie, number + 1);
  for (const uint8_t byte : record.payload()) ASSERT_EQ(byte, static_cast<uint8_t>(number));
}

// Random steps against a deque of the last `capacity` records.
TEST(FlightRecorder, AgreesWithAModel) {
  std::mt19937 random(7);
  for (const size_t capacity : {2, 8, 64}) {
    FlightRecorder recorder(capacity);
    ASSERT_EQ(recorder.capacity(), capacity);
    std::deque<size_t> model;  // how much was captured of each
    uint64_t written = 0;
    for (int step = 0; step < 20000; ++step) {
      if (random() % 2 == 0) {
        const size_t captured = random() % (kTraceSnapLength + 1);
        recorder.Append(Make(written++, captured));
        model.push_back(captured);
        if (model.size() > capacity) model.pop_front();
      }
      ASSERT_EQ(recorder.end(), written);
      ASSERT_EQ(recorder.begin(), written - model.size());
      const uint64_t number = random() % (written + 2);
      TraceRecord out;
      const FlightRecorder::Result result = recorder.Read(number, &out);
      if (number >= written) {
        ASSERT_EQ(result, FlightRecorder::Result::kNotYet);
      } else if (number < recorder.begin()) {
        ASSERT_EQ(result, FlightRecorder::Result::kOverwritten);
      } else {
        ASSERT_EQ(result, FlightRecorder::Result::kRead);
        ExpectWhole(out, number);
        ASSERT_EQ(out.captured, model[number - recorder.begin()]);
      }
    }
  }
}

TEST(FlightRecorder, RoundsUpToAPowerOfTwo) {
  EXPECT_EQ(FlightRecorder(0).capacity(), 2u);
  EXPECT_EQ(FlightRecorder(9).capacity(), 16u);
}

// Readers of a small ring that is written as fast as can be: no torn record, and none uncounted.
TEST(FlightRecorder, ReadersAmongWritesSeeWholeRecords) {
  constexpr uint64_t kRecords = 200'000;
  FlightRecorder recorder(16);
  std::atomic<bool> done{false};
  std::atomic<uint64_t> read_at_all{0};
  const auto reader = [&] {
    uint64_t next = 0, read = 0, lost = 0;
    while (next < kRecords) {
      if (done.load(std::memory_order_acquire) && next == recorder.end()) break;
      TraceRecord out;
      switch (recorder.Read(next, &out)) {
        case FlightRecorder::Result::kRead:
          ExpectWhole(out, next);
          ++read;
          ++next;
          break;
        case FlightRecorder::Result::kOverwritten:
          ++lost;
          ++next;
          break;
        case FlightRecorder::Result::kNotYet:
          std::this_thread::yield();
          break;
      }
      if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(read + lost, kRecords);
    read_at_all.fetch_add(read);
  };
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) readers.emplace_back(reader);
  for (uint64_t i = 0; i < kRecords; ++i) {
    recorder.Append(Make(i, i % (kTraceSnapLength + 1)));
    if (i % 64 == 0) std::this_thread::yield();
  }
  done.store(true, std::memory_order_release);
  for (std::thread& thread : readers) thread.join();
  EXPECT_GT(read_at_all.load(), 0u);
}

TEST(TraceRecord, TellsTheDecisionThatItWasMadeOf) {
  Decision decision;
  decision.verdict = Verdict::kAccept;
  decision.reason = Reason::kTimeWaitReopened;
  decision.origin = Origin::kExact;
  decision.listener_looked_up = true;
  decision.kill_time_wait = true;
  decision.lport = 1090;
  decision.mark = 0x1;
  decision.laddr = *Address::Parse("10.0.0.1");
  decision.time_wait_cookie = 9;
  decision.socket = Socket{.local_port = 1090, .state = SockState::kListen, .cookie = 77};
  TraceRecord record;
  Describe(Packet{.mark = 0xa0}, decision, &record);
  const Decision again = record.decision();
  EXPECT_EQ(again.verdict, decision.verdict);
  EXPECT_EQ(again.reason, decision.reason);
  EXPECT_EQ(again.origin, decision.origin);
  EXPECT_EQ(again.trouble, decision.trouble);
  EXPECT_EQ(again.listener_looked_up, decision.listener_looked_up);
  EXPECT_EQ(again.kill_time_wait, decision.kill_time_wait);
  EXPECT_EQ(again.lport, decision.lport);
  EXPECT_EQ(again.mark, decision.mark);
  EXPECT_EQ(again.laddr, decision.laddr);
  EXPECT_EQ(again.time_wait_cookie, decision.time_wait_cookie);
  EXPECT_EQ(again.socket, decision.socket);
  EXPECT_EQ(record.packet.mark, 0xa0u);
}

TEST(TraceRecord, KeepsNoMoreThanThePacketHas) {
  const std::vector<uint8_t> bytes(200, 1);
  TraceRecord record;
  KeepBytes(bytes, 1500, &record);
  EXPECT_EQ(record.captured, kTraceSnapLength);
  EXPECT_EQ(record.true_length, 1500u);
  KeepBytes(bytes, 40, &record);  // a queue may copy more than the packet's own length
  EXPECT_EQ(record.captured, 40u);
  KeepBytes({}, 40, &record);
  EXPECT_EQ(record.captured, 0u);
}

}  // namespace
}  // namespace utproxy
