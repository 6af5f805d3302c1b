// SPDX-License-Identifier: GPL-3.0-or-later
#include "netlink/diag_codec.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/sock_diag.h>

#include <cstring>
#include <utility>

#include "netlink/attributes.h"

namespace utproxy {
namespace {

constexpr uint8_t kTimerTimeWait = 3;  // idiag_timer of a minisocket (inet_twsk_diag_fill)
constexpr uint8_t kSockoptTransparentBit = 1 << 5;  // in byte 0 of struct inet_diag_sockopt

uint8_t AfOf(Family family) { return family == Family::kIpv4 ? AF_INET : AF_INET6; }

void PutAddress(const Address& address, Family family, __be32 out[4]) {
  if (family == Family::kIpv4) {
    out[0] = address.Ipv4();
  } else {
    std::memcpy(out, address.bytes().data(), 16);
  }
}

Address GetAddress(uint8_t af, const __be32 in[4]) {
  return af == AF_INET ? Address::FromIpv4(in[0]) : Address::FromIpv6(in);
}

DiagRequest EmptyRequest(uint16_t type, uint16_t flags, Family family, Proto proto) {
  DiagRequest request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = type;
  request.header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  request.body.sdiag_family = AfOf(family);
  request.body.sdiag_protocol = static_cast<uint8_t>(proto);
  return request;
}

void SetCookie(uint64_t cookie, inet_diag_sockid* id) {
  id->idiag_cookie[0] = static_cast<uint32_t>(cookie);
  id->idiag_cookie[1] = static_cast<uint32_t>(cookie >> 32);
}

void SetTuple(const FlowKey& flow, Family family, inet_diag_sockid* id) {
  PutAddress(flow.local, family, id->idiag_src);
  PutAddress(flow.remote, family, id->idiag_dst);
  id->idiag_sport = htons(flow.local_port);
  id->idiag_dport = htons(flow.remote_port);
}

// udp_dump_one reads the tuple the other way round than inet_diag_find_one_icsk.
FlowKey Swapped(const FlowKey& flow) {
  FlowKey swapped = flow;
  std::swap(swapped.local, swapped.remote);
  std::swap(swapped.local_port, swapped.remote_port);
  return swapped;
}

// False where the message is not about a socket of TCP or UDP.
bool ReadAttribute(const nlattr* attr, Socket* socket) {
  const uint16_t len = mnl_attr_get_payload_len(attr);
  switch (mnl_attr_get_type(attr)) {
    case INET_DIAG_SOCKOPT:
      if (len < 1) return true;
      socket->flags |= Socket::kTransparentKnown;
      if ((mnl_attr_get_u8(attr) & kSockoptTransparentBit) != 0) {
        socket->flags |= Socket::kTransparent;
      }
      return true;
    case INET_DIAG_SKV6ONLY:
      if (len >= 1 && mnl_attr_get_u8(attr) != 0) socket->flags |= Socket::kV6Only;
      return true;
    case INET_DIAG_MARK:
      if (len >= 4) socket->mark = mnl_attr_get_u32(attr);
      return true;
    case INET_DIAG_ULP_INFO:
      socket->flags |= Socket::kUpperLayer;
      return true;
    case INET_DIAG_PROTOCOL:
      if (len < 1) return true;
      socket->proto = static_cast<Proto>(mnl_attr_get_u8(attr));
      return socket->proto == Proto::kTcp || socket->proto == Proto::kUdp;
    default:
      return true;
  }
}

}  // namespace

DiagRequest DumpRequest(Family family, Proto proto, uint32_t states) {
  DiagRequest request = EmptyRequest(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, proto);
  request.body.idiag_states = states;
  // Upper layer protocols come with INET_DIAG_INFO only (tcp_diag_get_aux), which locks the sockets
  // that do not listen.
  if (states == kListenStates) request.body.idiag_ext = 1 << (INET_DIAG_INFO - 1);
  return request;
}

DiagRequest ExactRequest(Family family, const FlowKey& flow, uint32_t dif, uint32_t sequence) {
  DiagRequest request = EmptyRequest(SOCK_DIAG_BY_FAMILY, 0, family, flow.proto);
  request.header.nlmsg_seq = sequence;
  request.body.idiag_states = kAllStates;
  SetTuple(flow.proto == Proto::kUdp ? Swapped(flow) : flow, family, &request.body.id);
  request.body.id.idiag_if = dif;
  SetCookie(~uint64_t{0}, &request.body.id);  // any
  return request;
}

DiagRequest DestroyRequest(const Socket& socket, Family family, uint32_t dif) {
  DiagRequest request = EmptyRequest(SOCK_DESTROY, NLM_F_ACK, family, socket.proto);
  request.body.idiag_states = kAllStates;
  SetTuple(socket.key(), family, &request.body.id);
  request.body.id.idiag_if = dif;
  SetCookie(socket.cookie, &request.body.id);
  return request;
}

std::optional<Socket> ReadDiagMessage(const nlmsghdr& message, Proto proto) {
  if (message.nlmsg_type != SOCK_DIAG_BY_FAMILY ||
      mnl_nlmsg_get_payload_len(&message) < sizeof(inet_diag_msg)) {
    return std::nullopt;
  }
  inet_diag_msg msg;
  std::memcpy(&msg, mnl_nlmsg_get_payload(&message), sizeof msg);
  if (msg.idiag_family != AF_INET && msg.idiag_family != AF_INET6) return std::nullopt;
  Socket socket;
  socket.local = GetAddress(msg.idiag_family, msg.id.idiag_src);
  socket.remote = GetAddress(msg.idiag_family, msg.id.idiag_dst);
  socket.local_port = ntohs(msg.id.idiag_sport);
  socket.remote_port = ntohs(msg.id.idiag_dport);
  socket.proto = proto;
  socket.state = static_cast<SockState>(msg.idiag_state);
  if (socket.state > SockState::kNewSynRecv) return std::nullopt;
  if (msg.idiag_family == AF_INET6) socket.flags |= Socket::kInet6;
  socket.cookie = uint64_t{msg.id.idiag_cookie[1]} << 32 | msg.id.idiag_cookie[0];
  socket.ifindex = msg.id.idiag_if;
  socket.inode = msg.idiag_inode;
  bool known = true;
  ForEachAttribute(message, sizeof(inet_diag_msg),
                   [&](const nlattr& attr) { known = ReadAttribute(&attr, &socket) && known; });
  if (!known) return std::nullopt;
  if (socket.proto == Proto::kTcp && !socket.listening() && msg.idiag_timer == kTimerTimeWait) {
    socket.flags |= Socket::kMinisock;
  }
  return socket;
}

}  // namespace utproxy
