// SPDX-License-Identifier: GPL-3.0-or-later
// The mirror and exact queries against the running kernel, in a namespace of the test's own.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <map>
#include <thread>

#include "base/clock.h"
#include "mirror/exact.h"
#include "mirror/mirror.h"
#include "mirror/table_lookup.h"
#include "support/sockets.h"
#include "utproxy/decide.h"

namespace utproxy {
namespace {

using testing::Accept;
using testing::Bind;
using testing::Connect;
using testing::CookieOf;
using testing::Listen;
using testing::LocalPort;

class MirrorNetnsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::EnterFreshNetns()) GTEST_SKIP() << "needs root: a network namespace of its own";
    absl::StatusOr<std::unique_ptr<Mirror>> mirror = Mirror::Start({});
    ASSERT_TRUE(mirror.ok()) << mirror.status();
    mirror_ = std::move(*mirror);
  }

  static Packet MakePacket(Proto proto, const std::string& src, const std::string& dst,
                           uint8_t flags = kTcpSyn) {
    const Endpoint s = *ParseEndpoint(src);
    const Endpoint d = *ParseEndpoint(dst);
    Packet p;
    p.src = s.address;
    p.sport = s.port;
    p.dst = d.address;
    p.dport = d.port;
    p.family = s.family;
    p.protocol = static_cast<uint8_t>(proto);
    p.tcp_flags = proto == Proto::kTcp ? flags : 0;
    p.iif = 1;  // lo
    return p;
  }

  Decision Exact(const Packet& packet, const Policy& policy) {
    ExactQuerier querier(*DiagClient::Open(), &mirror_->table());
    const std::shared_ptr<const InterfaceSnapshot> interfaces = mirror_->interfaces().Get();
    ExactAnswer answer;
    querier.Ask({&packet, 1}, policy, *interfaces, {&answer, 1});
    EXPECT_TRUE(answer.complete);
    ExactLookup lookup(answer, *interfaces);
    return Decide(packet, policy, lookup);
  }

  // The mirror comes to know within its refresh times; two seconds are beyond any of them.
  static bool Eventually(const std::function<bool()>& condition) {
    for (int i = 0; i < 400; ++i) {
      if (condition()) return true;
      ::usleep(5000);
    }
    return false;
  }
  size_t InMirror(const FlowKey& key) {
    absl::InlinedVector<Socket, 8> found;
    mirror_->table().FindAll(key, &found);
    return found.size();
  }

  std::unique_ptr<Mirror> mirror_;
};

TEST_F(MirrorNetnsTest, ASynFindsTheTransparentListenerOnTheConfiguredPort) {
  const UniqueFd listener = Listen("0.0.0.0:0", {.transparent = true});
  const Policy policy{.on_port = LocalPort(listener), .mark_value = 1, .mark_mask = 1};
  const Decision d = Exact(MakePacket(Proto::kTcp, "127.0.0.9:4000", "192.0.2.1:80"), policy);
  EXPECT_EQ(d.reason, Reason::kListener);
  EXPECT_EQ(d.verdict, Verdict::kAccept);
  EXPECT_EQ(d.mark, 1u);
  ASSERT_TRUE(d.socket);
  EXPECT_EQ(d.socket->cookie, CookieOf(listener));
  EXPECT_EQ(d.laddr, *Address::Parse("127.0.0.1")) << "lo's primary address";
}

TEST_F(MirrorNetnsTest, AListenerWithoutTheOptionIsNotTransparent) {
  const UniqueFd listener = Listen("[::]:0");
  const Policy policy{.on_port = LocalPort(listener)};
  for (const char* src : {"127.0.0.9:4000", "[::1]:4000"}) {
    const bool v6 = src[0] == '[';
    const Decision d =
        Exact(MakePacket(Proto::kTcp, src, v6 ? "[2001:db8::1]:80" : "192.0.2.1:80"), policy);
    EXPECT_EQ(d.reason, Reason::kNotTransparent) << src;
    EXPECT_EQ(d.verdict, Verdict::kDrop);
  }
}

