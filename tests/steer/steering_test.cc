// SPDX-License-Identifier: GPL-3.0-or-later
// Steering in the kernel: what becomes of packets.
#include "steer/steering.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "kernel_fixture.h"
#include "steer/bpf_flow_map.h"

namespace utproxy {
namespace {

struct Path {
  const char* name;
  const char* to;        // where the client sends
  const char* listener;  // where the listener is bound
  int type;
};

void PrintTo(const Path& path, std::ostream* out) { *out << path.name; }

class SteeringPathTest : public KernelTest, public ::testing::WithParamInterface<Path> {};

TEST_P(SteeringPathTest, ReachesTheListener) {
  const Path& path = GetParam();
  const UniqueFd listener = Listen(path.type, path.listener);
  const UniqueFd client = Client(path.type, SockAddr(path.to).family());
  const FlowKey flow = FlowTo(client, path.to);
  ASSERT_EQ(Steer(flow, listener), SteerResult::kSteered) << steering_->listener_error();
  EXPECT_TRUE(steering_->Contains(flow, kLoopback));
  EXPECT_EQ(Reach(client, path.to), 0);
  EXPECT_TRUE(Readable(listener));
  EXPECT_EQ(counters().steered, 1u) << "the SYN or the datagram; the ACK finds the request socket";
  EXPECT_EQ(counters().assign_refused, 0u);
}

TEST_P(SteeringPathTest, NoOtherFlowDoes) {
  const Path& path = GetParam();
  const UniqueFd listener = Listen(path.type, path.listener);
  const UniqueFd client = Client(path.type, SockAddr(path.to).family());
  const UniqueFd other = Client(path.type, SockAddr(path.to).family());
  ASSERT_EQ(Steer(FlowTo(client, path.to), listener), SteerResult::kSteered);
  EXPECT_EQ(Reach(other, path.to), path.type == SOCK_STREAM ? ECONNREFUSED : 0);
  EXPECT_FALSE(Readable(listener, 50));
  EXPECT_EQ(counters().steered, 0u);
  EXPECT_GE(counters().no_entry, 1u);
}

INSTANTIATE_TEST_SUITE_P(
    Paths, SteeringPathTest,
    ::testing::Values(Path{"tcp4", "127.0.0.1:5353", "127.0.0.1:1090", SOCK_STREAM},
                      Path{"tcp4_address", "127.0.0.1:5353", "127.0.0.9:5353", SOCK_STREAM},
                      Path{"tcp6", "[::1]:5353", "[::1]:1090", SOCK_STREAM},
                      Path{"tcp4_dual_stack", "127.0.0.1:5353", "[::]:1090", SOCK_STREAM},
                      Path{"tcp6_dual_stack", "[::1]:5353", "[::]:1090", SOCK_STREAM},
                      Path{"udp4", "127.0.0.1:5353", "127.0.0.1:1090", SOCK_DGRAM},
                      Path{"udp6", "[::1]:5353", "[::1]:1090", SOCK_DGRAM},
                      Path{"udp4_dual_stack", "127.0.0.1:5353", "[::]:1090", SOCK_DGRAM},
                      Path{"udp6_dual_stack", "[::1]:5353", "[::]:1090", SOCK_DGRAM}),
    [](const auto& test) { return test.param.name; });

class SteeringTest : public KernelTest {};

TEST_F(SteeringTest, PrecedesAListenerAtTheFlowsOwnAddress) {
  const UniqueFd own = Listen(SOCK_STREAM, "127.0.0.1:5353");
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const UniqueFd client = Client(SOCK_STREAM, AF_INET);
  ASSERT_EQ(Steer(FlowTo(client, "127.0.0.1:5353"), listener), SteerResult::kSteered);
  EXPECT_EQ(Reach(client, "127.0.0.1:5353"), 0);
  EXPECT_TRUE(Readable(listener));
  EXPECT_FALSE(Readable(own, 0));
}

TEST_F(SteeringTest, ADestinationsEntryIsForAllFlowsToItThatHaveNone) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const UniqueFd other = Listen(SOCK_STREAM, "127.0.0.1:1091");
  const UniqueFd own = Listen(SOCK_STREAM, "127.0.0.1:5353");
  const UniqueFd first = Client(SOCK_STREAM, AF_INET), second = Client(SOCK_STREAM, AF_INET),
                 third = Client(SOCK_STREAM, AF_INET);
  ASSERT_EQ(Steer(FlowTo(first, "127.0.0.1:5353"), other), SteerResult::kSteered);
  ASSERT_EQ(SteerDestination(FlowTo(second, "127.0.0.1:5353"), listener), SteerResult::kSteered);
  for (const UniqueFd* client : {&first, &second, &third}) {
    const FlowKey flow = FlowTo(*client, "127.0.0.1:5353");
    const UniqueFd& wanted = client == &first ? other : listener;
    EXPECT_EQ(steering_->ListenerOf(flow, kLoopback), CookieOf(wanted));
    EXPECT_FALSE(steering_->Contains(flow, kLoopback + 1)) << "another interface";
    EXPECT_FALSE(steering_->Contains(FlowTo(*client, "127.0.0.1:5354"), kLoopback));
    EXPECT_EQ(Reach(*client, "127.0.0.1:5353"), 0);
    EXPECT_TRUE(Readable(wanted));
    ASSERT_TRUE(UniqueFd(::accept(wanted.get(), nullptr, nullptr)).valid());
  }
  EXPECT_EQ(counters().steered, 3u);
  EXPECT_EQ(counters().by_destination, 2u);

