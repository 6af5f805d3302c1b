// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_MIRROR_TABLE_LOOKUP_H_
#define UTPROXY_MIRROR_TABLE_LOOKUP_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "decide/listener.h"
#include "decide/spread.h"
#include "mirror/interfaces.h"
#include "utproxy/decide.h"
#include "utproxy/socket_table.h"

namespace utproxy {

// Lets Decide() read the mirror. Any thread; one instance a decision.
class TableLookup {
 public:
  // `spread`: of the rule, where it has several ports, else null. All must outlive this.
  TableLookup(const SocketTable& table, const InterfaceSnapshot& interfaces,
              const Spread* spread = nullptr)
      : table_(table), interfaces_(interfaces), spread_(spread) {}

  std::optional<Socket> TcpEstablished(const Packet& packet);
  std::optional<Socket> TcpListener(const Packet& packet, const Address& laddr, uint16_t lport);
  std::optional<Socket> Udp(const Packet& packet, const Address& laddr, uint16_t lport);
  std::optional<Address> PrimaryAddress(uint32_t ifindex, Family family) {
    return interfaces_.PrimaryAddress(ifindex, family);
  }

  // For Decide(): the port whose turn it is of those that have a listener for this packet; where
  // none has, whose turn it is of all. 0 where the rule has one port.
  uint16_t SpreadPort(const Packet& packet, const Address& laddr) const;
  // What a listener lookup there would come to. Leaves candidates() and certain() alone.
  PortState StateAt(const Packet& packet, const Address& laddr, uint16_t lport) const;

  // Some socket is connected to the datagram's sender from its destination.
  bool UdpConnected(const Packet& packet) const;

  // Whether the last TcpEstablished() found one: a connection, a request socket or a TIME_WAIT.
  bool found_own() const { return found_own_; }

  // False where an answer rested on what sock_diag does not tell (SO_REUSEPORT, chain order).
  bool certain() const { return certain_; }
  // Those of the last listener or UDP lookup, where asked for with collect_candidates().
  const std::vector<Candidate>& candidates() const { return candidates_; }
  void collect_candidates() { collect_ = true; }

 private:
  using Sockets = absl::InlinedVector<Socket, 8>;
  Sockets Bound(Proto proto, const Address& address, uint16_t port) const;
  Sockets WildcardUdp(const Packet& packet, uint16_t lport) const;

  const SocketTable& table_;
  const InterfaceSnapshot& interfaces_;
  const Spread* const spread_;
  std::vector<Candidate> candidates_;
  bool collect_ = false;
  bool certain_ = true;
  bool found_own_ = false;
};
static_assert(SocketLookup<TableLookup>);

}  // namespace utproxy

#endif  // UTPROXY_MIRROR_TABLE_LOOKUP_H_
