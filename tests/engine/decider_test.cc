// SPDX-License-Identifier: GPL-3.0-or-later
// A worker's decisions against the running kernel's sockets, in a namespace of the test's own.
#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "decider_fixture.h"

namespace utproxy {
namespace {

using testing::Accept;
using testing::Bind;
using testing::Connect;
using testing::CookieOf;
using testing::Listen;
using testing::LocalPort;

using DeciderTest = DeciderFixture;

TEST_F(DeciderTest, AHitOnAnotherPortHasItsFlowEntryWhenItIsDecided) {
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  const auto decider = Make({.on_port = LocalPort(listener), .mark_value = 1});
  const QueuedPacket syn = Make(Proto::kTcp, "127.0.0.9:4000", "192.0.2.1:80", kTcpSyn);
  const Decision d = One(*decider, syn);
  EXPECT_EQ(d.verdict, Verdict::kAccept);
  EXPECT_EQ(d.socket->cookie, CookieOf(listener));
  EXPECT_TRUE(steering_->Contains(syn.packet.key(), syn.packet.iif));
  EXPECT_EQ(decider->counters().by_exact.value(), 1u);
}

// The new listener is always there before the old one goes: the kernel would find one at any time,
// but where it is interrupted on the way (see MirrorNetnsTest.AListenerThatClosesIsNotTheLast).
TEST_F(DeciderTest, AListenerThatIsReplacedAllTheTimeIsNeverMissed) {
  UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true, .reuseport = true});
  const uint16_t port = LocalPort(listener);
  // All of them asked about, however fast the machine is.
  const auto decider = Make({.on_port = port, .mark_value = 1}, {.syn = 1'000'000, .burst = 3000});
  std::atomic<bool> stop = false;
  std::thread replacer([&] {
    const std::string at = absl::StrCat("0.0.0.0:", port);
    while (!stop) {
      listener = Listen(at.c_str(), {.transparent = true, .reuseport = true});
      ::usleep(50);
    }
  });
  int dropped = 0;
  for (uint16_t i = 0; i < 3000; ++i) {
    const std::string from = absl::StrCat("127.0.0.9:", 1024 + i);
    const Decision d = One(*decider, Make(Proto::kTcp, from, "192.0.2.1:80", kTcpSyn));
    dropped += d.verdict == Verdict::kDrop;
  }
  stop = true;
  replacer.join();
  EXPECT_LE(dropped, 15);
  EXPECT_EQ(decider->counters().by_exact.value(), 3000u) << "each packet is counted once";
}

TEST_F(DeciderTest, AHitAtThePacketsOwnAddressAndPortNeedsNone) {
  const UniqueFd listener = Listen("127.0.0.1:0", {.transparent = true});
  const auto decider = Make(Policy{.mark_value = 1});
  const QueuedPacket syn =
      Make(Proto::kTcp, "127.0.0.9:4000", absl::StrCat("127.0.0.1:", LocalPort(listener)), kTcpSyn);
  EXPECT_EQ(One(*decider, syn).verdict, Verdict::kAccept);
  EXPECT_FALSE(steering_->Contains(syn.packet.key(), syn.packet.iif));
}

TEST_F(DeciderTest, LaterDatagramsOfAFlowAreRememberedUntilSomethingChanges) {
  UniqueFd listener = Bind(SOCK_DGRAM, "0.0.0.0:0", {.transparent = true});
  const auto decider = Make({.on_port = LocalPort(listener), .mark_value = 1});
  const QueuedPacket datagram = Make(Proto::kUdp, "127.0.0.9:4000", "192.0.2.1:53", 0);
  const DeciderCounters& counters = decider->counters();
  // More in one batch than there can be checks for, so that the cache has to answer too, however
  // slow the machine is. A change in between makes it forget; then once more.
  const std::vector<QueuedPacket> batch(Decider::kCheckBurst + 64, datagram);
  std::vector<Decision> decisions(batch.size());
  uint64_t count = 0;
  for (int round = 0; round < 20 && counters.by_cache.value() == 0; ++round) {
    EXPECT_EQ(One(*decider, datagram).verdict, Verdict::kAccept);
    decider->DecideBatch(batch, absl::MakeSpan(decisions));
    for (const Decision& d : decisions) EXPECT_EQ(d.verdict, Verdict::kAccept);
    count += 1 + batch.size();
  }
  EXPECT_GT(counters.by_cache.value(), 0u);
  EXPECT_EQ(counters.by_cache.value() + counters.by_exact.value() + counters.by_mirror.value(),
            count)
      << "each packet is counted once, by what decided it";
  listener.reset();
  bool dropped = false;
  for (int i = 0; i < 400 && !dropped; ++i) {
    dropped = One(*decider, datagram).reason == Reason::kNoSocket;
    ::usleep(5000);
  }
  EXPECT_TRUE(dropped);
}