  steering_->Release(FlowTo(first, "127.0.0.1:5353"), kLoopback);
  EXPECT_EQ(steering_->stats().flows.entries, 0u) << "the destination's too: the flow would use it";
  EXPECT_EQ(Reach(Client(SOCK_STREAM, AF_INET), "127.0.0.1:5353"), 0);
  EXPECT_TRUE(Readable(own));
}

// Else a flow's own entry, being found first, would lead it to a listener of the past.
TEST_F(SteeringTest, ADestinationsEntryIsNotMadeForAFlowThatHasOneOfItsOwn) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const UniqueFd other = Listen(SOCK_STREAM, "127.0.0.1:1091");
  const UniqueFd client = Client(SOCK_STREAM, AF_INET), another = Client(SOCK_STREAM, AF_INET);
  const FlowKey flow = FlowTo(client, "127.0.0.1:5353");
  ASSERT_EQ(Steer(flow, other), SteerResult::kSteered);
  ASSERT_EQ(SteerDestination(flow, listener), SteerResult::kSteered);
  EXPECT_EQ(steering_->ListenerOf(flow, kLoopback), CookieOf(listener));
  EXPECT_FALSE(steering_->Contains(FlowTo(another, "127.0.0.1:5353"), kLoopback));
  EXPECT_EQ(Reach(client, "127.0.0.1:5353"), 0);
  EXPECT_TRUE(Readable(listener));
}

TEST_F(SteeringTest, ADestinationsEntryIsNotMadeWherePoliciesDiffer) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const UniqueFd client = Client(SOCK_STREAM, AF_INET), another = Client(SOCK_STREAM, AF_INET);
  steering_->SetOnePolicy(false);
  ASSERT_EQ(SteerDestination(FlowTo(client, "127.0.0.1:5353"), listener), SteerResult::kSteered);
  EXPECT_TRUE(steering_->Contains(FlowTo(client, "127.0.0.1:5353"), kLoopback));
  EXPECT_FALSE(steering_->Contains(FlowTo(another, "127.0.0.1:5353"), kLoopback));
}

TEST_F(SteeringTest, AClosedListenersFlowsAreLeftToTheKernel) {
  UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const UniqueFd client = Client(SOCK_STREAM, AF_INET);
  const FlowKey flow = FlowTo(client, "127.0.0.1:5353");
  const uint64_t cookie = CookieOf(listener);
  const uint32_t inode = InodeOf(listener);
  ASSERT_EQ(Steer(flow, listener), SteerResult::kSteered);
  EXPECT_EQ(steering_->stats().listeners.held, 1u);
  listener.reset();
  EXPECT_EQ(steering_->stats().listeners.held, 0u) << "no reference of ours keeps it open";
  EXPECT_EQ(Reach(client, "127.0.0.1:5353"), ECONNREFUSED);
  EXPECT_EQ(counters().socket_gone, 1u);
  const UniqueFd another = Client(SOCK_STREAM, AF_INET);
  EXPECT_EQ(Steer(FlowTo(another, "127.0.0.1:5353"), cookie, inode), SteerResult::kListenerGone);
}

