// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/table_lookup.h"

namespace utproxy {

std::optional<Socket> TableLookup::TcpEstablished(const Packet& packet) {
  if (packet.sport == 0) return std::nullopt;  // no connection has port 0; a listener's key has
  Sockets found;
  table_.FindAll(packet.key(), &found);
  const ListenerChoice choice = ChooseEstablished(packet, found);
  certain_ = certain_ && choice.certain;
  found_own_ = choice.socket.has_value();
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

// A socket that was bound to the wildcard address and connected while the host had no address
// keeps the wildcard as its receive address, and has its peer in its key.
TableLookup::Sockets TableLookup::WildcardUdp(const Packet& packet, uint16_t lport) const {
  Sockets found = Bound(Proto::kUdp, Address(), lport);
  if (packet.sport == 0) return found;
  Sockets connected;
  table_.FindAll(FlowKey{.remote = packet.src,
                         .local_port = lport,
                         .remote_port = packet.sport,
                         .proto = Proto::kUdp},
                 &connected);
  found.insert(found.end(), connected.begin(), connected.end());
  return found;
}

uint16_t TableLookup::SpreadPort(const Packet& packet, const Address& laddr) const {
  if (spread_ == nullptr) return 0;
  const std::optional<size_t> chosen = spread_->Choose(packet, [&](size_t i) {
    return StateAt(packet, laddr, spread_->port(i)) == PortState::kTakes;
  });
  return spread_->port(chosen.value_or(spread_->First(packet)));
}

PortState TableLookup::StateAt(const Packet& packet, const Address& laddr, uint16_t lport) const {
  TableLookup lookup(table_, interfaces_);
  return StateOf(packet.is_tcp() ? lookup.TcpListener(packet, laddr, lport)
                                 : lookup.Udp(packet, laddr, lport));
}

std::optional<Socket> TableLookup::Udp(const Packet& packet, const Address& laddr, uint16_t lport) {
  candidates_.clear();
  Sockets connected;
  FlowKey key = packet.key();
  key.local = laddr;
  key.local_port = lport;
  if (packet.sport != 0) table_.FindAll(key, &connected);
  const Sockets exact = Bound(Proto::kUdp, laddr, lport);
  const Sockets wildcard = WildcardUdp(packet, lport);
  const ListenerChoice choice =
      ChooseUdp(packet, connected, exact, wildcard, collect_ ? &candidates_ : nullptr);
  certain_ = certain_ && choice.certain;
  return choice.socket;
}

}  // namespace utproxy
