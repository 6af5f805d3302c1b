// SPDX-License-Identifier: GPL-3.0-or-later
// What TPROXY does with a packet, by the library alone: no daemon, no privilege. A DNS query
// to 9.9.9.9 is read from its bytes and decided over a table with one socket, a transparent
// listener on port 1090.
//
//   c++ -std=c++20 decide.cc $(pkg-config --cflags --libs libutproxy) -o decide
#include <utproxy/decide.h>
#include <utproxy/parse.h>
#include <utproxy/socket_table.h>

#include <array>
#include <cstdint>
#include <iostream>
#include <memory>
#include <optional>

namespace {

using utproxy::Address;
using utproxy::Packet;
using utproxy::Socket;

// Where a decision's sockets come from. This one knows of listeners bound to no address only.
struct TableLookup {
  const utproxy::SocketTable& table;

  std::optional<Socket> Bound(utproxy::Proto proto, uint16_t port) const {
    return table.FindOne({.local = Address(),
                          .remote = Address(),
                          .local_port = port,
                          .remote_port = 0,
                          .proto = proto});
  }
  std::optional<Socket> TcpEstablished(const Packet& packet) const {
    return table.FindOne(packet.key());
  }
  std::optional<Socket> TcpListener(const Packet& packet, const Address&, uint16_t lport) const {
    return Bound(packet.proto(), lport);
  }
  std::optional<Socket> Udp(const Packet& packet, const Address&, uint16_t lport) const {
    return Bound(packet.proto(), lport);
  }
  std::optional<Address> PrimaryAddress(uint32_t, utproxy::Family) const {
    return Address::Parse("192.168.1.1");
  }
};

// 192.168.1.7:5000 to 9.9.9.9:53, IPv4 and UDP headers without checksums.
constexpr std::array<uint8_t, 28> kQuery = {0x45, 0,    0,   28,  0, 0, 0, 0, 64, 17,
                                            0,    0,    192, 168, 1, 7, 9, 9, 9,  9,
                                            0x13, 0x88, 0,   53,  0, 8, 0, 0};

}  // namespace

int main() {
  const auto table = utproxy::SocketTable::Create({.max_sockets = 1000});
  if (!table.ok()) {
    std::cerr << table.status() << "\n";
    return 1;
  }
  const Socket listener{.local_port = 1090,
                        .proto = utproxy::Proto::kUdp,
                        .flags = Socket::kTransparent | Socket::kTransparentKnown,
                        .cookie = 1};
  if (!(*table)->Upsert(listener).ok()) return 1;

  Packet packet;
  utproxy::ParsePacket(kQuery, kQuery.size(), &packet);
  const utproxy::Policy policy{.on_port = 1090, .mark_value = 0x1};
  TableLookup lookup{**table};
  const utproxy::Decision decision = utproxy::Decide(packet, policy, lookup);

  std::cout << utproxy::VerdictName(decision.verdict) << " " << utproxy::ReasonName(decision.reason)
            << ", mark " << decision.mark << ", listener at "
            << utproxy::EndpointToString(decision.laddr, decision.lport, packet.family) << "\n";
  return 0;
}
