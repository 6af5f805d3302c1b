// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/delivery.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <optional>

#include "base/status.h"

namespace utproxy {
namespace {

using Kind = DeliveryItem::Kind;

constexpr uint32_t kLoopbackIfindex = 1;  // LOOPBACK_IFINDEX, the same in every namespace

uint8_t AddressFamily(Family family) { return family == Family::kIpv4 ? AF_INET : AF_INET6; }

// A request on the stack, with room for the few attributes used here.
class Request {
 public:
  Request(uint16_t type, uint16_t flags) : header_(mnl_nlmsg_put_header(bytes_)) {
    header_->nlmsg_type = type;
    header_->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  }
  template <typename T>
  T* Extra() {
    return static_cast<T*>(mnl_nlmsg_put_extra_header(header_, sizeof(T)));
  }
  void Put(uint16_t type, uint32_t value) { mnl_attr_put_u32(header_, type, value); }
  void PutByte(uint16_t type, uint8_t value) { mnl_attr_put_u8(header_, type, value); }
  nlmsghdr* get() { return header_; }

 private:
  alignas(nlmsghdr) char bytes_[256] = {};
  nlmsghdr* header_;
};

// The attributes of a message by type; pointers into it.
template <size_t N>
std::array<const nlattr*, N> Attributes(const nlmsghdr& nlh, size_t header_size) {
  std::array<const nlattr*, N> found{};
  if (mnl_nlmsg_get_payload_len(&nlh) < header_size) return found;
  const auto keep = [](const nlattr* attribute, void* data) {
    const uint16_t type = mnl_attr_get_type(attribute);
    if (type < N) (*static_cast<decltype(found)*>(data))[type] = attribute;
    return MNL_CB_OK;
  };
  (void)mnl_attr_parse(&nlh, static_cast<unsigned>(header_size), keep, &found);
  return found;
}

std::optional<uint32_t> U32(const nlattr* attribute) {
  if (attribute == nullptr || mnl_attr_get_payload_len(attribute) < sizeof(uint32_t)) {
    return std::nullopt;
  }
  return mnl_attr_get_u32(attribute);
}

std::optional<Family> FamilyOf(uint8_t address_family) {
  if (address_family == AF_INET) return Family::kIpv4;
  if (address_family == AF_INET6) return Family::kIpv6;
  return std::nullopt;  // multicast routing rules and others answer to dumps as well
}

// Selectors that ours do not have: a rule with one is not ours, whatever its protocol.
bool HasOtherSelectors(const std::array<const nlattr*, FRA_MAX + 1>& attributes) {
  for (const int type : {FRA_SRC, FRA_DST, FRA_IIFNAME, FRA_OIFNAME, FRA_L3MDEV, FRA_UID_RANGE,
                         FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE, FRA_TUN_ID}) {
    if (attributes[static_cast<size_t>(type)] != nullptr) return true;
  }
  return false;
}

std::optional<DeliveryItem> ReadOwnRule(const nlmsghdr& nlh) {
  const auto a = Attributes<FRA_MAX + 1>(nlh, sizeof(fib_rule_hdr));
  if (nlh.nlmsg_type != RTM_NEWRULE || a[FRA_PROTOCOL] == nullptr) return std::nullopt;
  const auto* header = static_cast<const fib_rule_hdr*>(mnl_nlmsg_get_payload(&nlh));
  const std::optional<Family> family = FamilyOf(header->family);
  if (!family || mnl_attr_get_payload_len(a[FRA_PROTOCOL]) < 1 ||
      mnl_attr_get_u8(a[FRA_PROTOCOL]) != kRouteProtocol || header->action != FR_ACT_TO_TBL ||
      (header->flags & FIB_RULE_INVERT) != 0 || header->tos != 0 || HasOtherSelectors(a) ||
      U32(a[FRA_PRIORITY]) != kRulePriority) {
    return std::nullopt;
  }
  const auto mark = U32(a[FRA_FWMARK]), mask = U32(a[FRA_FWMASK]);
  if (!mark || !mask) return std::nullopt;
  return DeliveryItem{*family, Kind::kRule, U32(a[FRA_TABLE]).value_or(header->table), *mark,
                      *mask};
}

// A default route, ours or not.
struct DefaultRoute {
  DeliveryItem item;
  uint8_t protocol;
  bool local;  // type local by way of lo
};

std::optional<DefaultRoute> ReadDefaultRoute(const nlmsghdr& nlh) {
  const auto a = Attributes<RTA_MAX + 1>(nlh, sizeof(rtmsg));
  if (nlh.nlmsg_type != RTM_NEWROUTE || mnl_nlmsg_get_payload_len(&nlh) < sizeof(rtmsg)) {
    return std::nullopt;
  }
  const auto* header = static_cast<const rtmsg*>(mnl_nlmsg_get_payload(&nlh));
  const std::optional<Family> family = FamilyOf(header->rtm_family);
  if (!family || header->rtm_dst_len != 0 || (header->rtm_flags & RTM_F_CLONED) != 0) {
    return std::nullopt;
  }
  const DeliveryItem item{*family, Kind::kRoute, U32(a[RTA_TABLE]).value_or(header->rtm_table)};
  return DefaultRoute{item, header->rtm_protocol,
                      header->rtm_type == RTN_LOCAL && U32(a[RTA_OIF]) == kLoopbackIfindex};
}

// Repeats a dump that the kernel says was disturbed, so that nothing is missed.
template <typename Fill>
absl::Status Dump(NetlinkSocket& socket, uint16_t type, absl::string_view what, Fill fill,
                  NetlinkSocket::Handler handler, absl::FunctionRef<void()> restart) {
  for (int attempt = 0; attempt < 10; ++attempt) {
    Request request(type, NLM_F_DUMP);
    fill(request);
    bool interrupted = false;
    restart();
    const absl::Status status = socket.Transact(request.get(), what, handler, &interrupted);
    if (!status.ok() || !interrupted) return status;
  }
  return absl::UnavailableError(absl::StrCat(what, ": the list keeps changing"));
}

// The default routes of `family`. With strict checking the kernel filters by `protocol` and
// `table` (0: any), which spares reading a full Internet table; without, they are filtered later.
absl::StatusOr<std::vector<DefaultRoute>> ListDefaultRoutes(NetlinkSocket& socket, Family family,
                                                            uint8_t protocol, uint32_t table) {
  const int on = 1;
  (void)::setsockopt(socket.fd(), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof on);
  std::vector<DefaultRoute> routes;
  const auto fill = [&](Request& request) {
    auto* header = request.Extra<rtmsg>();
    header->rtm_family = AddressFamily(family);
    header->rtm_protocol = protocol;
    if (table != 0) request.Put(RTA_TABLE, table);
  };
  const absl::Status status = Dump(
      socket, RTM_GETROUTE, "list routes", fill,
      [&](const nlmsghdr& nlh) {
        if (auto route = ReadDefaultRoute(nlh); route && route->item.family == family) {
          routes.push_back(*route);
        }
      },
      [&] { routes.clear(); });
  // A family that the kernel lacks has no routes, a table that was never used does not exist.
  if (!status.ok() && !absl::IsNotFound(status) && !absl::IsUnimplemented(status)) return status;
  return routes;
}

absl::Status ListOwnRules(NetlinkSocket& socket, Family family, std::vector<DeliveryItem>& items) {
  std::vector<DeliveryItem> rules;
  const absl::Status status = Dump(
      socket, RTM_GETRULE, "list routing rules",
      [&](Request& request) { request.Extra<fib_rule_hdr>()->family = AddressFamily(family); },
      [&](const nlmsghdr& nlh) {
        if (auto rule = ReadOwnRule(nlh); rule && rule->family == family) rules.push_back(*rule);
      },
      [&] { rules.clear(); });
  if (!status.ok() && !absl::IsUnimplemented(status)) return status;
  items.insert(items.end(), rules.begin(), rules.end());
  return absl::OkStatus();
}

std::string ItemText(const DeliveryItem& item) {
  if (item.kind == Kind::kRoute) return absl::StrCat("local default dev lo table ", item.table);
  const std::string mark = item.mask == 0xffffffffu
                               ? absl::StrFormat("0x%x", item.mark)
                               : absl::StrFormat("0x%x/0x%x", item.mark, item.mask);
  return absl::StrCat("priority ", kRulePriority, " fwmark ", mark, " lookup ", item.table);
}

std::string ItemName(const DeliveryItem& item) {
  return absl::StrCat(FamilyName(item.family),
                      item.kind == Kind::kRoute ? " route '" : " routing rule '", ItemText(item),
                      "'");
}

absl::Status Change(NetlinkSocket& socket, const DeliveryItem& item, bool add) {
  const uint16_t flags = add ? NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL : NLM_F_ACK;
  const std::string what = absl::StrCat(add ? "add " : "delete ", ItemName(item));
  if (item.kind == Kind::kRule) {
    Request request(add ? RTM_NEWRULE : RTM_DELRULE, flags);
    auto* header = request.Extra<fib_rule_hdr>();
    header->family = AddressFamily(item.family);
    header->action = FR_ACT_TO_TBL;
    request.Put(FRA_PRIORITY, kRulePriority);
    request.Put(FRA_FWMARK, item.mark);
    request.Put(FRA_FWMASK, item.mask);
    request.Put(FRA_TABLE, item.table);
    request.PutByte(FRA_PROTOCOL, kRouteProtocol);
    return socket.Transact(request.get(), what, [](const nlmsghdr&) {});
  }
  Request request(add ? RTM_NEWROUTE : RTM_DELROUTE, flags);
  auto* header = request.Extra<rtmsg>();
  header->rtm_family = AddressFamily(item.family);
  header->rtm_protocol = kRouteProtocol;
  header->rtm_type = RTN_LOCAL;
  header->rtm_scope = item.family == Family::kIpv4 ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
  request.Put(RTA_TABLE, item.table);
  request.Put(RTA_OIF, kLoopbackIfindex);
  return socket.Transact(request.get(), what, [](const nlmsghdr&) {});
}

// Why a route could not be added where one exists already: fine if that one does the same.
absl::Status ExplainExisting(NetlinkSocket& socket, const DeliveryItem& item) {
  if (item.kind == Kind::kRule) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto routes, ListDefaultRoutes(socket, item.family, 0, item.table));
  for (const DefaultRoute& route : routes) {
    if (route.item == item && route.local) return absl::OkStatus();
  }
  return WithRemedy(absl::FailedPreconditionError(absl::StrCat(
                        "add ", ItemName(item), ": table ", item.table,
                        " has another default route, which leads away from this host")),
                    "choose a route table that nothing else uses, with --table");
}

absl::Status CheckLoopback(NetlinkSocket& socket) {
  Request request(RTM_GETLINK, 0);
  request.Extra<ifinfomsg>()->ifi_index = kLoopbackIfindex;
  bool up = false;
  RETURN_IF_ERROR(socket.Transact(request.get(), "look at interface lo", [&](const nlmsghdr& nlh) {
    if (mnl_nlmsg_get_payload_len(&nlh) < sizeof(ifinfomsg)) return;
    const auto* link = static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(&nlh));
    up = (link->ifi_flags & IFF_UP) != 0;
  }));
  if (up) return absl::OkStatus();
  return WithRemedy(
      absl::FailedPreconditionError("interface lo: is down, and local delivery goes by way of it"),
      "ip link set lo up");
}

