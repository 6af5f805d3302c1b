// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/table_writer.h"

#include <gtest/gtest.h>

#include <sstream>
#include <utility>

#include "base/clock.h"
#include "mirror/socket_count.h"

namespace utproxy {
namespace {

Socket Make(const char* local, const char* remote, Proto proto, SockState state, uint64_t cookie) {
  const Endpoint l = *ParseEndpoint(local);
  const Endpoint r = *ParseEndpoint(remote);
  Socket s;
  s.local = l.address;
  s.local_port = l.port;
  s.remote = r.address;
  s.remote_port = r.port;
  s.proto = proto;
  s.state = state;
  s.cookie = cookie;
  s.flags = Socket::kTransparentKnown;
  return s;
}

class TableWriterTest : public ::testing::Test {
 protected:
  TableWriterTest()
      : table_(*SocketTable::Create({.max_sockets = 1024})), writer_(table_.get(), &epochs_) {
    interfaces_.local_addresses.insert(Address::Parse("10.0.0.1")->bytes());
  }
  std::vector<Socket> Find(const Socket& like) {
    absl::InlinedVector<Socket, 8> found;
    table_->FindAll(like.key(), &found);
    return {found.begin(), found.end()};
  }

  std::unique_ptr<SocketTable> table_;
  UdpEpochs epochs_;
  TableWriter writer_;
  InterfaceSnapshot interfaces_;
};

TEST_F(TableWriterTest, ListenersGoWhenADumpNoLongerShowsThem) {
  const Socket a = Make("0.0.0.0:80", "0.0.0.0:0", Proto::kTcp, SockState::kListen, 1);
  Socket b = Make("0.0.0.0:80", "0.0.0.0:0", Proto::kTcp, SockState::kListen, 2);
  writer_.ReplaceBound(Family::kIpv4, Proto::kTcp, {{b, a}});
  ASSERT_EQ(Find(a).size(), 2u);
  EXPECT_EQ(Find(a)[0].cookie, 2u) << "sockets of one address and port keep the dump's order";
  EXPECT_EQ(Find(a)[1].cookie, 1u);
  writer_.ReplaceBound(Family::kIpv4, Proto::kTcp, {{a}});
  ASSERT_EQ(Find(a).size(), 1u);
  EXPECT_EQ(Find(a)[0].cookie, 1u);
  EXPECT_EQ(Find(a)[0].order, 0u);
}

TEST_F(TableWriterTest, WhatTheTableRefusedIsTriedAgainWithTheNextDump) {
  std::vector<Socket> all;
  for (uint16_t n = 1; n <= 1025; ++n) {
    all.push_back(Make("0.0.0.0:1", "0.0.0.0:0", Proto::kUdp, SockState::kClose, n));
    all.back().local_port = n;
  }
  writer_.ReplaceBound(Family::kIpv4, Proto::kUdp, all);
  EXPECT_EQ(table_->size(), 1024u);
  EXPECT_EQ(writer_.rejected(), 1u);
  for (const Socket& s : std::vector<Socket>(all)) {
    if (!Find(s).empty()) continue;
    all = {s};
  }
  writer_.ReplaceBound(Family::kIpv4, Proto::kUdp, all);
  ASSERT_EQ(table_->size(), 1u);
  EXPECT_EQ(Find(all[0]).size(), 1u);
}

TEST_F(TableWriterTest, CountsWhatHappensToListeners) {
  Socket a = Make("10.0.0.1:80", "0.0.0.0:0", Proto::kTcp, SockState::kListen, 1);
  uint64_t before = epochs_.Listeners();
  const auto changed = [&] { return std::exchange(before, epochs_.Listeners()) != before; };
  writer_.ReplaceBound(Family::kIpv4, Proto::kTcp, {{a}});
  EXPECT_TRUE(changed());
  writer_.ReplaceBound(Family::kIpv4, Proto::kTcp, {{a}});
  EXPECT_FALSE(changed());
  a.flags |= Socket::kTransparent;
  writer_.ReplaceBound(Family::kIpv4, Proto::kTcp, {{a}});
  EXPECT_TRUE(changed());
  writer_.Learn(Make("10.0.0.1:80", "10.0.0.9:4000", Proto::kTcp, SockState::kEstablished, 5),
                interfaces_, 0);
  EXPECT_FALSE(changed());
  writer_.Destroyed(a, 0);
  EXPECT_TRUE(changed());
}

// A connected socket that goes leaves its datagrams to an unconnected one at the same place.
TEST_F(TableWriterTest, CountsConnectedUdpSocketsThatLeaveTheirFlow) {
  const auto connected = [](uint64_t cookie) {
    return Make("192.0.2.1:53", "10.0.0.9:4000", Proto::kUdp, SockState::kEstablished, cookie);
  };
  writer_.Learn(connected(1), interfaces_, 0);
  writer_.Destroyed(connected(1), 0);
  EXPECT_EQ(epochs_.Left(), 0u) << "to nobody";
  for (const char* local : {"192.0.2.1:53", "0.0.0.0:53"}) {
    const uint64_t before = epochs_.Left();
    const Socket bound = Make(local, "0.0.0.0:0", Proto::kUdp, SockState::kClose, 2);
    writer_.ReplaceBound(Family::kIpv4, Proto::kUdp, {{bound, connected(3)}});
    EXPECT_EQ(epochs_.Left(), before);
    writer_.ReplaceBound(Family::kIpv4, Proto::kUdp, {{bound}});
    EXPECT_EQ(epochs_.Left(), before + 1) << local;
    writer_.ReplaceBound(Family::kIpv4, Proto::kUdp, {});
    EXPECT_EQ(epochs_.Left(), before + 1) << "an unconnected one leaves nothing";
  }
}

TEST_F(TableWriterTest, TheOtherFamilysDumpLeavesThemAlone) {
  const Socket a = Make("0.0.0.0:80", "0.0.0.0:0", Proto::kTcp, SockState::kListen, 1);
  writer_.ReplaceBound(Family::kIpv4, Proto::kTcp, {{a}});
  writer_.ReplaceBound(Family::kIpv6, Proto::kTcp, {});
  writer_.ReplaceBound(Family::kIpv4, Proto::kUdp, {});
  EXPECT_EQ(Find(a).size(), 1u);
}

TEST_F(TableWriterTest, ADestroyedConnectionLivesOnAsTimeWait) {
  Socket s = Make("192.0.2.1:80", "10.0.0.9:4000", Proto::kTcp, SockState::kEstablished, 5);
  s.flags |= Socket::kTransparent;
  writer_.Learn(s, interfaces_, 0);
  Socket event = s;
  event.flags = 0;  // an event does not tell of transparency
  event.state = SockState::kClose;
  writer_.Destroyed(event, 1000);
  ASSERT_EQ(Find(s).size(), 1u);
  EXPECT_TRUE(Find(s)[0].time_wait());
  EXPECT_TRUE(Find(s)[0].transparent());
  writer_.Expire(30 * kNsPerSec);
  EXPECT_EQ(Find(s).size(), 1u);
  writer_.Expire(100 * kNsPerSec);
  EXPECT_TRUE(Find(s).empty());
}

TEST_F(TableWriterTest, AResetConnectionIsKnownByItsCookieAlone) {
  const Socket s = Make("192.0.2.1:80", "10.0.0.9:4000", Proto::kTcp, SockState::kEstablished, 5);
  const Socket other =
      Make("192.0.2.1:80", "10.0.0.9:4001", Proto::kTcp, SockState::kEstablished, 6);
  writer_.LearnAll({{s, other}}, interfaces_, 0);
  EXPECT_FALSE(writer_.has_nameless());
  writer_.Destroyed(Make("0.0.0.0:80", "10.0.0.9:0", Proto::kTcp, SockState::kClose, 5), 1000);
  ASSERT_TRUE(writer_.has_nameless());
  writer_.EndNameless();
  EXPECT_FALSE(writer_.has_nameless());
  EXPECT_TRUE(Find(s).empty());
  EXPECT_EQ(Find(other).size(), 1u);
  writer_.Learn(s, interfaces_, 2000);
  EXPECT_TRUE(Find(s).empty()) << "an answer from before must not bring it back";
}

TEST_F(TableWriterTest, ALateAnswerStillSaysHowTransparentTheTimeWaitIs) {
  const Socket opaque =
      Make("192.0.2.1:80", "10.0.0.9:4000", Proto::kTcp, SockState::kEstablished, 5);
  writer_.Learn(opaque, interfaces_, 0);
  writer_.Destroyed(opaque, 1000);
  ASSERT_FALSE(Find(opaque)[0].transparent());
  Socket closing = opaque;
  closing.state = SockState::kFinWait1;
  closing.flags |= Socket::kTransparent;
  writer_.Learn(closing, interfaces_, 2000);
  ASSERT_EQ(Find(opaque).size(), 1u);
  EXPECT_TRUE(Find(opaque)[0].time_wait());
  EXPECT_TRUE(Find(opaque)[0].transparent());
}

TEST_F(TableWriterTest, AnAnswerOlderThanTheSocketsEndDoesNotBringItBack) {
  const Socket s = Make("192.0.2.1:80", "10.0.0.9:4000", Proto::kTcp, SockState::kEstablished, 5);
  writer_.Destroyed(s, 0);
  writer_.Learn(s, interfaces_, 1000);
  EXPECT_TRUE(Find(s).empty());
}

TEST_F(TableWriterTest, MinisocketsInheritTransparency) {
  Socket full = Make("10.0.0.1:80", "10.0.0.9:4000", Proto::kTcp, SockState::kEstablished, 5);
  full.flags |= Socket::kTransparent;
  writer_.Learn(full, interfaces_, 0);
  Socket mini = full;
  mini.flags = Socket::kMinisock;
  mini.state = SockState::kFinWait2;
  writer_.Learn(mini, interfaces_, 0);
  EXPECT_TRUE(Find(mini)[0].transparent()) << "by its cookie";

  Socket foreign = Make("192.0.2.1:80", "10.0.0.9:4001", Proto::kTcp, SockState::kSynRecv, 6);
  foreign.flags = 0;
  writer_.Learn(foreign, interfaces_, 0);
  EXPECT_TRUE(Find(foreign)[0].transparent()) << "its address is not this host's";

  Socket own = Make("10.0.0.1:80", "10.0.0.9:4002", Proto::kTcp, SockState::kSynRecv, 7);
  own.flags = 0;
  writer_.Learn(own, interfaces_, 0);
  EXPECT_FALSE(Find(own)[0].transparent());
  EXPECT_FALSE(Find(own)[0].transparent_known());
}

TEST_F(TableWriterTest, UdpChangesRaiseTheirPortsEpochAndNoOther) {
  const Socket s = Make("0.0.0.0:53", "0.0.0.0:0", Proto::kUdp, SockState::kClose, 9);
  const uint32_t before = epochs_.Get(53);
  const uint32_t other = epochs_.Get(54);
  writer_.ReplaceBound(Family::kIpv4, Proto::kUdp, {{s}});
  const uint32_t after = epochs_.Get(53);
  EXPECT_NE(before, after);
  writer_.ReplaceBound(Family::kIpv4, Proto::kUdp, {{s}});
  EXPECT_EQ(epochs_.Get(53), after) << "the same dump again is no change";
  writer_.Destroyed(s, 0);
  EXPECT_NE(epochs_.Get(53), after);
  EXPECT_EQ(epochs_.Get(54), other);
}

TEST_F(TableWriterTest, ANewConnectionTakesThePlaceOfItsTuplesTimeWait) {
  Socket old = Make("192.0.2.1:80", "10.0.0.9:4000", Proto::kTcp, SockState::kEstablished, 5);
  writer_.Learn(old, interfaces_, 0);
  writer_.Destroyed(old, 0);
  Socket next = old;
  next.cookie = 6;
  writer_.Learn(next, interfaces_, 1000);
  ASSERT_EQ(Find(next).size(), 1u);
  EXPECT_EQ(Find(next)[0].cookie, 6u);
  Socket elsewhere = next;
  elsewhere.cookie = 7;
  elsewhere.ifindex = 3;
  writer_.Learn(elsewhere, interfaces_, 1000);
  EXPECT_EQ(Find(next).size(), 2u) << "sockets bound to different devices share a tuple";
}

TEST_F(TableWriterTest, ManyAreLearntAsOneByOne) {
  std::vector<Socket> sockets;
  for (uint16_t n = 1; n <= 201; ++n) {
    Socket s = Make("192.0.2.1:80", "10.0.0.9:1", Proto::kTcp, SockState::kEstablished, n);
    // Every third tuple is used twice, and its later connection is the one that stays.
    s.remote_port = n % 3 == 0 ? n - 1 : n;
    sockets.push_back(s);
  }
  writer_.LearnAll(sockets, interfaces_, 0);
  writer_.LearnAll(sockets, interfaces_, 0);  // of each pair, the first and then the second again
  size_t stored = 0;
  for (const Socket& s : sockets) {
    const bool replaced = s.cookie % 3 == 2;
    const std::vector<Socket> found = Find(s);
    ASSERT_EQ(found.size(), 1u) << s.cookie;
    EXPECT_EQ(found[0], replaced ? sockets[s.cookie] : s);
    stored += !replaced;
  }
  EXPECT_EQ(table_->size(), stored);
  writer_.LearnAll({}, interfaces_, 0);
  EXPECT_EQ(table_->size(), stored);
}

TEST_F(TableWriterTest, MissingNamesConnectionsOnly) {
  const Socket listener = Make("0.0.0.0:80", "0.0.0.0:0", Proto::kTcp, SockState::kListen, 1);
  const Socket a = Make("192.0.2.1:80", "10.0.0.9:1", Proto::kTcp, SockState::kEstablished, 2);
  const Socket b = Make("192.0.2.1:80", "10.0.0.9:2", Proto::kTcp, SockState::kEstablished, 3);
  writer_.ReplaceBound(Family::kIpv4, Proto::kTcp, {{listener}});
  writer_.Learn(a, interfaces_, 0);
  writer_.Learn(b, interfaces_, 0);
  CookieSet dumped;
  dumped.Insert(2);
  const std::vector<Socket> missing = writer_.Missing(dumped);
  ASSERT_EQ(missing.size(), 1u);
  EXPECT_EQ(missing[0].cookie, 3u);
  writer_.Forget(missing[0]);
  EXPECT_TRUE(Find(b).empty());
  EXPECT_EQ(Find(a).size(), 1u);
}

TEST(CountTcpSockets, ReadsBothFilesLines) {
  std::istringstream v4(
      "sockets: used 300\nTCP: inuse 50 orphan 1 tw 7 alloc 90 mem 3\nUDP: inuse 4 mem 1\n");
  EXPECT_EQ(CountTcpSockets(v4), 57u);
  std::istringstream v6("TCP6: inuse 6\nUDP6: inuse 4\n");
  EXPECT_EQ(CountTcpSockets(v6), 6u);
  std::istringstream other("TCP: inuse many\nTCP\n\n");
  EXPECT_EQ(CountTcpSockets(other), 0u);
}

}  // namespace
}  // namespace utproxy
