// SPDX-License-Identifier: GPL-3.0-or-later
// A worker's decisions beyond its budget of questions, beside the running kernel's sockets, in a
// namespace of the test's own. A rate of 0 leaves nothing to ask with, however fast the machine is.
#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "decider_fixture.h"

namespace utproxy {
namespace {

using testing::Accept;
using testing::Bind;
using testing::Connect;
using testing::CookieOf;
using testing::Listen;
using testing::LocalPort;

constexpr QueryRates kNone{.known = 0, .syn = 0, .young = 0, .segment = 0, .datagram = 0};

class DeciderBudgetTest : public DeciderFixture {
 protected:
  // Waits until the mirror has what `predicate` looks for among the sockets of this key.
  template <typename Predicate>
  bool AwaitInMirror(const FlowKey& key, Predicate predicate) {
    for (int i = 0; i < 2000; ++i) {
      absl::InlinedVector<Socket, 8> found;
      mirror_->table().FindAll(key, &found);
      if (std::any_of(found.begin(), found.end(), predicate)) return true;
      ::usleep(5000);
    }
    return false;
  }
  bool AwaitInMirror(const UniqueFd& bound, Proto proto) {
    const FlowKey key{.local_port = LocalPort(bound), .proto = proto};
    return AwaitInMirror(key, [&](const Socket& s) { return s.cookie == CookieOf(bound); });
  }

  // Waits until the mirror has no socket of this key.
  bool AwaitGone(const FlowKey& key) {
    for (int i = 0; i < 2000; ++i) {
      if (!mirror_->table().FindOne(key)) return true;
      ::usleep(5000);
    }
    return false;
  }

  static void ExpectEachCountedOnce(const Decider& decider, uint64_t packets) {
    const DeciderCounters& c = decider.counters();
    EXPECT_EQ(c.by_mirror.value() + c.by_cache.value() + c.by_exact.value() + c.over_budget.value(),
              packets);
  }
};

TEST_F(DeciderBudgetTest, BeyondItASynIsTheMirrorsListeners) {
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  ASSERT_TRUE(AwaitInMirror(listener, Proto::kTcp));
  const auto decider = Make({.on_port = LocalPort(listener), .mark_value = 1}, kNone);
  const QueuedPacket syn = Make(Proto::kTcp, "127.0.0.9:4000", "192.0.2.1:80", kTcpSyn);
  const Decision d = One(*decider, syn);
  EXPECT_EQ(d.verdict, Verdict::kAccept);
  EXPECT_EQ(d.reason, Reason::kListener);
  EXPECT_EQ(d.mark, 1u);
  ASSERT_TRUE(d.socket);
  EXPECT_EQ(d.socket->cookie, CookieOf(listener));
  EXPECT_TRUE(steering_->Contains(syn.packet.key(), syn.packet.iif)) << "no mark without its entry";
  EXPECT_EQ(decider->counters().over_budget.value(), 1u);
  EXPECT_EQ(decider->counters().exact_queries.value(), 0u);
}

TEST_F(DeciderBudgetTest, BeyondItAnEntryIsMadeOnlyWhereTheKernelWouldFindAnotherSocket) {
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true, .reuseport = true});
  const uint16_t port = LocalPort(listener);
  const std::string other = absl::StrCat("127.0.0.2:", port);
  const UniqueFd in_the_way = Listen(other.c_str(), {.reuseport = true});
  ASSERT_TRUE(AwaitInMirror(listener, Proto::kTcp));
  const FlowKey bound{.local = ParseEndpoint(other)->address, .local_port = port};
  ASSERT_TRUE(AwaitInMirror(bound, [](const Socket&) { return true; }));
  const auto decider = Make(Policy{.mark_value = 1}, kNone);
  for (const bool needed : {false, true}) {
    const std::string to = needed ? other : absl::StrCat("192.0.2.1:", port);
    const QueuedPacket syn = Make(Proto::kTcp, "127.0.0.9:4000", to, kTcpSyn);
    const Decision d = One(*decider, syn);
    EXPECT_EQ(d.verdict, Verdict::kAccept);
    ASSERT_TRUE(d.socket);
    EXPECT_EQ(d.socket->cookie, CookieOf(listener));
    EXPECT_EQ(steering_->Contains(syn.packet.key(), syn.packet.iif), needed);
  }
  EXPECT_EQ(decider->counters().over_budget.value(), 2u);
}