// EACCES is what a route over an interface without IPv6 gets (sysctl disable_ipv6), EAFNOSUPPORT
// and EOPNOTSUPP come from kernels without IPv6.
bool MeansIpv6IsOff(const DeliveryItem& item, const absl::Status& status) {
  return item.family == Family::kIpv6 &&
         (absl::IsPermissionDenied(status) || absl::IsUnimplemented(status));
}

absl::Status AddOne(NetlinkSocket& socket, const DeliveryItem& item, DeliveryChange& change) {
  const absl::Status status = Change(socket, item, true);
  if (absl::IsAlreadyExists(status)) return ExplainExisting(socket, item);
  if (status.ok()) change.added.push_back(item);
  return status;
}

absl::Status AddAll(NetlinkSocket& socket, absl::Span<const DeliveryItem> wanted,
                    DeliveryChange& change) {
  ASSIGN_OR_RETURN(const std::vector<DeliveryItem> own, ListOwnDelivery(socket));
  for (const DeliveryItem& item : wanted) {
    if (std::find(own.begin(), own.end(), item) != own.end()) continue;
    const absl::Status status = AddOne(socket, item, change);
    if (MeansIpv6IsOff(item, status)) {
      change.warnings.push_back(
          absl::StrCat("IPv6 is off in this network namespace, only IPv4 is delivered (",
                       status.message(), ")"));
      return absl::OkStatus();  // IPv6 items come last, its routes first
    }
    RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<DeliveryItem> WantedDelivery(absl::Span<const RulesetSpec> specs) {
  std::vector<DeliveryItem> items;
  for (const RulesetSpec& spec : specs) {
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
      items.push_back({family, Kind::kRoute, spec.route_table});
      items.push_back({family, Kind::kRule, spec.route_table, spec.mark_value & spec.mark_mask,
                       spec.mark_mask});
    }
  }
  std::sort(items.begin(), items.end());
  items.erase(std::unique(items.begin(), items.end()), items.end());
  return items;
}

std::string DeliveryCommand(const DeliveryItem& item) {
  return absl::StrCat(item.family == Family::kIpv4 ? "ip " : "ip -6 ",
                      item.kind == Kind::kRoute ? "route add " : "rule add ", ItemText(item),
                      " protocol ", static_cast<int>(kRouteProtocol));
}

absl::StatusOr<std::vector<DeliveryItem>> ListOwnDelivery(NetlinkSocket& socket) {
  std::vector<DeliveryItem> items;
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    ASSIGN_OR_RETURN(const auto routes, ListDefaultRoutes(socket, family, kRouteProtocol, 0));
    for (const DefaultRoute& route : routes) {
      if (route.local && route.protocol == kRouteProtocol) items.push_back(route.item);
    }
    RETURN_IF_ERROR(ListOwnRules(socket, family, items));
  }
  return items;
}

