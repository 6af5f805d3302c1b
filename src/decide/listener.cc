// SPDX-License-Identifier: GPL-3.0-or-later
#include "decide/listener.h"

#include <absl/strings/str_cat.h>

#include <cstddef>

namespace utproxy {
namespace {

enum class Refusal : uint8_t { kNone, kFamily, kV6Only, kPeer, kDevice };

struct Score {
  int points = -1;
  Refusal refusal = Refusal::kNone;
};

constexpr int kTcpDevice = 1;
constexpr int kUdp4Match = 4;  // for the peer's address, its port and the device each
constexpr int kUdp6Match = 1;

Refusal FamilyRefusal(const Packet& packet, const Socket& socket) {
  if (packet.family == Family::kIpv6) return socket.inet6() ? Refusal::kNone : Refusal::kFamily;
  return socket.inet6() && socket.v6only() ? Refusal::kV6Only : Refusal::kNone;
}

Score ScoreTcp(const Packet& packet, const Socket& socket) {
  if (const Refusal r = FamilyRefusal(packet, socket); r != Refusal::kNone) return {-1, r};
  if (!DeviceMatches(socket, packet.iif)) return {-1, Refusal::kDevice};
  int points = socket.ifindex != 0 ? 1 + kTcpDevice : 1;
  if (packet.family == Family::kIpv4 && !socket.inet6()) ++points;
  return {points, Refusal::kNone};
}

Score ScoreUdp(const Packet& packet, const Socket& socket) {
  if (const Refusal r = FamilyRefusal(packet, socket); r != Refusal::kNone) return {-1, r};
  const bool v4 = packet.family == Family::kIpv4;
  const int match = v4 ? kUdp4Match : kUdp6Match;
  int points = v4 ? (socket.inet6() ? 1 : 2) : 0;
  if (!socket.remote.IsUnspecified()) {
    if (socket.remote != packet.src) return {-1, Refusal::kPeer};
    points += match;
  }
  if (socket.remote_port != 0) {
    if (socket.remote_port != packet.sport) return {-1, Refusal::kPeer};
    points += match;
  }
  if (!DeviceMatches(socket, packet.iif)) return {-1, Refusal::kDevice};
  if (socket.ifindex != 0) points += match;
  return {points, Refusal::kNone};
}

std::string LocalText(const Socket& socket) {
  return EndpointToString(socket.local, socket.local_port, socket.family());
}

std::string WhyRefused(const Packet& packet, const Socket& socket, Refusal refusal) {
  switch (refusal) {
    case Refusal::kFamily:
      return "Refused: an AF_INET socket takes no IPv6 packets.";
    case Refusal::kV6Only:
      return "Refused: IPV6_V6ONLY is set, so it takes no IPv4 packets.";
    case Refusal::kPeer:
      return absl::StrCat("Refused: it is connected to ",
                          EndpointToString(socket.remote, socket.remote_port, socket.family()),
                          ", and the packet comes from ",
                          EndpointToString(packet.src, packet.sport, packet.family), ".");
    case Refusal::kDevice:
      return absl::StrCat("Refused: SO_BINDTODEVICE binds it to ifindex ", socket.ifindex,
                          ", and the packet came in on ifindex ", packet.iif, ".");
    case Refusal::kNone:
      break;
  }
  return "";
}

// What makes up the points, as in "1 for a match, 1 for being AF_INET".
std::string PointsText(const Packet& packet, const Socket& socket) {
  const bool v4 = packet.family == Family::kIpv4;
  const bool tcp = socket.proto == Proto::kTcp;
  const int match = tcp ? kTcpDevice : v4 ? kUdp4Match : kUdp6Match;
  std::string text;
  const auto add = [&text](int points, absl::string_view what) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", points, " for ", what);
  };
  if (tcp || v4) add(1, "matching address and port");
  if (v4 && !socket.inet6()) add(1, "being AF_INET");
  if (!tcp && !socket.remote.IsUnspecified()) add(match, "the peer's address");
  if (!tcp && socket.remote_port != 0) add(match, "the peer's port");
  if (socket.ifindex != 0) add(match, "being bound to the ingress interface");
  return text.empty() ? "an unconnected, unbound UDP socket for IPv6 has no points" : text;
}

// The sockets of one bucket (or of two that are one to the kernel), scored.
struct Scan {
  const Socket* best = nullptr;
  int best_points = -1;
  int passing = 0;
};

using ScoreFunction = Score (*)(const Packet&, const Socket&);

void ScanBucket(const Packet& packet, absl::Span<const Socket> bucket, ScoreFunction score,
                Scan* scan) {
  for (const Socket& socket : bucket) {
    const int points = score(packet, socket).points;
    if (points < 0) continue;
    ++scan->passing;
    if (points > scan->best_points) {
      scan->best = &socket;
      scan->best_points = points;
    }
  }
}

// What a bucket's sockets that pass, but were not chosen, are told.
enum class Passed : uint8_t { kLowerOrLater, kConnectedFirst, kExactFirst };

std::string WhyNotChosen(const Socket& socket, int points, const Scan& winner, Passed passed) {
  switch (passed) {
    case Passed::kConnectedFirst:
      return absl::StrCat("Not considered: a connected socket of this very flow, ",
                          LocalText(*winner.best), ", comes before unconnected ones.");
    case Passed::kExactFirst:
      return absl::StrCat("Not considered: ", LocalText(*winner.best),
                          " is bound to the address itself, and no wildcard bind is looked at "
                          "after such a match.");
    case Passed::kLowerOrLater:
      break;
  }
  const bool tie = points == winner.best_points;
  return absl::StrCat("Passed over: ", LocalText(socket), " scores ", points,
                      tie ? ", no more than one before it in the chain"
                          : absl::StrCat(", less than the best with ", winner.best_points),
                      " (unless SO_REUSEPORT or SO_INCOMING_CPU decides otherwise).");
}

void AppendCandidates(const Packet& packet, absl::Span<const Socket> bucket, ScoreFunction score,
                      const Scan& winner, Passed passed, std::vector<Candidate>* candidates) {
  for (const Socket& socket : bucket) {
    const Score s = score(packet, socket);
    Candidate c{.socket = socket, .score = s.points, .chosen = &socket == winner.best, .why = ""};
    if (s.points < 0) {
      c.why = WhyRefused(packet, socket, s.refusal);
    } else if (c.chosen) {
      c.why = absl::StrCat("Chosen with score ", s.points, ": ", PointsText(packet, socket), ".");
    } else {
      c.why = WhyNotChosen(socket, s.points, winner, passed);
    }
    candidates->push_back(std::move(c));
  }
}

ListenerChoice ChoiceOf(const Scan& winner, int passing) {
  ListenerChoice choice;
  if (winner.best != nullptr) choice.socket = *winner.best;
  choice.certain = passing <= 1;
  return choice;
}

}  // namespace