TEST_F(SteeringTest, AReopenedListenerIsFoundByItsNewCookie) {
  for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
    UniqueFd listener = Listen(type, "127.0.0.1:1090");
    const UniqueFd client = Client(type, AF_INET);
    const FlowKey flow = FlowTo(client, "127.0.0.1:5353");
    ASSERT_EQ(Steer(flow, listener), SteerResult::kSteered);
    listener.reset();
    listener = Listen(type, "127.0.0.1:1090");
    ASSERT_EQ(Steer(flow, listener), SteerResult::kSteered);
    EXPECT_EQ(Reach(client, "127.0.0.1:5353"), 0);
    EXPECT_TRUE(Readable(listener));
  }
  EXPECT_EQ(steering_->stats().listeners.inserted, 4u);
  EXPECT_EQ(steering_->stats().flows.rewritten, 2u);
  EXPECT_LE(steering_->stats().listeners.scans, 1u) << "the owner was remembered";
}

// Newer kernels leave a socket that is not closed in the map, older ones take it out.
TEST_F(SteeringTest, AListenerThatListensNoMoreAndThenAgain) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const uint64_t cookie = CookieOf(listener);
  const UniqueFd first = Client(SOCK_STREAM, AF_INET), second = Client(SOCK_STREAM, AF_INET),
                 third = Client(SOCK_STREAM, AF_INET);
  ASSERT_EQ(Steer(FlowTo(first, "127.0.0.1:5353"), listener), SteerResult::kSteered);
  ASSERT_EQ(Steer(FlowTo(second, "127.0.0.1:5353"), listener), SteerResult::kSteered);
  ASSERT_EQ(::shutdown(listener.get(), SHUT_RD), 0);
  EXPECT_EQ(Reach(first, "127.0.0.1:5353"), ECONNREFUSED) << "the kernel's own lookup decides";
  EXPECT_EQ(counters().socket_gone, 1u);
  ASSERT_EQ(::listen(listener.get(), 16), 0);
  ASSERT_EQ(CookieOf(listener), cookie);
  ASSERT_EQ(Steer(FlowTo(third, "127.0.0.1:5353"), listener), SteerResult::kSteered);
  EXPECT_EQ(Reach(third, "127.0.0.1:5353"), 0);
  EXPECT_EQ(Reach(second, "127.0.0.1:5353"), 0) << "the earlier flow's entry is right again";
}

TEST_F(SteeringTest, AUdpSocketThatIsUnboundAndThenBoundAgain) {
  // Only a port that the kernel has chosen is given back by a disconnect.
  const UniqueFd listener = Listen(SOCK_DGRAM, "127.0.0.1:0");
  const UniqueFd client = Client(SOCK_DGRAM, AF_INET);
  ASSERT_EQ(Steer(FlowTo(client, "127.0.0.1:5353"), listener), SteerResult::kSteered);
  const sockaddr none{.sa_family = AF_UNSPEC, .sa_data = {}};
  ASSERT_EQ(::connect(listener.get(), &none, sizeof none), 0);
  EXPECT_EQ(Reach(client, "127.0.0.1:5353"), 0);
  EXPECT_EQ(counters().socket_gone, 1u);
  EXPECT_EQ(counters().steered, 0u);
  const SockAddr address("127.0.0.1:1090");
  ASSERT_EQ(::bind(listener.get(), address.get(), address.size), 0);
  const UniqueFd another = Client(SOCK_DGRAM, AF_INET);
  ASSERT_EQ(Steer(FlowTo(another, "127.0.0.1:5353"), listener), SteerResult::kSteered);
  EXPECT_EQ(Reach(another, "127.0.0.1:5353"), 0);
  EXPECT_TRUE(Readable(listener));
}