TEST_F(DeciderTest, ADropIsNeverRemembered) {
  const UniqueFd placeholder = Bind(SOCK_DGRAM, "127.0.0.1:0");
  const uint16_t port = LocalPort(placeholder);
  const auto decider = Make({.on_port = port, .mark_value = 1});
  const QueuedPacket datagram = Make(Proto::kUdp, "127.0.0.9:4000", "192.0.2.1:53", 0);
  EXPECT_EQ(One(*decider, datagram).reason, Reason::kNotTransparent);
  const int on = 1;
  ASSERT_EQ(::setsockopt(placeholder.get(), SOL_IP, IP_TRANSPARENT, &on, sizeof on), 0);
  EXPECT_EQ(One(*decider, datagram).verdict, Verdict::kAccept) << "at once, not a refresh later";
}

TEST_F(DeciderTest, SwitchingTransparencyOffIsSeenWithTheNextPacket) {
  const UniqueFd listener = Listen("127.0.0.1:0", {.transparent = true});
  const std::string to = absl::StrCat("127.0.0.1:", LocalPort(listener));
  const UniqueFd client = Connect(SOCK_STREAM, to.c_str());
  const UniqueFd server = Accept(listener);
  const auto decider = Make(Policy{.mark_value = 1});
  const QueuedPacket ack =
      Make(Proto::kTcp, absl::StrCat("127.0.0.1:", LocalPort(client)), to, kTcpAck);
  EXPECT_EQ(One(*decider, ack).verdict, Verdict::kAccept);
  const int off = 0;
  ASSERT_EQ(::setsockopt(server.get(), SOL_IP, IP_TRANSPARENT, &off, sizeof off), 0);
  const Decision d = One(*decider, ack);
  EXPECT_EQ(d.reason, Reason::kNotTransparent);
  EXPECT_EQ(d.verdict, Verdict::kDrop);
}

TEST_F(DeciderTest, ABatchOfManyKindsKeepsItsOrder) {
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  const auto decider = Make({.on_port = LocalPort(listener), .mark_value = 1});
  std::vector<QueuedPacket> packets;
  for (int i = 0; i < 64; ++i) {
    packets.push_back(Make(i % 3 == 1 ? Proto::kUdp : Proto::kTcp,
                           absl::StrCat("127.0.0.9:", 4000 + i), "192.0.2.1:80",
                           i % 3 == 1 ? 0 : kTcpSyn));
    if (i % 3 == 2) packets.back().packet.outcome = ParseOutcome::kFragment;
  }
  std::vector<Decision> decisions(packets.size());
  decider->DecideBatch(packets, absl::MakeSpan(decisions));
  const Reason expected[] = {Reason::kListener, Reason::kNoSocket, Reason::kFragment};
  for (size_t i = 0; i < packets.size(); ++i) EXPECT_EQ(decisions[i].reason, expected[i % 3]) << i;
}

TEST_F(DeciderTest, AListenerOutOfReachIsNotDeliveredToByTheMarkAlone) {
  UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  const uint16_t port = LocalPort(listener);
  // Steering that can hold no flow stands for every reason why an entry cannot stand.
  Steering::Options none;
  none.max_flows = 1;
  absl::StatusOr<std::unique_ptr<Steering>> full = Steering::Open(none);
  ASSERT_TRUE(full.ok()) << full.status();
  Decider decider({.on_port = port, .mark_value = 1}, mirror_.get(),
                  ExactQuerier(*DiagClient::Open(), &mirror_->table()), full->get());
  EXPECT_EQ(One(decider, Make(Proto::kTcp, "127.0.0.9:4000", "192.0.2.1:80", kTcpSyn)).verdict,
            Verdict::kAccept);
  const Decision d = One(decider, Make(Proto::kTcp, "127.0.0.9:4001", "192.0.2.1:80", kTcpSyn));
  EXPECT_EQ(d.verdict, Verdict::kDrop);
  EXPECT_EQ(d.mark, 0u);
  EXPECT_EQ(decider.counters().steer_failed.value(), 1u);
}

}  // namespace
}  // namespace utproxy