bool DeviceMatches(const Socket& socket, uint32_t dif) {
  return socket.ifindex == 0 || socket.ifindex == dif;
}

bool EstablishedMatches(const Packet& packet, const Socket& socket) {
  if (socket.proto != Proto::kTcp || socket.listening()) return false;
  if (packet.family == Family::kIpv6 && !socket.inet6()) return false;
  return socket.key() == packet.key() && DeviceMatches(socket, packet.iif);
}

ListenerChoice ChooseEstablished(const Packet& packet, absl::Span<const Socket> sockets) {
  ListenerChoice choice;
  for (const Socket& socket : sockets) {
    if (!EstablishedMatches(packet, socket)) continue;
    if (choice.socket) {
      choice.certain = false;
      break;
    }
    choice.socket = socket;
  }
  return choice;
}

ListenerChoice ChooseTcpListener(const Packet& packet, absl::Span<const Socket> exact,
                                 absl::Span<const Socket> wildcard,
                                 std::vector<Candidate>* candidates) {
  Scan winner;
  ScanBucket(packet, exact, ScoreTcp, &winner);
  const bool by_exact = winner.best != nullptr;
  if (!by_exact) ScanBucket(packet, wildcard, ScoreTcp, &winner);
  if (candidates != nullptr) {
    const Passed wildcard_passed = by_exact ? Passed::kExactFirst : Passed::kLowerOrLater;
    AppendCandidates(packet, exact, ScoreTcp, winner, Passed::kLowerOrLater, candidates);
    AppendCandidates(packet, wildcard, ScoreTcp, winner, wildcard_passed, candidates);
  }
  return ChoiceOf(winner, winner.passing);
}

ListenerChoice ChooseUdp(const Packet& packet, absl::Span<const Socket> connected,
                         absl::Span<const Socket> exact, absl::Span<const Socket> wildcard,
                         std::vector<Candidate>* candidates) {
  Scan by_flow, by_address, by_port;
  ScanBucket(packet, connected, ScoreUdp, &by_flow);
  ScanBucket(packet, exact, ScoreUdp, &by_address);
  const bool at_address = by_flow.best != nullptr || by_address.best != nullptr;
  if (!at_address) ScanBucket(packet, wildcard, ScoreUdp, &by_port);
  const Scan& winner = by_flow.best != nullptr      ? by_flow
                       : by_address.best != nullptr ? by_address
                                                    : by_port;
  if (candidates != nullptr) {
    const Passed exact_passed =
        by_flow.best != nullptr ? Passed::kConnectedFirst : Passed::kLowerOrLater;
    const Passed wildcard_passed = at_address ? Passed::kExactFirst : Passed::kLowerOrLater;
    AppendCandidates(packet, connected, ScoreUdp, winner, Passed::kLowerOrLater, candidates);
    AppendCandidates(packet, exact, ScoreUdp, winner, exact_passed, candidates);
    AppendCandidates(packet, wildcard, ScoreUdp, winner, wildcard_passed, candidates);
  }
  return ChoiceOf(winner, by_flow.passing + by_address.passing + by_port.passing);
}

}  // namespace utproxy