TEST_F(MirrorNetnsTest, UdpFindsTheUnconnectedListener) {
  const UniqueFd socket = Bind(SOCK_DGRAM, "0.0.0.0:0", {.transparent = true});
  const Policy policy{.on_port = LocalPort(socket)};
  const Decision d = Exact(MakePacket(Proto::kUdp, "127.0.0.9:4000", "192.0.2.1:53"), policy);
  EXPECT_EQ(d.reason, Reason::kListener);
  EXPECT_EQ(d.socket->cookie, CookieOf(socket));
}

// Asks about the packet some 60,000 times while `change` runs over and over in another thread, and
// counts the answers by their reasons.
std::map<Reason, int> AskMeanwhile(const SocketTable& table, const InterfaceSnapshot& interfaces,
                                   const Packet& packet, const Policy& policy,
                                   const std::function<void()>& change) {
  std::atomic<bool> stop = false;
  std::thread changer([&] {
    while (!stop) change();
  });
  ExactQuerier querier(*DiagClient::Open(), &table);
  const std::vector<Packet> packets(64, packet);
  std::vector<ExactAnswer> answers(packets.size());
  std::map<Reason, int> reasons;
  for (int i = 0; i < 1000; ++i) {
    querier.Ask(packets, policy, interfaces, absl::MakeSpan(answers));
    for (const ExactAnswer& answer : answers) {
      EXPECT_TRUE(answer.complete);
      ExactLookup lookup(answer, interfaces);
      ++reasons[Decide(packet, policy, lookup).reason];
    }
  }
  stop = true;
  changer.join();
  return reasons;
}

// sock_diag looks a socket up and then says what it is, by which time it may be something else.
TEST_F(MirrorNetnsTest, AListenerThatClosesIsNoConnection) {
  const UniqueFd opaque = Listen("127.0.0.1:0", {.reuseport = true});
  const Policy policy{.on_port = LocalPort(opaque)};
  const std::string at = absl::StrCat("0.0.0.0:", policy.on_port);
  const Packet syn =
      MakePacket(Proto::kTcp, "127.0.0.9:4000", absl::StrCat("192.0.2.1:", policy.on_port).c_str());
  const auto reasons =
      AskMeanwhile(mirror_->table(), *mirror_->interfaces().Get(), syn, policy, [&] {
        const UniqueFd passing = Listen(at.c_str(), {.transparent = true, .reuseport = true});
      });
  EXPECT_EQ(reasons, (std::map<Reason, int>{{Reason::kNotTransparent, 64000}}));
}

TEST_F(MirrorNetnsTest, AListenerThatClosesIsNotTheLast) {
  const UniqueFd always = Listen("0.0.0.0:0", {.transparent = true, .reuseport = true});
  const Policy policy{.on_port = LocalPort(always)};
  const std::string at = absl::StrCat("127.0.0.1:", policy.on_port);
  const Packet syn = MakePacket(Proto::kTcp, "127.0.0.9:4000", "192.0.2.1:80");
  auto reasons = AskMeanwhile(mirror_->table(), *mirror_->interfaces().Get(), syn, policy, [&] {
    const UniqueFd passing = Listen(at.c_str(), {.transparent = true, .reuseport = true});
  });
  // The kernel itself gives up where the listener that it has found is freed at that moment
  // (refcount_inc_not_zero in inet_lookup, as in nf_tproxy_get_sock_v4). That is far rarer than a
  // listener that closes between the look-up and the answer.
  const int given_up = reasons[Reason::kNoSocket];
  EXPECT_LE(given_up, 64);
  EXPECT_EQ(reasons[Reason::kListener], 64000 - given_up);
}

TEST_F(MirrorNetnsTest, ASocketThatConnectsToAnotherSenderIsNotThisOnes) {
  const UniqueFd listener = Bind(SOCK_DGRAM, "0.0.0.0:0", {.transparent = true});
  const UniqueFd reply = Bind(SOCK_DGRAM, "192.0.2.1:53", {.transparent = true});
  const Policy policy{.on_port = LocalPort(listener)};
  sockaddr_in other{.sin_family = AF_INET, .sin_port = htons(5000)};
  other.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const sockaddr nobody{.sa_family = AF_UNSPEC};
  const Packet datagram = MakePacket(Proto::kUdp, "127.0.0.9:4000", "192.0.2.1:53");
  const auto reasons =
      AskMeanwhile(mirror_->table(), *mirror_->interfaces().Get(), datagram, policy, [&] {
        EXPECT_EQ(::connect(reply.get(), reinterpret_cast<sockaddr*>(&other), sizeof other), 0);
        EXPECT_EQ(::connect(reply.get(), &nobody, sizeof nobody), 0);
      });
  EXPECT_EQ(reasons, (std::map<Reason, int>{{Reason::kListener, 64000}}));
}

