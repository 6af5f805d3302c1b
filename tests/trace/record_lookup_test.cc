// SPDX-License-Identifier: GPL-3.0-or-later
// A record explained is the decision that was recorded, whatever it was, with and without the
// sockets around it; and where those are the ones that it was made over, step by step the same.
#include "trace/record_lookup.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

#include "decide/explain.h"

namespace utproxy {
namespace {

constexpr uint32_t kIif = 3;

const char* const kAddresses[] = {"10.0.0.1", "203.0.113.80", "10.0.0.9"};

Address AnyAddress(std::mt19937& random) { return *Address::Parse(kAddresses[random() % 3]); }

// Few addresses and ports, so that everything meets everything.
Socket AnySocket(std::mt19937& random, uint64_t cookie) {
  Socket s;
  s.proto = random() % 2 == 0 ? Proto::kTcp : Proto::kUdp;
  s.cookie = cookie;
  s.inode = static_cast<uint32_t>(cookie);
  s.local_port = static_cast<uint16_t>(80 + random() % 2);
  if (random() % 3 != 0) s.local = AnyAddress(random);
  s.flags = static_cast<uint16_t>(Socket::kTransparentKnown |
                                  (random() % 2 == 0 ? Socket::kTransparent : 0));
  const bool connected = random() % 2 == 0;
  if (connected) {
    s.remote = *Address::Parse("10.0.0.2");
    s.remote_port = static_cast<uint16_t>(4000 + random() % 2);
    s.state = SockState::kEstablished;
    if (s.proto == Proto::kTcp) {
      if (s.local.IsUnspecified()) s.local = AnyAddress(random);
      if (random() % 2 == 0) {
        s.state = SockState::kTimeWait;
        s.flags |= Socket::kMinisock;
        s.inode = 0;
      }
    }
  } else {
    s.state = s.proto == Proto::kTcp ? SockState::kListen : SockState::kClose;
  }
  return s;
}

Packet AnyPacket(std::mt19937& random) {
  Packet p;
  p.src = *Address::Parse("10.0.0.2");
  p.dst = AnyAddress(random);
  p.sport = static_cast<uint16_t>(4000 + random() % 2);
  p.dport = static_cast<uint16_t>(80 + random() % 2);
  p.protocol = random() % 2 == 0 ? IPPROTO_TCP : IPPROTO_UDP;
  if (p.is_tcp()) p.tcp_flags = random() % 2 == 0 ? kTcpSyn : kTcpAck;
  p.iif = kIif;
  p.mark = random() % 2 == 0 ? 0 : 0xa0;
  if (random() % 16 == 0) p.outcome = static_cast<ParseOutcome>(1 + random() % 3);
  return p;
}

void ExpectSame(const Decision& a, const Decision& b) {
  ASSERT_EQ(a.verdict, b.verdict);
  ASSERT_EQ(a.reason, b.reason);
  ASSERT_EQ(a.mark, b.mark);
  ASSERT_EQ(a.listener_looked_up, b.listener_looked_up);
  ASSERT_EQ(a.laddr, b.laddr);
  ASSERT_EQ(a.lport, b.lport);
  ASSERT_EQ(a.time_wait_cookie, b.time_wait_cookie);
  ASSERT_EQ(a.socket, b.socket);
}

std::string TextOf(const std::vector<ExplainStep>& steps) {
  std::string text;
  for (const ExplainStep& step : steps) {
    text += std::string(StepName(step.kind)) + " " + step.result + " " + step.why + "\n";
    for (const Candidate& c : step.candidates) {
      text += std::to_string(c.socket.cookie) + (c.chosen ? "*" : " ") + c.why + "\n";
    }
  }
  return text;
}

TEST(RecordLookup, LeadsToTheDecisionThatWasRecorded) {
  std::mt19937 random(11);
  std::map<Reason, int> seen;
  for (int round = 0; round < 20000; ++round) {
    std::vector<Socket> sockets;
    for (uint64_t i = 0, n = random() % 6; i < n; ++i) sockets.push_back(AnySocket(random, i + 1));
    std::vector<InterfaceAddress> addresses;
    if (random() % 4 != 0) addresses.push_back({kIif, Family::kIpv4, AnyAddress(random), 0});
    Policy policy{.on_port = static_cast<uint16_t>(random() % 2 == 0 ? 0 : 80),
                  .mark_value = 1,
                  .mark_mask = 0xff};
    if (random() % 4 == 0) policy.on_ip4 = AnyAddress(random);
    if (random() % 4 == 0) policy.on_miss = OnMiss::kAccept;
    const Packet packet = AnyPacket(random);

    PortLists host(sockets, addresses);
    const Explanation truth = Explain(packet, policy, host);
    ++seen[truth.decision.reason];
    TraceRecord record;
    Describe(packet, truth.decision, &record);

    RecordLookup alone(record, nullptr);
    ExpectSame(Decide(packet, policy, alone), truth.decision);
    if (HasFatalFailure()) return;
    PortLists around(sockets, addresses);
    RecordLookup among(record, &around);
    const Explanation again = Explain(packet, policy, among);
    ExpectSame(again.decision, truth.decision);
    if (HasFatalFailure()) return;
    // A minisocket that had to go is not all in the record.
    if (truth.decision.time_wait_cookie == 0) {
      ASSERT_EQ(TextOf(again.steps), TextOf(truth.steps)) << round;
    }
    // Other sockets around it change the story, never the decision.
    std::vector<Socket> others;
    for (uint64_t i = 0; i < 4; ++i) others.push_back(AnySocket(random, 100 + i));
    PortLists elsewhere(others, {});
    RecordLookup misled(record, &elsewhere);
    ExpectSame(Explain(packet, policy, misled).decision, truth.decision);
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(seen.size(), static_cast<size_t>(kReasonCount));
}

}  // namespace
}  // namespace utproxy
