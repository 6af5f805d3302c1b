// SPDX-License-Identifier: GPL-3.0-or-later
#include "decide/explain.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "decide/list_lookup.h"
#include "fake_lookup.h"
#include "sockets.h"

namespace utproxy {
namespace {

const Packet kSyn = Tcp("10.0.1.99:40000", "10.0.2.99:80");
const Packet kUdp = Udp("10.0.1.99:5000", "10.0.2.99:53");
const Policy kPolicy{.on_port = 1090, .mark_value = 1, .mark_mask = 0xff};

Explanation ExplainOver(std::vector<Socket> sockets, const Packet& packet,
                        const Policy& policy = kPolicy) {
  ListLookup lookup(std::move(sockets), {{3, Family::kIpv4, Addr("10.0.1.1"), 0}});
  lookup.CollectCandidates(true);
  return Explain(packet, policy, lookup);
}

// "established=none laddr=10.0.1.1:1090 ..."
std::string Steps(const Explanation& e) {
  return absl::StrJoin(e.steps, " ", [](std::string* out, const ExplainStep& step) {
    absl::StrAppend(out, StepName(step.kind), "=", step.result);
  });
}

std::string Why(const Explanation& e, StepKind kind) {
  for (const ExplainStep& step : e.steps) {
    if (step.kind == kind) return step.why;
  }
  return "";
}

void ExpectSaid(const Explanation& e, StepKind kind, const std::string& what) {
  EXPECT_NE(Why(e, kind).find(what), std::string::npos)
      << StepName(kind) << ": '" << what << "' is not in: " << Why(e, kind);
}

TEST(Explain, DecidesAsDecideDoes) {
  for (const auto& sockets : std::vector<std::vector<Socket>>{
           {}, {Listener("0.0.0.0:1090", 1)}, {Opaque(Listener("0.0.0.0:1090", 1))}}) {
    ListLookup lookup(sockets, {});
    const Decision d = Decide(kSyn, kPolicy, lookup);
    const Explanation e = Explain(kSyn, kPolicy, lookup);
    EXPECT_EQ(e.decision.verdict, d.verdict);
    EXPECT_EQ(e.decision.reason, d.reason);
    EXPECT_EQ(e.decision.mark, d.mark);
    EXPECT_EQ(e.decision.socket, d.socket);
  }
}

TEST(Explain, Listener) {
  const Explanation e = ExplainOver(
      {Listener("0.0.0.0:1090", 0x2a), OnDevice(Listener("10.0.1.1:1090", 2), 4)}, kSyn);
  EXPECT_EQ(Steps(e),
            "established=none laddr=10.0.1.1:1090 listener=found transparent=yes mark=0x1");
  ExpectSaid(e, StepKind::kEstablished, "tcp 10.0.2.99:80 from 10.0.1.99:40000 on ifindex 3");
  ExpectSaid(e, StepKind::kLaddr, "ingress interface's primary address");
  ExpectSaid(e, StepKind::kLaddr, "port 1090 is the rule's");
  ExpectSaid(e, StepKind::kLaddr, "bound to the packet's destination 10.0.2.99 is not found");
  ExpectSaid(e, StepKind::kListener, "the LISTEN socket at 0.0.0.0:1090 (cookie 0x2a)");
  ExpectSaid(e, StepKind::kMark, "(0x0 & ~0xff) ^ 0x1 = 0x1");
  ASSERT_EQ(e.steps[2].candidates.size(), 2u);
  EXPECT_FALSE(e.steps[2].candidates[0].chosen);
  EXPECT_TRUE(e.steps[2].candidates[1].chosen);
  for (const ExplainStep& step : e.steps) {
    EXPECT_EQ(step.candidates.empty(), step.kind != StepKind::kListener);
  }
}

TEST(Explain, EverySentenceIsOne) {
  const Socket flow = Connected(Proto::kTcp, "10.0.2.99:80", "10.0.1.99:40000", 1);
  for (const Explanation& e :
       {ExplainOver({}, kSyn), ExplainOver({flow}, kSyn), ExplainOver({Minisock(flow)}, kSyn),
        ExplainOver({Listener("0.0.0.0:1090", 1)}, kSyn), ExplainOver({}, kUdp)}) {
    for (const ExplainStep& step : e.steps) {
      ASSERT_FALSE(step.why.empty());
      EXPECT_TRUE(isupper(static_cast<unsigned char>(step.why.front()))) << step.why;
      EXPECT_EQ(step.why.back(), '.') << step.why;
    }
  }
}

TEST(Explain, WhereTheAddressComesFrom) {
  Policy policy{.on_ip4 = Addr("127.0.0.1")};
  Explanation e = ExplainOver({}, kSyn, policy);
  EXPECT_EQ(Steps(e), "established=none laddr=127.0.0.1:80 listener=none mark=0x0");
  ExpectSaid(e, StepKind::kLaddr, "--on-ip");
  ExpectSaid(e, StepKind::kLaddr, "port 80 is the packet's own");
  Packet elsewhere = kSyn;
  elsewhere.iif = 9;
  e = ExplainOver({}, elsewhere);
  ExpectSaid(e, StepKind::kLaddr, "none that qualifies");
  EXPECT_EQ(e.steps[1].result, "10.0.2.99:1090");
}

TEST(Explain, Established) {
  const Socket flow = Connected(Proto::kTcp, "10.0.2.99:80", "10.0.1.99:40000", 1);
  Explanation e = ExplainOver({Opaque(flow), Listener("0.0.0.0:1090", 2)}, kSyn);
  EXPECT_EQ(Steps(e), "established=found listener=skipped transparent=no mark=0x0");
  ExpectSaid(e, StepKind::kEstablished, "a full socket");
  ExpectSaid(e, StepKind::kListener, "No listener is looked up");
  ExpectSaid(e, StepKind::kTransparent, "not transparent");
  ExpectSaid(e, StepKind::kMark, "dropped");

  Socket request = InState(flow, SockState::kNewSynRecv);
  request.flags = static_cast<uint16_t>(request.flags & ~Socket::kTransparentKnown);
  e = ExplainOver({request}, kSyn);
  ExpectSaid(e, StepKind::kEstablished, "a request socket");
  ExpectSaid(e, StepKind::kTransparent, "listener's bit");
  ExpectSaid(e, StepKind::kTransparent, "inferred");
}

TEST(Explain, TimeWait) {
  const Socket minisock =
      Minisock(Connected(Proto::kTcp, "10.0.2.99:80", "10.0.1.99:40000", 1), SockState::kFinWait2);
  Explanation e = ExplainOver({minisock, Listener("0.0.0.0:1090", 2)}, kSyn);
  EXPECT_EQ(Steps(e),
            "established=found time_wait=reopen laddr=10.0.1.1:1090 listener=found "
            "transparent=yes mark=0x1");
  ExpectSaid(e, StepKind::kEstablished, "a TIME_WAIT minisocket");
  ExpectSaid(e, StepKind::kListener, "takes the place of");

  e = ExplainOver({minisock}, kSyn);
  EXPECT_EQ(Steps(e),
            "established=found time_wait=reopen laddr=10.0.1.1:1090 listener=none "
            "transparent=yes mark=0x1");
  ExpectSaid(e, StepKind::kListener, "What stays chosen is the FIN_WAIT2 socket");

  Packet ack = kSyn;
  ack.tcp_flags = kTcpAck;
  e = ExplainOver({minisock, Listener("0.0.0.0:1090", 2)}, ack);
  EXPECT_EQ(Steps(e), "established=found time_wait=keep listener=skipped transparent=yes mark=0x1");
  ExpectSaid(e, StepKind::kTransparent, "keeps the bit");
}

TEST(Explain, Udp) {
  Explanation e = ExplainOver({Connected(Proto::kUdp, "10.0.2.99:53", "10.0.1.99:5000", 1)}, kUdp);
  EXPECT_EQ(Steps(e), "established=found listener=skipped transparent=yes mark=0x1");

  e = ExplainOver({UdpSocket("10.0.2.99:53", 1), UdpSocket("0.0.0.0:1090", 2)}, kUdp);
  EXPECT_EQ(Steps(e),
            "established=ignored laddr=10.0.1.1:1090 listener=found transparent=yes mark=0x1");
  ExpectSaid(e, StepKind::kEstablished, "only a connected UDP socket counts");
  ASSERT_EQ(e.steps[2].candidates.size(), 1u);  // of the second lookup, not of the first

  const Socket wild = Connected(Proto::kUdp, "0.0.0.0:53", "10.0.1.99:5000", 1);
  ExpectSaid(ExplainOver({wild}, kUdp), StepKind::kEstablished, "at the wildcard address");

  e = ExplainOver(
      {Connected(Proto::kUdp, "10.0.1.1:1090", "10.0.1.99:5000", 1), UdpSocket("0.0.0.0:1090", 2)},
      kUdp);
  EXPECT_EQ(Steps(e), "established=none laddr=10.0.1.1:1090 listener=shadowed mark=0x0");
  ExpectSaid(e, StepKind::kListener, "shadows");
}

TEST(Explain, Unparsed) {
  const std::pair<ParseOutcome, const char*> cases[] = {
      {ParseOutcome::kFragment, "defragmentation"},
      {ParseOutcome::kNotTcpOrUdp, "UDP-Lite"},
      {ParseOutcome::kHeaderTruncated, "20 for TCP"}};
  for (const auto& [outcome, said] : cases) {
    Packet p = kSyn;
    p.outcome = outcome;
    p.mark = 0x70;
    const Explanation e = ExplainOver({Listener("0.0.0.0:1090", 1)}, p);
    EXPECT_EQ(Steps(e), "established=skipped mark=0x70");
    ExpectSaid(e, StepKind::kEstablished, said);
  }
}

TEST(Explain, Mark) {
  Packet p = kSyn;
  p.mark = 0xab00;
  const Policy outside{.on_port = 1090, .mark_value = 0x101, .mark_mask = 0x1};
  const Explanation hit = ExplainOver({Listener("0.0.0.0:1090", 1)}, p, outside);
  ExpectSaid(hit, StepKind::kMark, "(0xab00 & ~0x1) ^ 0x101 = 0xaa01");
  ExpectSaid(hit, StepKind::kMark, "outside the mask");
  Policy accept = kPolicy;
  accept.on_miss = OnMiss::kAccept;
  const Explanation miss = ExplainOver({}, p, accept);
  EXPECT_EQ(miss.steps.back().result, "0xab00");
  ExpectSaid(miss, StepKind::kMark, "--on-miss accept");
}

TEST(Explain, WorksOverALookupWithoutCandidates) {
  FakeLookup lookup{.sockets = {Listener("10.0.1.1:1090", 1)}, .primary = Addr("10.0.1.1")};
  const Explanation e = Explain(kSyn, kPolicy, lookup);
  EXPECT_EQ(e.decision.reason, Reason::kListener);
  EXPECT_TRUE(e.steps[2].candidates.empty());
}

TEST(Explain, StepNames) {
  EXPECT_STREQ(StepName(StepKind::kEstablished), "established");
  EXPECT_STREQ(StepName(StepKind::kTimeWait), "time_wait");
  EXPECT_STREQ(StepName(StepKind::kRoute), "route");
  EXPECT_STREQ(StepName(StepKind::kDelivery), "delivery");
}

}  // namespace
}  // namespace utproxy