TEST_F(MirrorNetnsTest, ConnectionsAndTheirEndReachTheTable) {
  const UniqueFd listener = Listen("127.0.0.1:0", {.transparent = true});
  UniqueFd client = Connect(SOCK_STREAM, absl::StrCat("127.0.0.1:", LocalPort(listener)).c_str());
  UniqueFd server = Accept(listener);
  const std::string from = absl::StrCat("127.0.0.1:", LocalPort(client));
  const std::string to = absl::StrCat("127.0.0.1:", LocalPort(listener));
  const Packet ack = MakePacket(Proto::kTcp, from, to, kTcpAck);
  const Decision d = Exact(ack, Policy{});
  EXPECT_EQ(d.reason, Reason::kEstablished);
  EXPECT_EQ(d.verdict, Verdict::kAccept) << "a child inherits IP_TRANSPARENT";
  mirror_->feed().Push({&*d.socket, 1});
  ASSERT_TRUE(Eventually([&] { return InMirror(ack.key()) == 1; }));
  const auto interfaces = mirror_->interfaces().Get();
  TableLookup lookup(mirror_->table(), *interfaces);
  EXPECT_EQ(Decide(ack, Policy{}, lookup).verdict, Verdict::kAccept);

  server.reset();  // the active closer: its side goes to TIME_WAIT
  client.reset();
  ASSERT_TRUE(Eventually([&] {
    const auto found = mirror_->table().FindOne(ack.key());
    return found && found->time_wait() && found->transparent();
  }));
  EXPECT_EQ(Exact(ack, Policy{}).reason, Reason::kTimeWait);
  const Decision reopened = Exact(MakePacket(Proto::kTcp, from, to, kTcpSyn), Policy{});
  EXPECT_EQ(reopened.reason, Reason::kTimeWaitReopened);
  EXPECT_TRUE(reopened.kill_time_wait);
  ExactQuerier querier(*DiagClient::Open(), nullptr);
  EXPECT_TRUE(querier.EndTimeWait(ack, reopened.time_wait_cookie).ok());
  EXPECT_EQ(Exact(ack, Policy{}).reason, Reason::kListener) << "the minisocket has gone";
}

TEST_F(MirrorNetnsTest, EndingATimeWaitThatHasGoneLeavesTheListenerAlone) {
  const UniqueFd listener = Listen("127.0.0.1:0", {.transparent = true});
  const std::string to = absl::StrCat("127.0.0.1:", LocalPort(listener));
  const Packet syn = MakePacket(Proto::kTcp, "127.0.0.1:4000", to);
  ExactQuerier querier(*DiagClient::Open(), nullptr);
  EXPECT_FALSE(querier.EndTimeWait(syn, 0x123456789).ok());
  EXPECT_FALSE(querier.EndTimeWait(syn, 0).ok());
  EXPECT_EQ(Exact(syn, Policy{}).reason, Reason::kListener);
}

TEST_F(MirrorNetnsTest, ListenersComeAndGo) {
  UniqueFd listener = Listen("127.0.0.1:0");
  const FlowKey key{.local = *Address::Parse("127.0.0.1"), .local_port = LocalPort(listener)};
  EXPECT_TRUE(Eventually([&] { return InMirror(key) == 1; }));
  listener.reset();
  EXPECT_TRUE(Eventually([&] { return InMirror(key) == 0; }));
}

