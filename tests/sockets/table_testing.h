// SPDX-License-Identifier: GPL-3.0-or-later
//
// Hashers and sockets for tests of the socket table.
#ifndef UTPROXY_TESTS_SOCKETS_TABLE_TESTING_H_
#define UTPROXY_TESTS_SOCKETS_TABLE_TESTING_H_

#include <arpa/inet.h>

#include <cstdint>

#include "utproxy/flow_hash.h"
#include "utproxy/socket.h"
#include "utproxy/socket_table.h"

namespace utproxy {

// Every flow in one chain.
template <uint64_t kValue>
struct ConstantHash {
  static absl::StatusOr<ConstantHash> Create() { return ConstantHash(); }
  uint64_t operator()(const FlowKey&) const { return kValue; }
};

// A good hash of which only the bits of `kMask` are left: few buckets, or few tags in many.
template <uint64_t kMask>
class MaskedHash {
 public:
  static absl::StatusOr<MaskedHash> Create() {
    absl::StatusOr<FlowHash> hash = FlowHash::Create();
    if (!hash.ok()) return hash.status();
    return MaskedHash(*hash);
  }
  uint64_t operator()(const FlowKey& key) const { return hash_(key) & kMask; }

 private:
  explicit MaskedHash(const FlowHash& hash) : hash_(hash) {}
  FlowHash hash_;
};

// An established TCP socket; the `n` tell flows apart, half of them IPv4, half IPv6.
inline Socket FlowSocket(uint32_t n, uint64_t cookie) {
  Socket s;
  uint8_t bytes[16] = {0x20, 0x01, 0x0d, 0xb8};
  bytes[15] = 1;
  s.local = n % 2 == 0 ? Address::FromIpv4(htonl(0xc0000201)) : Address::FromIpv6(bytes);
  bytes[12] = static_cast<uint8_t>(n >> 24);
  bytes[13] = static_cast<uint8_t>(n >> 16);
  s.remote =
      n % 2 == 0 ? Address::FromIpv4(htonl(0x0a000000 + (n >> 15))) : Address::FromIpv6(bytes);
  s.local_port = 443;
  s.remote_port = static_cast<uint16_t>(n >> 0);
  s.state = SockState::kEstablished;
  s.flags = static_cast<uint16_t>(Socket::kTransparentKnown | (n % 2 == 0 ? 0 : Socket::kInet6));
  s.cookie = cookie;
  return s;
}

// A wildcard listener on `port`.
inline Socket ListenerSocket(uint16_t port, uint64_t cookie, uint32_t order) {
  Socket s;
  s.local_port = port;
  s.state = SockState::kListen;
  s.cookie = cookie;
  s.order = order;
  return s;
}

}  // namespace utproxy

#endif  // UTPROXY_TESTS_SOCKETS_TABLE_TESTING_H_