TEST_F(SteeringTest, AUdpSocketThatHasConnectedIsNotAssigned) {
  const UniqueFd listener = Listen(SOCK_DGRAM, "127.0.0.1:1090");
  const UniqueFd client = Client(SOCK_DGRAM, AF_INET);
  ASSERT_EQ(Steer(FlowTo(client, "127.0.0.1:5353"), listener), SteerResult::kSteered);
  const SockAddr peer("127.0.0.1:7");
  ASSERT_EQ(::connect(listener.get(), peer.get(), peer.size), 0);
  EXPECT_EQ(Reach(client, "127.0.0.1:5353"), 0);
  EXPECT_EQ(counters().assign_refused, 1u);
  EXPECT_EQ(counters().steered, 0u);
}

TEST_F(SteeringTest, AGroupOfListenersBalances) {
  for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
    const UniqueFd a = Listen(type, "127.0.0.1:1090", true);
    const UniqueFd b = Listen(type, "127.0.0.1:1090", true);
    std::vector<UniqueFd> clients;
    bool reached_a = false, reached_b = false;
    // Each flow goes to either by a hash; that 64 flows all go to one has a chance of 2^-63.
    for (int i = 0; i < 64; ++i) {
      clients.push_back(Client(type, AF_INET));
      ASSERT_EQ(Steer(FlowTo(clients.back(), "127.0.0.1:5353"), a), SteerResult::kSteered);
      ASSERT_EQ(Reach(clients.back(), "127.0.0.1:5353"), 0);
    }
    reached_a = Readable(a);
    reached_b = Readable(b);
    EXPECT_TRUE(reached_a && reached_b);
  }
}

TEST_F(SteeringTest, OneBatchOfManyFlowsAndListeners) {
  const UniqueFd tcp = Listen(SOCK_STREAM, "127.0.0.1:1090");
  UniqueFd gone = Listen(SOCK_STREAM, "127.0.0.1:1091");
  const uint64_t gone_cookie = CookieOf(gone);
  const uint32_t gone_inode = InodeOf(gone);
  gone.reset();
  std::vector<SteerRequest> requests;
  for (uint16_t i = 0; i < 200; ++i) {
    SteerRequest request{.flow = {.local_port = 53, .remote_port = i}};
    request.listener_cookie = i % 5 == 0 ? gone_cookie : CookieOf(tcp);
    request.listener_inode = i % 5 == 0 ? gone_inode : InodeOf(tcp);
    requests.push_back(request);
  }
  for (int round = 0; round < 2; ++round) {
    std::vector<SteerResult> results(requests.size());
    steering_->Steer(requests, absl::MakeSpan(results));
    for (size_t i = 0; i < results.size(); ++i) {
      EXPECT_EQ(results[i], i % 5 == 0 ? SteerResult::kListenerGone : SteerResult::kSteered);
      EXPECT_EQ(steering_->Contains(requests[i].flow, 0), i % 5 != 0);
    }
  }
  EXPECT_EQ(steering_->stats().flows.inserted, 160u);
  EXPECT_EQ(steering_->stats().flows.refreshed, 160u);
}

TEST_F(SteeringTest, NothingIsLeftBehind) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const UniqueFd client = Client(SOCK_STREAM, AF_INET);
  ASSERT_EQ(Steer(FlowTo(client, "127.0.0.1:5353"), listener), SteerResult::kSteered);
  steering_.reset();
  EXPECT_EQ(Reach(client, "127.0.0.1:5353"), ECONNREFUSED);
  EXPECT_EQ(Reach(Client(SOCK_STREAM, AF_INET), "127.0.0.1:1090"), 0) << "the listener lives on";
}

