// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_DECIDE_SOCKETS_H_
#define UTPROXY_TESTS_DECIDE_SOCKETS_H_

#include <absl/strings/string_view.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <optional>

#include "utproxy/packet.h"
#include "utproxy/socket.h"

namespace utproxy {

inline Address Addr(absl::string_view text) {
  const std::optional<Address> address = Address::Parse(text);
  EXPECT_TRUE(address.has_value()) << text;
  return address.value_or(Address());
}

inline Endpoint EndpointOf(absl::string_view text) {
  const std::optional<Endpoint> endpoint = ParseEndpoint(text);
  EXPECT_TRUE(endpoint.has_value()) << text;
  return endpoint.value_or(Endpoint());
}

inline Packet MakePacket(uint8_t protocol, absl::string_view src, absl::string_view dst) {
  const Endpoint from = EndpointOf(src), to = EndpointOf(dst);
  return Packet{.src = from.address,
                .dst = to.address,
                .sport = from.port,
                .dport = to.port,
                .family = to.family,
                .protocol = protocol,
                .tcp_flags = protocol == IPPROTO_TCP ? kTcpSyn : uint8_t{0},
                .iif = 3,
                .mark = 0};
}
inline Packet Tcp(absl::string_view src, absl::string_view dst) {
  return MakePacket(IPPROTO_TCP, src, dst);
}
inline Packet Udp(absl::string_view src, absl::string_view dst) {
  return MakePacket(IPPROTO_UDP, src, dst);
}

// Transparent, AF_INET6 where `local` is written in brackets.
inline Socket MakeSocket(Proto proto, SockState state, absl::string_view local, uint64_t cookie) {
  const Endpoint at = EndpointOf(local);
  Socket s;
  s.local = at.address;
  s.local_port = at.port;
  s.proto = proto;
  s.state = state;
  s.flags = Socket::kTransparent | Socket::kTransparentKnown;
  if (at.family == Family::kIpv6) s.flags |= Socket::kInet6;
  s.cookie = cookie;
  s.inode = 1000;
  return s;
}
inline Socket Listener(absl::string_view local, uint64_t cookie) {
  return MakeSocket(Proto::kTcp, SockState::kListen, local, cookie);
}
inline Socket UdpSocket(absl::string_view local, uint64_t cookie) {
  return MakeSocket(Proto::kUdp, SockState::kClose, local, cookie);
}
inline Socket Connected(Proto proto, absl::string_view local, absl::string_view peer,
                        uint64_t cookie) {
  Socket s = MakeSocket(proto, SockState::kEstablished, local, cookie);
  s.remote = EndpointOf(peer).address;
  s.remote_port = EndpointOf(peer).port;
  return s;
}

inline Socket Opaque(Socket s) {
  s.flags = static_cast<uint16_t>(s.flags & ~Socket::kTransparent);
  return s;
}
inline Socket InState(Socket s, SockState state) {
  s.state = state;
  return s;
}
// A minisocket; `substate` is TIME_WAIT or FIN_WAIT2.
inline Socket Minisock(Socket s, SockState substate = SockState::kTimeWait) {
  s.state = substate;
  s.flags |= Socket::kMinisock;
  s.inode = 0;
  return s;
}
inline Socket V6Only(Socket s) {
  s.flags |= Socket::kV6Only;
  return s;
}
inline Socket OnDevice(Socket s, uint32_t ifindex) {
  s.ifindex = ifindex;
  return s;
}

}  // namespace utproxy

#endif  // UTPROXY_TESTS_DECIDE_SOCKETS_H_
