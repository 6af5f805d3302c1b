// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_CHURN_MODEL_H_
#define UTPROXY_TESTS_CHURN_MODEL_H_

#include <absl/container/inlined_vector.h>

#include <cstdint>
#include <string>
#include <vector>

#include "utproxy/flow.h"

// What TPROXY does with a packet, given the sockets of one place. Written for this test from the
// kernel's description alone: nothing is shared with the code under test but the words for a
// protocol and a family.
namespace utproxy::churn {

// Where a socket is bound, of the three addresses that matter to a packet.
enum class Bound : uint8_t {
  kAny,        // 0.0.0.0 or ::
  kInterface,  // the ingress interface's first address: what TPROXY looks listeners up by
  kAsked,      // the packet's destination
};

enum class Serves : uint8_t { kIpv4, kIpv6, kBoth };  // kBoth: AF_INET6 without IPV6_V6ONLY

// What a TCP connection's socket may be at a time; several where nobody can know.
inline constexpr uint8_t kFull = 1;
inline constexpr uint8_t kRequest = 2;
inline constexpr uint8_t kTimeWait = 4;
inline constexpr uint8_t kGone = 8;

struct SocketState {
  uint32_t mark = 0;  // its SO_MARK, by which it is known; the low four bits are 0
  Bound bound = Bound::kAny;
  Serves serves = Serves::kIpv4;
  uint16_t peer = 0;  // the client's port it is connected to; 0: a listener, or unconnected
  bool transparent = false;
  // Disconnected again, an AF_INET6 UDP socket keeps its peer's address, though not the port
  // (__udp_disconnect leaves sk_v6_daddr alone), and scores by it.
  bool keeps_peer_address = false;
  uint8_t may_be = kFull;  // connections of TCP only

  bool serves_family(Family family) const {
    return serves == Serves::kBoth || (serves == Serves::kIpv4) == (family == Family::kIpv4);
  }
};

// The sockets of one place: a protocol and a port, and all packets to that port of the one address
// that is asked in each family. In the order in which they were bound.
using PlaceState = std::vector<SocketState>;

// A packet to a place.
struct Probe {
  Family family = Family::kIpv4;
  Proto proto = Proto::kTcp;
  bool syn = false;    // TCP: a pure SYN; else a segment that opens nothing
  uint16_t sport = 0;  // host byte order
};

// What became of a packet: kMiss, kHit where no full socket was found at the INPUT hook, else the
// SO_MARK of the socket found there.
using Outcome = uint32_t;
inline constexpr Outcome kMiss = 0;
inline constexpr Outcome kHit = 1;
using Outcomes = absl::InlinedVector<Outcome, 4>;

// Adds what may become of the packet where the first lookup (by the packet's own address and port)
// finds the place in `first`, and the second (by the listener's) in `second`, to `*outcomes`. In
// the kernel one follows the other, with no lock over both.
void Decide(const Probe& probe, const PlaceState& first, const PlaceState& second,
            Outcomes* outcomes);

bool Contains(const Outcomes& outcomes, Outcome outcome);

// "miss", "hit", "socket 0x120".
std::string Describe(Outcome outcome);
// One socket a word: "0x120@any/v4 opaque".
std::string Describe(const PlaceState& state);

}  // namespace utproxy::churn

#endif  // UTPROXY_TESTS_CHURN_MODEL_H_
