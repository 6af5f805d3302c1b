// SPDX-License-Identifier: GPL-3.0-or-later
#include "churn/model.h"

#include <gtest/gtest.h>

#include "churn/timeline.h"

namespace utproxy::churn {
namespace {

constexpr uint32_t kListener = 0x10, kOther = 0x20;
constexpr uint16_t kSport = 4000;

Outcomes Of(const Probe& probe, const PlaceState& state) {
  Outcomes outcomes;
  Decide(probe, state, state, &outcomes);
  return outcomes;
}

SocketState Listener(Bound bound = Bound::kAny, uint32_t mark = kListener) {
  return {.mark = mark, .bound = bound, .transparent = true};
}

Probe Syn() { return {.proto = Proto::kTcp, .syn = true, .sport = kSport}; }
Probe Segment() { return {.proto = Proto::kTcp, .sport = kSport}; }
Probe Datagram() { return {.proto = Proto::kUdp, .sport = kSport}; }

TEST(ModelTest, ListenerAtTheInterfaceGoesBeforeTheWildcard) {
  for (const Probe& probe : {Syn(), Segment(), Datagram()}) {
    EXPECT_EQ(Of(probe, {}), Outcomes{kMiss});
    EXPECT_EQ(Of(probe, {Listener()}), Outcomes{kListener});
    EXPECT_EQ(Of(probe, {Listener(), Listener(Bound::kInterface, kOther)}), Outcomes{kOther});
    EXPECT_EQ(Of(probe, {Listener(), Listener(Bound::kAsked, kOther)}), Outcomes{kListener});
  }
}

TEST(ModelTest, OpaqueSocketIsNotPassedOver) {
  SocketState opaque = Listener(Bound::kInterface, kOther);
  opaque.transparent = false;
  EXPECT_EQ(Of(Syn(), {Listener(), opaque}), Outcomes{kMiss});
  EXPECT_EQ(Of(Datagram(), {Listener(), opaque}), Outcomes{kMiss});
}

TEST(ModelTest, FamilyCounts) {
  SocketState v6 = Listener();
  v6.serves = Serves::kIpv6;
  EXPECT_EQ(Of(Syn(), {v6}), Outcomes{kMiss});
  v6.serves = Serves::kBoth;
  EXPECT_EQ(Of(Syn(), {v6}), Outcomes{kListener});
  EXPECT_EQ(Of(Syn(), {v6, Listener(Bound::kAny, kOther)}), Outcomes{kOther});
}

TEST(ModelTest, OfEqualSocketsTheLatestOrAny) {
  const PlaceState two = {Listener(), Listener(Bound::kAny, kOther)};
  EXPECT_EQ(Of(Datagram(), two), Outcomes{kOther});
  EXPECT_EQ(Of(Syn(), two), (Outcomes{kListener, kOther}));
}

TEST(ModelTest, ADisconnectedIpv6SocketKeepsItsPeersAddress) {
  PlaceState two = {Listener(), Listener(Bound::kAny, kOther)};
  for (SocketState& socket : two) socket.serves = Serves::kIpv6;
  two[0].keeps_peer_address = true;
  Probe probe = Datagram();
  probe.family = Family::kIpv6;
  EXPECT_EQ(Of(probe, two), Outcomes{kListener});
}

TEST(ModelTest, ConnectedUdpSocket) {
  SocketState connected = Listener(Bound::kAsked, kOther);
  connected.peer = kSport;
  EXPECT_EQ(Of(Datagram(), {Listener(), connected}), Outcomes{kOther});
  connected.peer = kSport + 1;
  EXPECT_EQ(Of(Datagram(), {Listener(), connected}), Outcomes{kListener});
  SocketState shadow = Listener(Bound::kInterface, kOther);
  shadow.peer = kSport;
  EXPECT_EQ(Of(Datagram(), {Listener(), shadow}), Outcomes{kMiss});
}

TEST(ModelTest, ConnectionAndWhatIsLeftOfIt) {
  SocketState connection = Listener(Bound::kAsked, kOther);
  connection.peer = kSport;
  EXPECT_EQ(Of(Segment(), {Listener(), connection}), Outcomes{kOther});
  EXPECT_EQ(Of(Syn(), {Listener(), connection}), Outcomes{kOther});
  connection.may_be = kTimeWait;
  EXPECT_EQ(Of(Segment(), {Listener(), connection}), Outcomes{kHit});
  EXPECT_EQ(Of(Syn(), {Listener(), connection}), Outcomes{kListener});
  connection.may_be = kFull | kGone;
  EXPECT_EQ(Of(Segment(), {Listener(), connection}), (Outcomes{kOther, kListener}));
}

class TimelineTest : public ::testing::Test {
 protected:
  TimelineTest() {
    line_.Record(100, 110, "open", {Listener()});
    line_.Record(200, 210, "close", {});
    line_.Record(300, 310, "open another", {Listener(Bound::kAny, kOther)});
  }
  Outcomes At(int64_t from, int64_t to) { return line_.Within(Syn(), from, to).at_once; }
  Timeline line_;
};

TEST_F(TimelineTest, SureBetweenChanges) {
  EXPECT_EQ(At(50, 99), Outcomes{kMiss});
  EXPECT_EQ(At(111, 199), Outcomes{kListener});
  EXPECT_EQ(At(211, 299), Outcomes{kMiss});
  EXPECT_EQ(At(311, 9999), Outcomes{kOther});
}

TEST_F(TimelineTest, AmbiguousWhereAChangeMayFallIn) {
  EXPECT_EQ(At(50, 100), (Outcomes{kMiss, kListener}));
  EXPECT_EQ(At(110, 150), (Outcomes{kMiss, kListener}));
  EXPECT_EQ(At(150, 350), (Outcomes{kListener, kMiss, kOther}));
}

TEST_F(TimelineTest, ForgetKeepsWhatIsStillAskedAbout) {
  line_.Forget(205);
  EXPECT_EQ(At(205, 250), (Outcomes{kListener, kMiss}));
  line_.Forget(1000);
  EXPECT_EQ(At(1000, 1001), Outcomes{kOther});
}

TEST_F(TimelineTest, Left) {
  EXPECT_TRUE(line_.Left(kListener, Syn(), 150, 250));
  EXPECT_FALSE(line_.Left(kListener, Syn(), 120, 190));
  EXPECT_FALSE(line_.Left(kListener, Syn(), 250, 400));
  EXPECT_FALSE(line_.Left(kOther, Syn(), 150, 400));
}

TEST_F(TimelineTest, ListenerClosed) {
  EXPECT_TRUE(line_.ListenerClosed(150, 250));
  EXPECT_FALSE(line_.ListenerClosed(250, 350));
}

TEST_F(TimelineTest, LeftByChangingItsPeer) {
  SocketState socket = Listener(Bound::kAsked);
  line_.Record(400, 410, "bound", {socket});
  socket.peer = kSport;
  line_.Record(500, 510, "connected", {socket});
  EXPECT_TRUE(line_.Left(kListener, Syn(), 450, 600));
  EXPECT_TRUE(line_.Came(kListener, Syn(), 450, 600));
  EXPECT_FALSE(line_.Came(kListener, Syn(), 520, 600));
  EXPECT_FALSE(line_.Left(kListener, Syn(), 520, 600));
  socket.may_be = kFull | kTimeWait;
  line_.Record(700, 710, "closed", {socket});
  EXPECT_FALSE(line_.Left(kListener, Syn(), 720, 800));
  EXPECT_TRUE(line_.MayTurnTimeWait(Syn(), 720, 800));
  EXPECT_FALSE(line_.MayTurnTimeWait(Syn(), 520, 600));
}

// A connection is opened after the first lookup, a listener closed after the second.
TEST(TimelineApartTest, LookupsMayFindTwoStates) {
  Timeline line;
  SocketState connection = Listener(Bound::kAsked, kOther);
  connection.peer = kSport;
  line.Record(100, 110, "listener opened", {connection, Listener()});
  const Timeline::Allowed allowed = line.Within(Datagram(), 50, 150);
  EXPECT_EQ(allowed.at_once, (Outcomes{kMiss, kOther}));
  EXPECT_EQ(allowed.apart, Outcomes{kListener});
}

}  // namespace
}  // namespace utproxy::churn
