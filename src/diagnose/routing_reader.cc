// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/routing_reader.h"

#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "base/status.h"
#include "netlink/attributes.h"

namespace utproxy {
namespace {

constexpr size_t kMaxGatewayRoutes = 64;

// The family header of a message of the wanted type; false where it is another or too short.
template <typename T>
bool ReadHeader(const nlmsghdr& message, uint16_t type, T* header) {
  if (message.nlmsg_type != type || mnl_nlmsg_get_payload_len(&message) < sizeof(T)) return false;
  std::memcpy(header, mnl_nlmsg_get_payload(&message), sizeof(T));
  return true;
}

std::string TextOf(const nlattr& attr) {
  const char* text = mnl_attr_get_str(&attr);
  return std::string(text, strnlen(text, mnl_attr_get_payload_len(&attr)));
}

uint32_t NumberOf(const nlattr& attr) {
  return mnl_attr_get_payload_len(&attr) >= sizeof(uint32_t) ? mnl_attr_get_u32(&attr) : 0;
}

std::optional<Family> FamilyOf(uint8_t af) {
  if (af == AF_INET) return Family::kIpv4;
  if (af == AF_INET6) return Family::kIpv6;
  return std::nullopt;
}

std::optional<Address> AddressOf(const nlattr& attr, Family family) {
  const uint16_t len = mnl_attr_get_payload_len(&attr);
  if (family == Family::kIpv4 && len == 4) return Address::FromIpv4(mnl_attr_get_u32(&attr));
  if (family == Family::kIpv6 && len == 16) return Address::FromIpv6(mnl_attr_get_payload(&attr));
  return std::nullopt;
}

std::optional<Cidr> PrefixOf(const nlattr& attr, Family family, uint8_t len) {
  const std::optional<Address> address = AddressOf(attr, family);
  if (!address) return std::nullopt;
  return Cidr{.address = *address, .family = family, .prefix_len = len};
}

template <typename Header>
absl::Status Dump(NetlinkSocket* route, uint16_t type, uint8_t family, const char* what,
                  NetlinkSocket::Handler handler) {
  alignas(nlmsghdr) char buffer[256];
  nlmsghdr* request = mnl_nlmsg_put_header(buffer);
  request->nlmsg_type = type;
  request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  // The family is the first byte of all of these headers.
  *static_cast<uint8_t*>(mnl_nlmsg_put_extra_header(request, sizeof(Header))) = family;
  return route->Transact(request, what, handler);
}

}  // namespace

void TakeLink(const nlmsghdr& message, SystemView* view) {
  ifinfomsg header;
  if (!ReadHeader(message, RTM_NEWLINK, &header)) return;
  InterfaceFacts facts;
  facts.index = static_cast<uint32_t>(header.ifi_index);
  facts.up = (header.ifi_flags & IFF_UP) != 0;
  facts.loopback = (header.ifi_flags & IFF_LOOPBACK) != 0;
  ForEachAttribute(message, sizeof header, [&](const nlattr& attr) {
    if (mnl_attr_get_type(&attr) == IFLA_IFNAME) facts.name = TextOf(attr);
    if (mnl_attr_get_type(&attr) == IFLA_MASTER) facts.master = NumberOf(attr);
    if (mnl_attr_get_type(&attr) != IFLA_LINKINFO) return;
    ForEachNested(attr, [&](const nlattr& info) {
      if (mnl_attr_get_type(&info) == IFLA_INFO_KIND) facts.kind = TextOf(info);
    });
  });
  view->interfaces.push_back(std::move(facts));
}

void TakeAddress(const nlmsghdr& message, SystemView* view) {
  ifaddrmsg header;
  if (!ReadHeader(message, RTM_NEWADDR, &header)) return;
  const std::optional<Family> family = FamilyOf(header.ifa_family);
  if (!family) return;
  std::optional<Address> local, address;
  uint32_t flags = header.ifa_flags;
  ForEachAttribute(message, sizeof header, [&](const nlattr& attr) {
    if (mnl_attr_get_type(&attr) == IFA_LOCAL) local = AddressOf(attr, *family);
    if (mnl_attr_get_type(&attr) == IFA_ADDRESS) address = AddressOf(attr, *family);
    if (mnl_attr_get_type(&attr) == IFA_FLAGS) flags = NumberOf(attr);
  });
  if (!local) local = address;
  if (!local) return;
  for (InterfaceFacts& interface : view->interfaces) {
    if (interface.index != header.ifa_index) continue;
    const uint32_t unfit =
        *family == Family::kIpv4 ? IFA_F_SECONDARY : IFA_F_TENTATIVE | IFA_F_DEPRECATED;
    interface.addresses.push_back(
        {.address = *local,
         .family = *family,
         .prefix_len = header.ifa_prefixlen,
         .primary = !interface.Primary(*family) && (flags & unfit) == 0,
         .link_local = *family == Family::kIpv6 && header.ifa_scope == RT_SCOPE_LINK});
  }
}

void TakePolicyRule(const nlmsghdr& message, SystemView* view) {
  fib_rule_hdr header;
  if (!ReadHeader(message, RTM_NEWRULE, &header)) return;
  const std::optional<Family> family = FamilyOf(header.family);
  if (!family) return;
  PolicyRule rule;
  rule.family = *family;
  rule.table = header.table;
  rule.to_table = header.action == FR_ACT_TO_TBL;
  rule.inverted = (header.flags & FIB_RULE_INVERT) != 0;
  rule.action = header.action;
  rule.narrowed = header.tos != 0;
  ForEachAttribute(message, sizeof header, [&](const nlattr& attr) {
    switch (mnl_attr_get_type(&attr)) {
      case FRA_PRIORITY:
        rule.priority = NumberOf(attr);
        break;
      case FRA_FWMARK:
        rule.mark = NumberOf(attr);
        break;
      case FRA_FWMASK:
        rule.mask = NumberOf(attr);
        break;
      case FRA_TABLE:
        rule.table = NumberOf(attr);
        break;
      case FRA_IIFNAME:
        rule.iif = TextOf(attr);
        break;
      case FRA_PROTOCOL:
        if (mnl_attr_get_payload_len(&attr) >= 1) rule.protocol = mnl_attr_get_u8(&attr);
        break;
      case FRA_SRC:
        rule.from = PrefixOf(attr, *family, header.src_len);
        rule.narrowed |= !rule.from;
        break;
      case FRA_DST:
        rule.to = PrefixOf(attr, *family, header.dst_len);
        rule.narrowed |= !rule.to;
        break;
      case FRA_IP_PROTO:
        if (mnl_attr_get_payload_len(&attr) >= 1) rule.ip_proto = mnl_attr_get_u8(&attr);
        break;
      case FRA_SUPPRESS_PREFIXLEN:
        // -1: none is suppressed. Else the table's default route may not count.
        rule.narrowed |= NumberOf(attr) != 0xffffffffu;
        break;
      case FRA_OIFNAME:
      case FRA_UID_RANGE:
      case FRA_SPORT_RANGE:
      case FRA_DPORT_RANGE:
      case FRA_TUN_ID:
      case FRA_L3MDEV:
        rule.narrowed = true;
        break;
      default:
        break;
    }
  });
  // The kernel tells a mask of 0 without a mark for rules that ask for none.
  if (!rule.mark && rule.mask.value_or(0) == 0) rule.mask.reset();
  if (rule.mark && !rule.mask) rule.mask = 0xffffffffu;
  if (rule.mask && !rule.mark) rule.mark = 0;
  if (rule.mask == 0u) rule.mark.reset(), rule.mask.reset();
  view->rules.push_back(std::move(rule));
}

// fe80::/10 and ff00::/8, which every interface has.
bool IsLinkLocal(const Cidr& to) {
  const auto& bytes = to.address.bytes();
  return bytes[0] == 0xff || (bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80);
}

void TakeRoute(const nlmsghdr& message, SystemView* view) {
  rtmsg header;
  if (!ReadHeader(message, RTM_NEWROUTE, &header)) return;
  const std::optional<Family> family = FamilyOf(header.rtm_family);
  if (!family || (header.rtm_flags & RTM_F_CLONED) != 0) return;
  bool gateway = false;
  RouteFacts route{.family = *family, .table = header.rtm_table, .type = header.rtm_type, .oif = 0};
  std::optional<Cidr> to;
  ForEachAttribute(message, sizeof header, [&](const nlattr& attr) {
    if (mnl_attr_get_type(&attr) == RTA_TABLE) route.table = NumberOf(attr);
    if (mnl_attr_get_type(&attr) == RTA_OIF) route.oif = NumberOf(attr);
    if (mnl_attr_get_type(&attr) == RTA_GATEWAY) gateway = true;
    if (mnl_attr_get_type(&attr) == RTA_DST) to = PrefixOf(attr, *family, header.rtm_dst_len);
  });
  if (header.rtm_dst_len == 0) view->routes.push_back(route);
  const bool elsewhere = !to || !IsLinkLocal(*to);
  for (InterfaceFacts& iif : view->interfaces) {
    if (iif.index != route.oif || route.type != RTN_UNICAST || !elsewhere) continue;
    (*family == Family::kIpv4 ? iif.routed4 : iif.routed6) = true;
  }
  // Some are enough: a provider's table has a million.
  if (to && gateway && view->gateway_routes.size() < kMaxGatewayRoutes) {
    view->gateway_routes.push_back({.to = *to, .oif = route.oif});
  }
}

absl::Status ReadRouting(NetlinkSocket* route, SystemView* view) {
  RETURN_IF_ERROR(Dump<ifinfomsg>(route, RTM_GETLINK, AF_UNSPEC, "list interfaces",
                                  [&](const nlmsghdr& m) { TakeLink(m, view); }));
  RETURN_IF_ERROR(Dump<ifaddrmsg>(route, RTM_GETADDR, AF_UNSPEC, "list addresses",
                                  [&](const nlmsghdr& m) { TakeAddress(m, view); }));
  for (const uint8_t family : {uint8_t{AF_INET}, uint8_t{AF_INET6}}) {
    // A kernel without the family, or without policy routing, has none.
    (void)Dump<fib_rule_hdr>(route, RTM_GETRULE, family, "list policy rules",
                             [&](const nlmsghdr& m) { TakePolicyRule(m, view); });
    (void)Dump<rtmsg>(route, RTM_GETROUTE, family, "list routes",
                      [&](const nlmsghdr& m) { TakeRoute(m, view); });
  }
  std::stable_sort(
      view->rules.begin(), view->rules.end(),
      [](const PolicyRule& a, const PolicyRule& b) { return a.priority < b.priority; });
  return absl::OkStatus();
}

}  // namespace utproxy
