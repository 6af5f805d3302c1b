// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a dump of sockets that have something in common costs the mirror, in accesses to words of
// the socket table and comparisons in the writer's own maps, not in time: for four times the
// sockets about four times as much.
#include <gtest/gtest.h>

#include <functional>

#include "mirror/table_writer.h"

namespace utproxy {
namespace {

uint64_t operations = 0;

}  // namespace

namespace table_internal {
void BeforeLoad() { ++operations; }
void BeforeStore() { ++operations; }
}  // namespace table_internal

namespace {

Socket Bound(const char* local, const char* remote, SockState state, uint64_t cookie) {
  Socket s;
  const Endpoint l = *ParseEndpoint(local), r = *ParseEndpoint(remote);
  s.local = l.address;
  s.local_port = l.port;
  s.remote = r.address;
  s.remote_port = r.port;
  s.proto = Proto::kUdp;
  s.state = state;
  s.cookie = cookie;
  return s;
}

using MakeSocket = std::function<Socket(uint32_t n)>;

struct Cost {
  uint64_t first, again, gone;
};

Cost CostOf(uint32_t count, const MakeSocket& make) {
  const auto table = *SocketTable::Create({.max_sockets = 1 << 15});
  UdpEpochs epochs;
  TableWriter writer(table.get(), &epochs);
  std::vector<Socket> dumped;
  for (uint32_t n = 1; n <= count; ++n) dumped.push_back(make(n));
  const auto cost = [&](absl::Span<const Socket> sockets) {
    const uint64_t before = operations;
    writer.ReplaceBound(Family::kIpv4, Proto::kUdp, sockets);
    EXPECT_EQ(table->size(), sockets.size());
    return operations - before;
  };
  const uint64_t first = cost(dumped), again = cost(dumped);
  return {first, again, cost({})};
}

constexpr uint32_t kCount = 1000;
// What an operation of the table costs by itself depends on how full its buckets are.
constexpr uint64_t kFactor = 7;

void ExpectLinear(const MakeSocket& make) {
  const Cost few = CostOf(kCount, make), many = CostOf(4 * kCount, make);
  EXPECT_GE(few.again, kCount) << "nothing is counted";
  EXPECT_LT(many.first, kFactor * few.first);
  EXPECT_LT(many.again, kFactor * few.again);
  EXPECT_LT(many.gone, kFactor * few.gone);
}

TEST(TableWriterCost, ConnectedSocketsOfOneLocalPlace) {
  ExpectLinear([](uint32_t n) {
    Socket s = Bound("192.0.2.1:53", "10.0.0.1:1", SockState::kEstablished, n);
    s.remote_port = static_cast<uint16_t>(n);
    return s;
  });
}

TEST(TableWriterCost, SocketsOfOnePortAtManyAddresses) {
  ExpectLinear([](uint32_t n) {
    Socket s = Bound("192.0.2.1:53", "0.0.0.0:0", SockState::kClose, n);
    s.local = Address::FromIpv4(n * 0x9e3779b1u | 1);
    return s;
  });
}

// An SO_REUSEPORT group: one chain of the table, in which each is found by walking past the others.
// So coming and going is quadratic, which happens once; the dumps between, 20 a second, are not.
TEST(TableWriterCost, SocketsOfOnePlace) {
  const auto make = [](uint32_t n) {
    return Bound("0.0.0.0:53", "0.0.0.0:0", SockState::kClose, n);
  };
  const Cost few = CostOf(kCount, make), many = CostOf(4 * kCount, make);
  EXPECT_GE(few.again, kCount) << "nothing is counted";
  EXPECT_LT(many.again, kFactor * few.again);
}

}  // namespace
}  // namespace utproxy
