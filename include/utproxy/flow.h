// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_FLOW_H_
#define UTPROXY_FLOW_H_

#include <netinet/in.h>

#include <cstdint>
#include <type_traits>

#include "utproxy/address.h"

namespace utproxy {

enum class Proto : uint8_t { kTcp = IPPROTO_TCP, kUdp = IPPROTO_UDP };

// "tcp" or "udp".
constexpr const char* ProtoName(Proto proto) { return proto == Proto::kTcp ? "tcp" : "udp"; }

// A flow as the local host sees it: `local` is a packet's destination, `remote` its source.
// Ports are in host byte order. All 40 bytes are defined (the padding is a zero member), so the
// key can be hashed and compared as bytes.
struct FlowKey {
  Address local;
  Address remote;
  uint16_t local_port = 0;
  uint16_t remote_port = 0;
  Proto proto = Proto::kTcp;
  uint8_t zero[3] = {0, 0, 0};

  friend bool operator==(const FlowKey&, const FlowKey&) = default;
};
static_assert(sizeof(FlowKey) == 40);
static_assert(std::has_unique_object_representations_v<FlowKey>);

}  // namespace utproxy

#endif  // UTPROXY_FLOW_H_