// While nobody decides anything; the first packet has them dumped at once.
TEST_F(MirrorNetnsTest, ListenersThatNobodyUsesAreDumpedRarely) {
  mirror_ = *Mirror::Start({.tcp_listener_rest_ns = 3600 * kNsPerSec});
  std::vector<UniqueFd> listeners;
  const auto newest_is_known = [&] {
    return InMirror({.local = *Address::Parse("127.0.0.1"),
                     .local_port = LocalPort(listeners.back())}) == 1;
  };
  do {  // until it rests
    listeners.push_back(Listen("127.0.0.1:0"));
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  } while (newest_is_known() && listeners.size() < 100);
  ASSERT_FALSE(newest_is_known());
  mirror_->NoteUse();
  EXPECT_TRUE(Eventually(newest_is_known));
}

TEST_F(MirrorNetnsTest, AConnectionThatItsOwnEndResetsLeavesTheTable) {
  const UniqueFd listener = Listen("127.0.0.1:0");
  const UniqueFd client =
      Connect(SOCK_STREAM, absl::StrCat("127.0.0.1:", LocalPort(listener)).c_str());
  UniqueFd server = Accept(listener);
  mirror_ = *Mirror::Start({.min_sweep_ns = 3600 * kNsPerSec});
  const FlowKey key{.local = *Address::Parse("127.0.0.1"),
                    .remote = *Address::Parse("127.0.0.1"),
                    .local_port = LocalPort(listener),
                    .remote_port = LocalPort(client)};
  ASSERT_EQ(InMirror(key), 1u);
  const linger reset{.l_onoff = 1, .l_linger = 0};
  ASSERT_EQ(::setsockopt(server.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset), 0);
  server.reset();
  EXPECT_TRUE(Eventually([&] { return InMirror(key) == 0; }));
}

// Nothing else than the resync that follows lost events can find out that they have gone: the next
// ordinary sweep is an hour away.
TEST_F(MirrorNetnsTest, LostEventsAreMadeUpForAtOnce) {
  constexpr size_t kConnections = 500;
  const UniqueFd listener = Listen("127.0.0.1:0");
  const std::string at = absl::StrCat("127.0.0.1:", LocalPort(listener));
  std::vector<UniqueFd> open;
  for (size_t i = 0; i < kConnections; ++i) {
    open.push_back(Connect(SOCK_STREAM, at.c_str()));
    open.push_back(Accept(listener));
    // Its end is a reset, which leaves no TIME_WAIT.
    const linger reset{.l_onoff = 1, .l_linger = 0};
    ASSERT_EQ(::setsockopt(open.back().get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset), 0);
  }
  mirror_ = *Mirror::Start({.min_sweep_ns = 3600 * kNsPerSec, .event_buffer_bytes = 1});
  const size_t others = mirror_->table().size() - 2 * kConnections;
  while (!open.empty()) open.pop_back();
  EXPECT_TRUE(Eventually([&] { return mirror_->stats().lost_events > 0; }));
  EXPECT_TRUE(Eventually([&] { return mirror_->table().size() <= others; }))
      << mirror_->table().size() << " sockets, before " << others;
  EXPECT_LT(mirror_->stats().destroy_events, 2 * kConnections);
}

TEST_F(MirrorNetnsTest, ABatchIsAnsweredInItsOrder) {
  std::vector<UniqueFd> listeners;
  std::vector<Packet> packets;
  for (int i = 0; i < 100; ++i) {
    listeners.push_back(Listen("127.0.0.1:0", {.transparent = true}));
    packets.push_back(MakePacket(Proto::kTcp, "127.0.0.9:4000",
                                 absl::StrCat("127.0.0.1:", LocalPort(listeners.back()))));
  }
  ExactQuerier querier(*DiagClient::Open(), nullptr);
  std::vector<ExactAnswer> answers(packets.size());
  const auto interfaces = mirror_->interfaces().Get();
  querier.Ask(packets, Policy{}, *interfaces, absl::MakeSpan(answers));
  for (size_t i = 0; i < packets.size(); ++i) {
    ASSERT_TRUE(answers[i].complete && answers[i].target) << i;
    EXPECT_EQ(answers[i].target->cookie, CookieOf(listeners[i])) << i;
  }
  EXPECT_EQ(querier.queries(), 200u);
}

}  // namespace
}  // namespace utproxy
