// SPDX-License-Identifier: GPL-3.0-or-later
#include "netlink/route_probe.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>

#include <cstring>

#include "base/status.h"
#include "netlink/attributes.h"

namespace utproxy {
namespace {

void PutAddress(nlmsghdr* request, uint16_t type, const Address& address, Family family) {
  if (family == Family::kIpv4) {
    mnl_attr_put_u32(request, type, address.Ipv4());
  } else {
    mnl_attr_put(request, type, 16, address.bytes().data());
  }
}

nlmsghdr* BuildRequest(char* buffer, const Packet& packet) {
  nlmsghdr* request = mnl_nlmsg_put_header(buffer);
  request->nlmsg_type = RTM_GETROUTE;
  request->nlmsg_flags = NLM_F_REQUEST;
  auto* header = static_cast<rtmsg*>(mnl_nlmsg_put_extra_header(request, sizeof(rtmsg)));
  const bool v4 = packet.family == Family::kIpv4;
  header->rtm_family = v4 ? AF_INET : AF_INET6;
  header->rtm_dst_len = header->rtm_src_len = v4 ? 32 : 128;
  header->rtm_flags = RTM_F_LOOKUP_TABLE;
  PutAddress(request, RTA_DST, packet.dst, packet.family);
  PutAddress(request, RTA_SRC, packet.src, packet.family);
  if (packet.iif != 0) mnl_attr_put_u32(request, RTA_IIF, packet.iif);
  mnl_attr_put_u32(request, RTA_MARK, packet.mark);
  mnl_attr_put_u8(request, RTA_IP_PROTO, packet.protocol);
  if (packet.sport != 0) mnl_attr_put_u16(request, RTA_SPORT, htons(packet.sport));
  if (packet.dport != 0) mnl_attr_put_u16(request, RTA_DPORT, htons(packet.dport));
  return request;
}

void ReadAttribute(const nlattr* attr, Family family, RouteAnswer* answer) {
  const uint16_t len = mnl_attr_get_payload_len(attr);
  switch (mnl_attr_get_type(attr)) {
    case RTA_TABLE:
      if (len >= 4) answer->table = mnl_attr_get_u32(attr);
      return;
    case RTA_OIF:
      if (len >= 4) answer->oif = mnl_attr_get_u32(attr);
      return;
    case RTA_GATEWAY:
      if (family == Family::kIpv4 && len >= 4) {
        answer->gateway = Address::FromIpv4(mnl_attr_get_u32(attr));
      } else if (family == Family::kIpv6 && len >= 16) {
        answer->gateway = Address::FromIpv6(mnl_attr_get_payload(attr));
      }
      return;
    default:
      return;
  }
}

RouteAnswer::Kind KindOf(uint8_t route_type) {
  switch (route_type) {
    case RTN_LOCAL:
      return RouteAnswer::Kind::kLocal;
    case RTN_UNICAST:
      return RouteAnswer::Kind::kForward;
    case RTN_BROADCAST:
    case RTN_MULTICAST:
      return RouteAnswer::Kind::kMany;
    default:
      return RouteAnswer::Kind::kOther;
  }
}

RouteAnswer ReadRoute(const nlmsghdr& message, Family family) {
  RouteAnswer answer;
  if (message.nlmsg_type != RTM_NEWROUTE || mnl_nlmsg_get_payload_len(&message) < sizeof(rtmsg)) {
    return answer;
  }
  rtmsg header;
  std::memcpy(&header, mnl_nlmsg_get_payload(&message), sizeof header);
  answer.type = header.rtm_type;
  answer.table = header.rtm_table;
  answer.kind = KindOf(header.rtm_type);
  ForEachAttribute(message, sizeof(rtmsg),
                   [&](const nlattr& attr) { ReadAttribute(&attr, family, &answer); });
  return answer;
}

}  // namespace

absl::StatusOr<RouteAnswer> ProbeRoute(NetlinkSocket* route_socket, const Packet& packet) {
  alignas(nlmsghdr) char buffer[512];
  nlmsghdr* request = BuildRequest(buffer, packet);
  RouteAnswer answer;
  const absl::Status status = route_socket->Transact(
      request, "look up route",
      [&](const nlmsghdr& message) { answer = ReadRoute(message, packet.family); });
  // The kernel's refusal is an answer: it is what would happen to the packet.
  if (!status.ok()) answer.error = ErrnoOf(status);
  if (!status.ok() && answer.error == 0) return status;
  return answer;
}

}  // namespace utproxy
