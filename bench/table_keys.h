// SPDX-License-Identifier: GPL-3.0-or-later
//
// The sockets and keys that the benchmarks of the socket table share.
#ifndef UTPROXY_BENCH_TABLE_KEYS_H_
#define UTPROXY_BENCH_TABLE_KEYS_H_

#include <absl/hash/hash.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <vector>

#include "utproxy/flow_hash.h"
#include "utproxy/socket.h"

namespace utproxy {

// Clients from a few thousand hosts to a few services, ports as the kernel gives them.
inline Socket MakeSocket(uint64_t n, bool v6) {
  const uint64_t mixed = n * 0x9e3779b97f4a7c15u;
  uint8_t bytes[16] = {0x20, 0x01, 0x0d, 0xb8};
  std::memcpy(&bytes[8], &mixed, 4);
  const auto host = static_cast<uint32_t>(0x0a000000 + (n >> 8));
  Socket s;
  s.remote = v6 ? Address::FromIpv6(bytes) : Address::FromIpv4(__builtin_bswap32(host));
  bytes[15] = static_cast<uint8_t>(1 + n % 3);
  s.local = v6 ? Address::FromIpv6(bytes) : Address::FromIpv4(__builtin_bswap32(0xc6336400));
  s.local_port = 443;
  s.remote_port = static_cast<uint16_t>(32768 + (n & 0xff) * 101 + n % 97);
  s.state = SockState::kEstablished;
  s.cookie = n + 1;
  return s;
}

inline std::vector<Socket> MakeSockets(size_t count, bool v6) {
  std::vector<Socket> sockets;
  sockets.reserve(count);
  for (size_t n = 0; n < count; ++n) sockets.push_back(MakeSocket(n, v6));
  return sockets;
}

// Abseil's own hash, seeded per process by an address, over the key's bytes.
struct AbseilHash {
  struct Bytes {
    const FlowKey& key;
    template <class H>
    friend H AbslHashValue(H h, const Bytes& b) {
      return H::combine_contiguous(std::move(h), reinterpret_cast<const unsigned char*>(&b.key),
                                   sizeof(b.key));
    }
  };
  size_t operator()(const FlowKey& key) const { return absl::HashOf(Bytes{key}); }
};

// The table's hash, with a secret of its own.
struct KeyedHash {
  size_t operator()(const FlowKey& key) const { return hash(key); }
  FlowHash hash = *FlowHash::Create();
};

// Word by word, which is faster than the member-wise operator==.
struct KeyEqual {
  bool operator()(const FlowKey& a, const FlowKey& b) const {
    uint64_t x[5], y[5];
    std::memcpy(x, &a, sizeof(a));
    std::memcpy(y, &b, sizeof(b));
    return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4])) == 0;
  }
};

// Memory that this process has in use.
inline size_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace utproxy

#endif  // UTPROXY_BENCH_TABLE_KEYS_H_
