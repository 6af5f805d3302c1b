// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace/port_lists.h"

namespace utproxy {
namespace {

std::string BytesOf(const FlowKey& key) {
  return std::string(reinterpret_cast<const char*>(&key), sizeof key);
}

}  // namespace

PortLists::PortLists(const std::vector<Socket>& sockets, std::vector<InterfaceAddress> addresses)
    : addresses_(std::move(addresses)), nobody_({}, {}) {
  absl::flat_hash_map<std::pair<Proto, uint16_t>, std::vector<Socket>> by_port;
  for (const Socket& socket : sockets) {
    if (socket.proto == Proto::kTcp && !socket.listening()) {
      connections_[BytesOf(socket.key())].push_back(socket);
    } else {
      by_port[{socket.proto, socket.local_port}].push_back(socket);
    }
  }
  for (auto& [port, list] : by_port) {
    ListLookup lookup(std::move(list), {});
    lookup.CollectCandidates(true);
    ports_.emplace(port, std::move(lookup));
  }
  nobody_.CollectCandidates(true);
}

ListLookup& PortLists::ListOf(Proto proto, uint16_t port) {
  const auto it = ports_.find(std::pair(proto, port));
  last_ = it == ports_.end() ? &nobody_ : &it->second;
  last_->Restart();
  return *last_;
}

std::optional<Socket> PortLists::TcpEstablished(const Packet& packet) {
  const auto it = connections_.find(BytesOf(packet.key()));
  if (it == connections_.end()) return std::nullopt;
  const ListenerChoice choice = ChooseEstablished(packet, it->second);
  certain_ = certain_ && choice.certain;
  return choice.socket;
}

std::optional<Socket> PortLists::TcpListener(const Packet& packet, const Address& laddr,
                                             uint16_t lport) {
  std::optional<Socket> found = ListOf(Proto::kTcp, lport).TcpListener(packet, laddr, lport);
  certain_ = certain_ && last_->certain();
  return found;
}

std::optional<Socket> PortLists::Udp(const Packet& packet, const Address& laddr, uint16_t lport) {
  std::optional<Socket> found = ListOf(Proto::kUdp, lport).Udp(packet, laddr, lport);
  certain_ = certain_ && last_->certain();
  return found;
}

}  // namespace utproxy