TEST_F(SteeringTest, SeveralThreadsAndFlowsThatAllReachTheirListener) {
  const UniqueFd listener = Listen(SOCK_DGRAM, "127.0.0.1:1090");
  const uint64_t cookie = CookieOf(listener);
  const uint32_t inode = InodeOf(listener);
  std::atomic<int> steered{0};
  std::vector<std::thread> threads;
  for (uint16_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (uint16_t i = 0; i < 500; ++i) {
        SteerRequest request{.flow = {.local_port = static_cast<uint16_t>(i % 100),
                                      .remote_port = t,
                                      .proto = Proto::kUdp},
                             .listener_cookie = cookie,
                             .listener_inode = inode};
        SteerResult result;
        steering_->Steer({&request, 1}, {&result, 1});
        steered += result == SteerResult::kSteered;
        if (i % 50 == 0) steering_->Expire(MonotonicNs());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(steered, 1500);
  EXPECT_EQ(steering_->stats().flows.entries, 300u);
  EXPECT_EQ(steering_->stats().listeners.inserted, 1u) << "searched for once";
}

// With SYN cookies nothing is kept of the SYN: the ACK needs the listener as well.
TEST_F(SteeringTest, ASynCookiesAckFindsTheListener) {
  const UniqueFd always(::open("/proc/sys/net/ipv4/tcp_syncookies", O_WRONLY | O_CLOEXEC));
  if (::write(always.get(), "2", 1) != 1) GTEST_SKIP() << "no SYN cookies in this kernel";
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const UniqueFd client = Client(SOCK_STREAM, AF_INET);
  ASSERT_EQ(Steer(FlowTo(client, "127.0.0.1:5353"), listener), SteerResult::kSteered);
  EXPECT_EQ(Reach(client, "127.0.0.1:5353"), 0);
  EXPECT_TRUE(Readable(listener));
  EXPECT_EQ(counters().steered, 2u);
}

TEST_F(SteeringTest, WithoutPrivilegeOpenSaysWhatIsNeeded) {
  absl::Status status;
  std::thread([&] {
    DropCapabilities({CAP_SYS_ADMIN, CAP_BPF, CAP_NET_ADMIN});
    status = Steering::Open({}).status();
  }).join();
  EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
  EXPECT_NE(RemedyOf(status).find("CAP_BPF"), std::string::npos) << RemedyOf(status);
}

class SmallSteeringTest : public KernelTest {
  Steering::Options options() const override {
    return {.max_flows = 4, .udp_lifetime_ns = kNsPerSec, .evict_idle_ns = 0};
  }
};

TEST_F(SmallSteeringTest, FullEvictsTheOldest) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 5; ++i) {
    clients.push_back(Client(SOCK_STREAM, AF_INET));
    ASSERT_EQ(Steer(FlowTo(clients.back(), "127.0.0.1:5353"), listener), SteerResult::kSteered);
    ::usleep(20'000);  // more than the coarse clock's tick, so that the order is certain
  }
  EXPECT_EQ(steering_->stats().flows.evicted, 1u);
  EXPECT_FALSE(steering_->Contains(FlowTo(clients[0], "127.0.0.1:5353"), kLoopback));
  EXPECT_EQ(Reach(clients[0], "127.0.0.1:5353"), ECONNREFUSED);
  for (int i = 1; i < 5; ++i) EXPECT_EQ(Reach(clients[i], "127.0.0.1:5353"), 0) << i;
}

TEST_F(SmallSteeringTest, AnExpiredEntrySteersNoMore) {
  const UniqueFd listener = Listen(SOCK_DGRAM, "127.0.0.1:1090");
  const UniqueFd client = Client(SOCK_DGRAM, AF_INET);
  const FlowKey flow = FlowTo(client, "127.0.0.1:5353");
  ASSERT_EQ(Steer(flow, listener), SteerResult::kSteered);
  steering_->Expire(MonotonicNs());
  EXPECT_TRUE(steering_->Contains(flow, kLoopback));
  steering_->Expire(MonotonicNs() + kNsPerSec);
  EXPECT_FALSE(steering_->Contains(flow, kLoopback));
  EXPECT_EQ(steering_->stats().flows.expired, 1u);
  EXPECT_EQ(Reach(client, "127.0.0.1:5353"), 0);
  EXPECT_FALSE(Readable(listener, 50));
  ASSERT_EQ(Steer(flow, listener), SteerResult::kSteered);
  Reach(client, "127.0.0.1:5353");  // the first one's ICMP error may be reported here
  Reach(client, "127.0.0.1:5353");
  EXPECT_TRUE(Readable(listener));
}

TEST(TcpLifetime, OutlastsTheHandshake) {
  EXPECT_EQ(TcpLifetimeNs(5), 75 * kNsPerSec);
  EXPECT_EQ(TcpLifetimeNs(0), 13 * kNsPerSec);
  EXPECT_EQ(TcpLifetimeNs(-1), 13 * kNsPerSec);
  EXPECT_EQ(TcpLifetimeNs(255), 600 * kNsPerSec);
}

}  // namespace
}  // namespace utproxy