TEST_F(DeciderBudgetTest, BeyondItAMissIsTheMirrorsToo) {
  const UniqueFd opaque = Listen("0.0.0.0:0");
  ASSERT_TRUE(AwaitInMirror(opaque, Proto::kTcp));
  const uint16_t port = LocalPort(opaque);
  const auto decider = Make({.on_port = port, .mark_value = 1}, kNone);
  for (const uint8_t flags : {kTcpSyn, kTcpAck, kTcpRst}) {
    const Decision d = One(*decider, Make(Proto::kTcp, "127.0.0.9:4000", "192.0.2.1:80", flags));
    EXPECT_EQ(d.verdict, Verdict::kDrop);
    EXPECT_EQ(d.reason, Reason::kNotTransparent);
  }
  const Decision d = One(*decider, Make(Proto::kUdp, "127.0.0.9:4000", "192.0.2.1:80", 0));
  EXPECT_EQ(d.verdict, Verdict::kDrop);
  EXPECT_EQ(d.reason, Reason::kNoSocket);
  EXPECT_EQ(decider->counters().over_budget.value(), 4u);
  EXPECT_EQ(decider->counters().exact_queries.value(), 0u);
}

TEST_F(DeciderBudgetTest, AFloodBuysAsManyQuestionsAsThereAreTokensAndLeavesOthersTheirs) {
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  ASSERT_TRUE(AwaitInMirror(listener, Proto::kTcp));
  const auto decider =
      Make({.on_port = LocalPort(listener), .mark_value = 1},
           {.known = 0, .syn = 1, .young = 1, .segment = 1, .datagram = 1, .burst = 3});
  std::vector<QueuedPacket> packets;
  for (int i = 0; i < 60; ++i) {
    const std::string from = absl::StrCat("127.0.0.9:", 4000 + i);
    packets.push_back(Make(Proto::kTcp, from, "192.0.2.1:80", kTcpSyn));
  }
  for (int i = 0; i < 10; ++i) {  // stray ones
    const std::string from = absl::StrCat("127.0.0.9:", 5000 + i);
    packets.push_back(Make(Proto::kTcp, from, "192.0.2.1:80", kTcpAck));
  }
  // Of a connection whose SYN was among the first.
  packets.push_back(Make(Proto::kTcp, "127.0.0.9:4059", "192.0.2.1:80", kTcpAck));
  packets.push_back(Make(Proto::kUdp, "127.0.0.9:5000", "192.0.2.1:80", 0));
  std::vector<Decision> decisions(packets.size());
  decider->DecideBatch(packets, absl::MakeSpan(decisions));
  EXPECT_EQ(decider->counters().by_exact.value(), 3u + 3 + 1 + 1);
  EXPECT_EQ(decider->counters().over_budget.value(), 57u + 7);
  for (size_t i = 0; i < packets.size() - 1; ++i) {
    EXPECT_EQ(decisions[i].verdict, Verdict::kAccept) << i;
    EXPECT_TRUE(steering_->Contains(packets[i].packet.key(), 1)) << i;
  }
  EXPECT_EQ(decisions.back().reason, Reason::kNoSocket);
  ExpectEachCountedOnce(*decider, packets.size());
  EXPECT_EQ(steering_->stats().flows.entries, 3u + 3 + 1 + 1) << "what was asked about, and one";
}

