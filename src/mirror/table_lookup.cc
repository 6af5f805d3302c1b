// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/table_lookup.h"

namespace utproxy {

std::optional<Socket> TableLookup::TcpEstablished(const Packet& packet) {
  if (packet.sport == 0) return std::nullopt;  // no connection has port 0; a listener's key has
  Sockets found;
  table_.FindAll(packet.key(), &found);
  const ListenerChoice choice = ChooseEstablished(packet, found);
  certain_ = certain_ && choice.certain;
  return choice.socket;
}

bool TableLookup::UdpConnected(const Packet& packet) const {
  return packet.sport != 0 && table_.FindOne(packet.key()).has_value();
}

TableLookup::Sockets TableLookup::Bound(Proto proto, const Address& address, uint16_t port) const {
  Sockets found;
  table_.FindAll(FlowKey{.local = address, .local_port = port, .proto = proto}, &found);
  return found;
}

std::optional<Socket> TableLookup::TcpListener(const Packet& packet, const Address& laddr,
                                               uint16_t lport) {
  candidates_.clear();
  const Sockets exact = Bound(Proto::kTcp, laddr, lport);
  const Sockets wildcard = Bound(Proto::kTcp, Address(), lport);
  const ListenerChoice choice =
      ChooseTcpListener(packet, exact, wildcard, collect_ ? &candidates_ : nullptr);
  certain_ = certain_ && choice.certain;
  return choice.socket;
}

std::optional<Socket> TableLookup::Udp(const Packet& packet, const Address& laddr, uint16_t lport) {
  candidates_.clear();
  Sockets connected;
  FlowKey key = packet.key();
  key.local = laddr;
  key.local_port = lport;
  if (packet.sport != 0) table_.FindAll(key, &connected);
  const Sockets exact = Bound(Proto::kUdp, laddr, lport);
  const Sockets wildcard = Bound(Proto::kUdp, Address(), lport);
  const ListenerChoice choice =
      ChooseUdp(packet, connected, exact, wildcard, collect_ ? &candidates_ : nullptr);
  certain_ = certain_ && choice.certain;
  return choice.socket;
}

}  // namespace utproxy