absl::StatusOr<DeliveryChange> AddDelivery(NetlinkSocket& socket,
                                           absl::Span<const DeliveryItem> wanted) {
  RETURN_IF_ERROR(CheckLoopback(socket));
  DeliveryChange change;
  const absl::Status status = AddAll(socket, wanted, change);
  if (status.ok()) return change;
  (void)DeleteDelivery(socket, change.added);
  return status;
}

absl::StatusOr<std::vector<DeliveryItem>> RestoreDelivery(NetlinkSocket& socket,
                                                          absl::Span<const DeliveryItem> wanted) {
  DeliveryChange change;
  for (const DeliveryItem& item : wanted) {
    const absl::Status status = AddOne(socket, item, change);
    if (MeansIpv6IsOff(item, status)) break;
    RETURN_IF_ERROR(status);
  }
  return std::move(change.added);
}

absl::Status DeleteDelivery(NetlinkSocket& socket, absl::Span<const DeliveryItem> items) {
  absl::Status first;
  // Rules were added last and go first, so that no packet is led into an empty table.
  for (size_t i = items.size(); i-- > 0;) {
    const absl::Status status = Change(socket, items[i], false);
    if (!absl::IsNotFound(status)) first.Update(status);
  }
  return first;
}

absl::Status DeleteOtherDelivery(NetlinkSocket& socket, absl::Span<const DeliveryItem> keep) {
  ASSIGN_OR_RETURN(const std::vector<DeliveryItem> own, ListOwnDelivery(socket));
  std::vector<DeliveryItem> others;
  for (const DeliveryItem& item : own) {
    if (std::find(keep.begin(), keep.end(), item) == keep.end()) others.push_back(item);
  }
  return DeleteDelivery(socket, others);
}

}  // namespace utproxy
