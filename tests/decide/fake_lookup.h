// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_DECIDE_FAKE_LOOKUP_H_
#define UTPROXY_TESTS_DECIDE_FAKE_LOOKUP_H_

#include <optional>
#include <string>
#include <vector>

#include "utproxy/decide.h"

namespace utproxy {

// A lookup with nothing of the kernel's rules in it: it gives the first socket of a list that has
// the very address and port asked for, and keeps what it was asked.
struct FakeLookup {
  std::vector<Socket> sockets;
  std::optional<Address> primary;
  std::vector<std::string>
      calls;  // "established", "listener 10.0.1.1:1090", "udp ...", "primary 3"

  std::optional<Socket> TcpEstablished(const Packet& packet) {
    calls.push_back("established");
    for (const Socket& s : sockets) {
      if (!s.listening() && s.key() == packet.key()) return s;
    }
    return std::nullopt;
  }
  std::optional<Socket> TcpListener(const Packet& packet, const Address& laddr, uint16_t lport) {
    calls.push_back("listener " + EndpointToString(laddr, lport, packet.family));
    for (const Socket& s : sockets) {
      if (s.listening() && s.local == laddr && s.local_port == lport) return s;
    }
    return std::nullopt;
  }
  std::optional<Socket> Udp(const Packet& packet, const Address& laddr, uint16_t lport) {
    calls.push_back("udp " + EndpointToString(laddr, lport, packet.family));
    for (const Socket& s : sockets) {
      if (s.proto == Proto::kUdp && (s.local == laddr || s.local.IsUnspecified()) &&
          s.local_port == lport) {
        return s;
      }
    }
    return std::nullopt;
  }
  std::optional<Address> PrimaryAddress(uint32_t ifindex, Family) {
    calls.push_back("primary " + std::to_string(ifindex));
    return primary;
  }
};
static_assert(SocketLookup<FakeLookup>);

}  // namespace utproxy

#endif  // UTPROXY_TESTS_DECIDE_FAKE_LOOKUP_H_
