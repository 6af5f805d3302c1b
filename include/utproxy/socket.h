// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_SOCKET_H_
#define UTPROXY_SOCKET_H_

#include <cstdint>
#include <type_traits>

#include "utproxy/address.h"
#include "utproxy/flow.h"

namespace utproxy {

// Socket states by their kernel numbers (enum in include/net/tcp_states.h), which sock_diag speaks.
enum class SockState : uint8_t {
  kEstablished = 1,
  kSynSent = 2,
  kSynRecv = 3,
  kFinWait1 = 4,
  kFinWait2 = 5,
  kTimeWait = 6,
  kClose = 7,  // for UDP: not connected
  kCloseWait = 8,
  kLastAck = 9,
  kListen = 10,
  kClosing = 11,
  kNewSynRecv = 12,  // a request socket: the handshake's first half
};

// "ESTABLISHED", "TIME_WAIT", ...; for UDP "CONNECTED" and "UNCONNECTED".
const char* SockStateName(SockState state, Proto proto);

// One kernel socket as sock_diag tells of it, and one entry of the socket table: a plain value of
// one cache line. Ports and marks in host byte order.
struct Socket {
  enum Flag : uint16_t {
    kTransparent = 1 << 0,       // IP_TRANSPARENT / IPV6_TRANSPARENT, or inherited from such
    kTransparentKnown = 1 << 1,  // kTransparent was reported or inherited, not assumed
    kV6Only = 1 << 2,            // IPV6_V6ONLY; reported for LISTEN and unconnected UDP
    kInet6 = 1 << 3,             // sk_family is AF_INET6
    kMinisock = 1 << 4,          // a TIME_WAIT minisocket, whatever its substate
    kUpperLayer = 1 << 5,        // a protocol above TCP has it (icsk_ulp_ops): MPTCP, kernel TLS
  };

  Address local;   // the receive address; unspecified for a wildcard bind
  Address remote;  // unspecified where not connected
  uint16_t local_port = 0;
  uint16_t remote_port = 0;
  Proto proto = Proto::kTcp;
  SockState state = SockState::kClose;
  uint16_t flags = 0;
  uint64_t cookie = 0;   // names the kernel socket for its whole life, and its minisockets
  uint32_t ifindex = 0;  // SO_BINDTODEVICE; 0 where not bound
  uint32_t inode = 0;    // 0 for request sockets and minisockets
  uint32_t mark = 0;     // SO_MARK; 0 without CAP_NET_ADMIN
  uint32_t order = 0;    // position in the dump: chain order among sockets of one address and port

  bool transparent() const { return (flags & kTransparent) != 0; }
  bool transparent_known() const { return (flags & kTransparentKnown) != 0; }
  bool v6only() const { return (flags & kV6Only) != 0; }
  bool inet6() const { return (flags & kInet6) != 0; }
  // In the sense of sk_state == TCP_TIME_WAIT, which a minisocket has also in substate FIN_WAIT2.
  bool time_wait() const {
    return (flags & kMinisock) != 0 || (proto == Proto::kTcp && state == SockState::kTimeWait);
  }
  // The kernel takes no such socket into a map of sockets (sk_psock_init), so that no sk_lookup
  // program can lead to it.
  bool in_no_map() const { return (flags & kUpperLayer) != 0; }
  bool listening() const { return proto == Proto::kTcp && state == SockState::kListen; }
  bool request() const {
    return proto == Proto::kTcp &&
           (state == SockState::kNewSynRecv || (state == SockState::kSynRecv && inode == 0));
  }
  // Has a peer: not listening, and for UDP, connected.
  bool connected() const {
    return proto == Proto::kUdp ? state == SockState::kEstablished : state != SockState::kListen;
  }
  Family family() const { return inet6() ? Family::kIpv6 : Family::kIpv4; }

  FlowKey key() const {
    return FlowKey{.local = local,
                   .remote = remote,
                   .local_port = local_port,
                   .remote_port = remote_port,
                   .proto = proto};
  }

  friend bool operator==(const Socket&, const Socket&) = default;
};
static_assert(sizeof(Socket) == 64);
static_assert(std::is_trivially_copyable_v<Socket>);
static_assert(std::has_unique_object_representations_v<Socket>);

}  // namespace utproxy

#endif  // UTPROXY_SOCKET_H_
