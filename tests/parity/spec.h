// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_SPEC_H_
#define UTPROXY_TESTS_PARITY_SPEC_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "packet/build.h"
#include "utproxy/packet.h"
#include "utproxy/policy.h"
#include "utproxy/socket.h"

// A case of the comparison as plain values: what the generator draws, what namespaces are made of,
// what the shrinker takes apart and what a script is written from.

namespace utproxy::parity {

struct AddressSpec {
  Address address;
  Family family = Family::kIpv4;
  uint8_t prefix_len = 24;
  bool deprecated = false;  // IPv6
  bool tentative = false;   // IPv6; only for the tap device, which does duplicate detection
  friend bool operator==(const AddressSpec&, const AddressSpec&) = default;
};

// Devices p0 and p1 are tun, p2 is tap.
inline constexpr int kDevices = 3;
inline constexpr int kTapDevice = 2;
using DeviceAddresses = std::array<std::vector<AddressSpec>, kDevices>;
std::string DeviceName(int device);

struct SocketSpec {
  Proto proto = Proto::kTcp;
  bool inet6 = false;                   // AF_INET6
  SockState state = SockState::kClose;  // as in Socket; kTimeWait and kNewSynRecv too
  bool fin_wait2_minisock = false;      // with kTimeWait: the substate
  Address local;                        // IPv4 ones are mapped where inet6
  Address remote;
  uint16_t local_port = 0;
  uint16_t remote_port = 0;
  bool transparent = false;  // as the packets find it
  bool switched = false;     // it was the opposite until after bind, listen, connect
  bool v6only = false;
  bool reuseport = false;
  // Connected UDP, IPv4: bound to the wildcard address before connect(), which leaves it so where
  // no interface has an address. The local address is then unspecified.
  bool wildcard_receive = false;
  int device = -1;  // SO_BINDTODEVICE, or where the request's SYN comes in; -1: none
  // Bound to this device (-1: none) until after bind and listen, which conflict less then; -2: not.
  int first_device = -2;
  int incoming_cpu = -1;
  // Of minisockets and request sockets: a packet of its flow is decided before it becomes one
  // (or right after), as of every connection that goes through the router.
  bool observed = true;
  bool absent = false;  // not made: it has been closed, or another one was in its way
  uint32_t id = 0;      // its SO_MARK; names it in outcomes

  bool minisocket() const {
    return proto == Proto::kTcp &&
           (state == SockState::kTimeWait || state == SockState::kNewSynRecv);
  }
  // The family of the addresses.
  Family wire_family() const {
    return inet6 && !local.IsV4Mapped() && !remote.IsV4Mapped() ? Family::kIpv6 : Family::kIpv4;
  }
  friend bool operator==(const SocketSpec&, const SocketSpec&) = default;
};

// A flow that a foreign sk_lookup program gives to a socket.
struct SteerSpec {
  Family family = Family::kIpv4;
  FlowKey flow;
  uint32_t id = 0;  // of the socket
};

struct PacketSpec {
  Packet packet;   // iif is filled in when it is sent
  int device = 0;  // comes in here
  BuildOptions build;
  size_t cut = 0;         // bytes taken off the end, the IP header's length told truly
  uint8_t fragments = 1;  // sent in so many parts
  bool has_ah = false;
};

// One TPROXY rule and the packets' world around it.
struct Scene {
  DeviceAddresses addresses;
  std::vector<SocketSpec> sockets;
  std::vector<SteerSpec> steers;
};

enum class Oracle : uint8_t { kXt, kNft };
inline constexpr std::array kOracles = {Oracle::kXt, Oracle::kNft};
const char* OracleName(Oracle oracle);

// What became of one packet.
struct Outcome {
  enum class Who : uint8_t { kNone, kFull, kMinisocket };
  bool hit = false;
  uint32_t mark = 0;  // where hit
  Who who = Who::kNone;
  uint32_t id = 0;  // of a full socket
  friend bool operator==(const Outcome&, const Outcome&) = default;
};
std::string OutcomeText(const Outcome& outcome);

// The bytes of a packet before it is cut into fragments, with its marks for the rules: `dscp`
// chooses the rule, `mark_index` the mark it starts with (by TTL or hop limit), `id` (IPv4 ID, flow
// label) names it.
std::vector<uint8_t> PacketBytes(const PacketSpec& spec, uint8_t dscp, uint8_t mark_index,
                                 uint16_t id);
// The parts that are sent, in order; one where it is not to be fragmented or too short for that.
std::vector<std::vector<uint8_t>> Fragments(const PacketSpec& spec,
                                            const std::vector<uint8_t>& bytes);

std::string SocketText(const SocketSpec& spec);
std::string PacketText(const PacketSpec& spec);
std::string PolicyText(const Policy& policy);

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_SPEC_H_
