// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/trace_json.h"

#include <gtest/gtest.h>

namespace utproxy {
namespace {

constexpr Policy kPolicy{.on_port = 1090, .mark_value = 1, .mark_mask = 0xff};

// A datagram that a transparent listener on port 1090 got.
TraceRecord Hit() {
  TraceRecord record;
  record.packet = {.src = *Address::Parse("10.0.0.2"),
                   .dst = *Address::Parse("203.0.113.80"),
                   .sport = 4000,
                   .dport = 53,
                   .protocol = IPPROTO_UDP};
  record.verdict = Verdict::kAccept;
  record.reason = Reason::kListener;
  record.mark = 1;
  record.looked_up = true;
  record.laddr = *Address::Parse("10.0.0.1");
  record.lport = 1090;
  record.has_socket = true;
  record.socket.proto = Proto::kUdp;
  record.socket.state = SockState::kClose;
  record.socket.local_port = 1090;
  record.socket.flags = Socket::kTransparentKnown | Socket::kTransparent;
  record.socket.cookie = 7;
  return record;
}

Json JsonOf(const TraceRecord& record, const TraceParts& parts = {}) {
  const TraceContext context{.target = "dns",
                             .queue = 3,
                             .policy = kPolicy,
                             .realtime_offset_ns = 1'000'000,
                             .names = [](uint32_t) { return std::string("lan0"); }};
  return ToJson(record, context, parts, nullptr, {});
}

TEST(TraceJson, TellsTheWaitWhereTheKernelStampedThePacket) {
  TraceRecord record = Hit();
  record.decided_ns = 500;
  EXPECT_FALSE(JsonOf(record).contains("wait_ns"));
  record.arrived_ns = 1'000'200;  // CLOCK_REALTIME; decided at 1,000,500 of that clock
  EXPECT_EQ(JsonOf(record)["wait_ns"], 300);
  record.arrived_ns = 1'000'500;
  EXPECT_EQ(JsonOf(record)["wait_ns"], 0);
  record.arrived_ns = 1'000'501;  // the clock was set back in between
  EXPECT_FALSE(JsonOf(record).contains("wait_ns"));
}

TEST(TraceJson, TellsWhatTheKernelWouldDoWithTheSteps) {
  const Json json = JsonOf(Hit());
  EXPECT_EQ(json["kernel"]["xt_TPROXY"], "pins the socket, sets the mark 0x1, accepts");
  EXPECT_FALSE(JsonOf(Hit(), {.steps = false}).contains("kernel"));
  TraceRecord miss = Hit();
  miss.verdict = Verdict::kDrop;
  miss.reason = Reason::kNoSocket;
  miss.mark = 0;
  miss.has_socket = false;
  EXPECT_EQ(JsonOf(miss)["kernel"]["xt_TPROXY"], "drops the packet");
}

TEST(TraceJson, TheDaemonsTroubleIsNotTheKernels) {
  for (const Trouble trouble : {Trouble::kSteerFailed, Trouble::kShed}) {
    TraceRecord record = Hit();
    record.trouble = trouble;
    record.verdict = Verdict::kDrop;
    record.mark = 0;
    const Json json = JsonOf(record);
    EXPECT_EQ(json["verdict"], "drop");
    EXPECT_EQ(json["steps"].back()["result"], "failed");
    EXPECT_EQ(json["kernel"]["xt_TPROXY"], "pins the socket, sets the mark 0x1, accepts");
  }
  TraceRecord unknown = Hit();
  unknown.trouble = Trouble::kExactFailed;
  unknown.verdict = Verdict::kDrop;
  unknown.reason = Reason::kNoSocket;
  unknown.has_socket = false;
  EXPECT_FALSE(JsonOf(unknown).contains("kernel"));
}

}  // namespace
}  // namespace utproxy