TEST_F(DeciderBudgetTest, AFloodIsShedWhereTheQueueIsCrowded) {
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  const UniqueFd datagrams = Bind(SOCK_DGRAM, absl::StrCat("0.0.0.0:", LocalPort(listener)).c_str(),
                                  {.transparent = true});
  ASSERT_TRUE(AwaitInMirror(listener, Proto::kTcp));
  ASSERT_TRUE(AwaitInMirror(datagrams, Proto::kUdp));
  const auto decider = Make({.on_port = LocalPort(listener), .mark_value = 1}, kNone);
  const QueuedPacket syn = Make(Proto::kTcp, "127.0.0.9:4000", "192.0.2.1:80", kTcpSyn);
  const QueuedPacket its_ack = Make(Proto::kTcp, "127.0.0.9:4000", "192.0.2.1:80", kTcpAck);
  const QueuedPacket stray = Make(Proto::kTcp, "127.0.0.9:4001", "192.0.2.1:80", kTcpAck);
  const QueuedPacket datagram = Make(Proto::kUdp, "127.0.0.9:4000", "192.0.2.1:80", 0);
  decider->SetCrowded(true);
  EXPECT_EQ(One(*decider, syn).verdict, Verdict::kAccept) << "no flood yet";
  ::usleep(200'000);
  One(*decider, datagram);  // that this is a flood is seen
  for (const QueuedPacket* shed : {&syn, &stray}) {
    const Decision d = One(*decider, *shed);
    EXPECT_EQ(d.verdict, Verdict::kDrop);
    EXPECT_EQ(d.mark, 0u);
  }
  EXPECT_EQ(decider->counters().shed.value(), 2u);
  EXPECT_EQ(One(*decider, its_ack).verdict, Verdict::kAccept) << "of a handshake under way";
  EXPECT_EQ(One(*decider, datagram).verdict, Verdict::kAccept) << "nobody may send it again";
  decider->SetCrowded(false);
  EXPECT_EQ(One(*decider, stray).verdict, Verdict::kAccept);
  EXPECT_EQ(decider->counters().shed.value(), 2u);
}

// A packet to it may be delivered without a mark, and without any decision.
TEST_F(DeciderBudgetTest, BeyondItAnAddressOfTheHostsOwnTakesAnEntryAFlow) {
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  ASSERT_TRUE(AwaitInMirror(listener, Proto::kTcp));
  const auto decider = Make({.on_port = LocalPort(listener), .mark_value = 1}, kNone);
  for (const char* from : {"127.0.0.9:4000", "127.0.0.9:4001"}) {
    const QueuedPacket syn = Make(Proto::kTcp, from, "127.0.0.7:80", kTcpSyn);
    EXPECT_FALSE(steering_->Contains(syn.packet.key(), 1));
    EXPECT_EQ(One(*decider, syn).verdict, Verdict::kAccept);
    EXPECT_TRUE(steering_->Contains(syn.packet.key(), 1));
  }
  EXPECT_EQ(steering_->stats().flows.entries, 2u);
}

// Packets that pass no queue get there too.
TEST_F(DeciderBudgetTest, BeyondItAnAddressThatARouteMakesLocalTakesAnEntryAFlow) {
  ASSERT_EQ(std::system("ip route add local 198.51.100.0/24 dev lo"), 0);
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  ASSERT_TRUE(AwaitInMirror(listener, Proto::kTcp));
  const auto decider = Make({.on_port = LocalPort(listener), .mark_value = 1}, kNone);
  for (const bool local : {true, false}) {
    const std::string to = local ? "198.51.100.1:80" : "198.18.0.1:80";
    const QueuedPacket syn = Make(Proto::kTcp, "127.0.0.9:4000", to, kTcpSyn);
    EXPECT_EQ(One(*decider, syn).verdict, Verdict::kAccept);
    EXPECT_TRUE(steering_->Contains(syn.packet.key(), 1));
    const QueuedPacket another = Make(Proto::kTcp, "127.0.0.9:4001", to, kTcpSyn);
    EXPECT_NE(steering_->Contains(another.packet.key(), 1), local);
  }
}

// The program that was attached first is asked first, and would not leave the flow to the other.
TEST_F(DeciderBudgetTest, BesideAnotherSteeringProgramEachFlowTakesAnEntry) {
  absl::StatusOr<std::unique_ptr<Steering>> other = Steering::Open({});
  ASSERT_TRUE(other.ok()) << other.status();
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  ASSERT_TRUE(AwaitInMirror(listener, Proto::kTcp));
  const auto decider = Make({.on_port = LocalPort(listener), .mark_value = 1}, kNone);
  const QueuedPacket syn = Make(Proto::kTcp, "127.0.0.9:4000", "192.0.2.1:80", kTcpSyn);
  EXPECT_EQ(One(*decider, syn).verdict, Verdict::kAccept);
  const QueuedPacket another = Make(Proto::kTcp, "127.0.0.9:4001", "192.0.2.1:80", kTcpSyn);
  EXPECT_FALSE(steering_->Contains(another.packet.key(), 1));
}

TEST_F(DeciderBudgetTest, WhatTheMirrorDecidedBeyondItIsNotRememberedAsTheKernels) {
  const UniqueFd listener = Bind(SOCK_DGRAM, "0.0.0.0:0", {.transparent = true});
  ASSERT_TRUE(AwaitInMirror(listener, Proto::kUdp));
  const auto decider = Make({.on_port = LocalPort(listener), .mark_value = 1}, kNone);
  const QueuedPacket datagram = Make(Proto::kUdp, "127.0.0.9:4000", "192.0.2.1:53", 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(One(*decider, datagram).verdict, Verdict::kAccept);
  EXPECT_EQ(decider->counters().over_budget.value(), 3u);
  EXPECT_EQ(decider->counters().by_cache.value(), 0u);
}

// The mirror has not dumped connections since this one was made, so it does not know it.
TEST_F(DeciderBudgetTest, SegmentsOfAYoungConnectionAreNotDropped) {
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  ASSERT_TRUE(AwaitInMirror(listener, Proto::kTcp));
  const std::string to = absl::StrCat("127.0.0.1:", LocalPort(listener));
  const UniqueFd client = Connect(SOCK_STREAM, to.c_str());
  const UniqueFd server = Accept(listener);
  const auto decider = Make(Policy{.mark_value = 1}, kNone);
  const std::string from = absl::StrCat("127.0.0.1:", LocalPort(client));
  const Decision d = One(*decider, Make(Proto::kTcp, from, to, kTcpAck));
  EXPECT_EQ(d.verdict, Verdict::kAccept);
  EXPECT_EQ(d.mark, 1u);
}

// There is no connection, and none comes: the segments are the listener's, as a connection's would
// be its own.
TEST_F(DeciderBudgetTest, WhatFollowsASynRestsOnItsAnswerWhileItsListenerIsThere) {
  UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  ASSERT_TRUE(AwaitInMirror(listener, Proto::kTcp));
  const auto decider = Make({.on_port = LocalPort(listener), .mark_value = 1});
  const DeciderCounters& counters = decider->counters();
  const auto segment = [](uint8_t flags) {
    return Make(Proto::kTcp, "127.0.0.9:4000", "192.0.2.1:80", flags);
  };
  // More than there are checks for.
  const std::vector<QueuedPacket> batch(Decider::kCheckBurst + 64, segment(kTcpAck));
  std::vector<Decision> decisions(batch.size());
  uint64_t count = 0;
  for (int round = 0; round < 20 && counters.by_mirror.value() == 0; ++round) {
    EXPECT_EQ(One(*decider, segment(kTcpSyn)).verdict, Verdict::kAccept);
    decider->DecideBatch(batch, absl::MakeSpan(decisions));
    for (const Decision& d : decisions) EXPECT_EQ(d.verdict, Verdict::kAccept);
    count += 1 + batch.size();
  }
  EXPECT_GT(counters.by_mirror.value(), 0u);
  ExpectEachCountedOnce(*decider, count);

  const uint64_t asked = counters.by_exact.value();
  const auto stranger = Make(Proto::kTcp, "127.0.0.9:4001", "192.0.2.1:80", kTcpAck);
  EXPECT_EQ(One(*decider, stranger).verdict, Verdict::kAccept);
  EXPECT_EQ(counters.by_exact.value(), asked + 1) << "no SYN of it was seen";

  listener.reset();
  ASSERT_TRUE(AwaitGone(FlowKey{.local_port = decisions[0].lport}));
  decider->DecideBatch(batch, absl::MakeSpan(decisions));
  for (const Decision& d : decisions) EXPECT_EQ(d.reason, Reason::kNoSocket);
}

class DeciderTimeWaitBudgetTest : public DeciderBudgetTest {
 protected:
  // Leaves a TIME_WAIT of the listener's address and port that the mirror knows; a SYN to it.
  QueuedPacket LeaveTimeWait(const UniqueFd& listener) {
    const std::string to = absl::StrCat("127.0.0.1:", LocalPort(listener));
    UniqueFd client = Connect(SOCK_STREAM, to.c_str());
    UniqueFd server = Accept(listener);
    const std::string from = absl::StrCat("127.0.0.1:", LocalPort(client));
    const QueuedPacket syn = Make(Proto::kTcp, from, to, kTcpSyn);
    const auto asking = Make(Policy{.mark_value = 1}, {});
    (void)One(*asking, Make(Proto::kTcp, from, to, kTcpAck));  // the mirror learns of it
    EXPECT_TRUE(AwaitInMirror(syn.packet.key(), [](const Socket&) { return true; }));
    server.reset();
    client.reset();
    EXPECT_TRUE(
        AwaitInMirror(syn.packet.key(), [](const Socket& socket) { return socket.time_wait(); }));
    return syn;
  }
};

TEST_F(DeciderTimeWaitBudgetTest, ATimeWaitIsAskedAboutFromItsOwnTokens) {
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  const QueuedPacket syn = LeaveTimeWait(listener);
  const auto decider =
      Make(Policy{.mark_value = 1}, {.known = 1, .syn = 0, .young = 0, .segment = 0});
  const Decision d = One(*decider, syn);
  EXPECT_EQ(d.verdict, Verdict::kAccept);
  EXPECT_EQ(d.reason, Reason::kTimeWaitReopened);
  EXPECT_EQ(decider->counters().by_exact.value(), 1u);
  EXPECT_EQ(decider->counters().over_budget.value(), 0u);
  EXPECT_EQ(decider->counters().time_wait_ended.value() +
                decider->counters().time_wait_end_failed.value(),
            1u);
}

TEST_F(DeciderTimeWaitBudgetTest, WithoutTheKernelsAnswerNoTimeWaitIsEnded) {
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  const QueuedPacket syn = LeaveTimeWait(listener);
  const auto decider = Make(Policy{.mark_value = 1}, kNone);
  const Decision d = One(*decider, syn);
  EXPECT_EQ(d.verdict, Verdict::kAccept);
  EXPECT_FALSE(d.kill_time_wait);
  EXPECT_EQ(decider->counters().over_budget.value(), 1u);
  EXPECT_EQ(decider->counters().time_wait_ended.value(), 0u);
  const auto asking = Make(Policy{.mark_value = 1}, {});
  EXPECT_EQ(One(*asking, syn).reason, Reason::kTimeWaitReopened) << "it is still there";
}

}  // namespace
}  // namespace utproxy
