// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TRACE_PORT_LISTS_H_
#define UTPROXY_TRACE_PORT_LISTS_H_

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "decide/list_lookup.h"

namespace utproxy {

// ListLookup for many sockets: a list a port, TCP connections by their flow. For one thread.
class PortLists {
 public:
  // As ListLookup: sockets of the same order stay in the order given.
  PortLists(const std::vector<Socket>& sockets, std::vector<InterfaceAddress> addresses);

  std::optional<Socket> TcpEstablished(const Packet& packet);
  std::optional<Socket> TcpListener(const Packet& packet, const Address& laddr, uint16_t lport);
  std::optional<Socket> Udp(const Packet& packet, const Address& laddr, uint16_t lport);
  std::optional<Address> PrimaryAddress(uint32_t ifindex, Family family) {
    return PrimaryAddressOf(addresses_, ifindex, family);
  }

  // Of the last TcpListener or Udp.
  const std::vector<Candidate>& candidates() const { return last_->candidates(); }
  // As ListLookup::certain(), which see.
  bool certain() const { return certain_; }
  void Restart() { certain_ = true; }

 private:
  ListLookup& ListOf(Proto proto, uint16_t port);

  const std::vector<InterfaceAddress> addresses_;
  absl::flat_hash_map<std::string, std::vector<Socket>> connections_;  // by FlowKey, as bytes
  absl::flat_hash_map<std::pair<Proto, uint16_t>, ListLookup> ports_;
  ListLookup nobody_;
  ListLookup* last_ = &nobody_;
  bool certain_ = true;
};
static_assert(SocketLookup<PortLists>);

}  // namespace utproxy

#endif  // UTPROXY_TRACE_PORT_LISTS_H_
