// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/interfaces.h"

#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>

#include <cstring>

#include "base/status.h"
#include "decide/list_lookup.h"
#include "netlink/attributes.h"

namespace utproxy {
namespace {

constexpr int kDumpAttempts = 5;

struct AddressAttributes {
  std::optional<Address> local;
  std::optional<Address> address;
  std::optional<uint32_t> flags;
};

AddressAttributes ReadAttributes(const nlmsghdr& message, uint8_t family) {
  AddressAttributes read;
  const uint16_t want = family == AF_INET ? 4 : 16;
  ForEachAttribute(message, sizeof(ifaddrmsg), [&](const nlattr& attr) {
    const uint16_t type = mnl_attr_get_type(&attr);
    const uint16_t len = mnl_attr_get_payload_len(&attr);
    if (type == IFA_FLAGS && len >= 4) read.flags = mnl_attr_get_u32(&attr);
    if ((type != IFA_LOCAL && type != IFA_ADDRESS) || len < want) return;
    const void* bytes = mnl_attr_get_payload(&attr);
    uint32_t v4 = 0;
    std::memcpy(&v4, bytes, sizeof v4);
    const Address value = family == AF_INET ? Address::FromIpv4(v4) : Address::FromIpv6(bytes);
    (type == IFA_LOCAL ? read.local : read.address) = value;
  });
  return read;
}

void AddAddress(const nlmsghdr& message, InterfaceSnapshot* snapshot) {
  if (message.nlmsg_type != RTM_NEWADDR ||
      mnl_nlmsg_get_payload_len(&message) < sizeof(ifaddrmsg)) {
    return;
  }
  ifaddrmsg header;
  std::memcpy(&header, mnl_nlmsg_get_payload(&message), sizeof header);
  if (header.ifa_family != AF_INET && header.ifa_family != AF_INET6) return;
  const AddressAttributes read = ReadAttributes(message, header.ifa_family);
  const std::optional<Address> own = read.local ? read.local : read.address;
  if (!own || own->IsUnspecified()) return;
  snapshot->local_addresses.insert(own->bytes());
  const InterfaceAddress address{
      .ifindex = header.ifa_index,
      .family = header.ifa_family == AF_INET ? Family::kIpv4 : Family::kIpv6,
      .address = *own,
      .flags = read.flags.value_or(header.ifa_flags)};
  InterfaceSnapshot::Interface& interface = snapshot->by_index[address.ifindex];
  std::optional<Address>& primary =
      address.family == Family::kIpv4 ? interface.primary4 : interface.primary6;
  if (!primary) primary = PrimaryAddressOf({&address, 1}, address.ifindex, address.family);
}

std::string TextOf(const nlattr& attr) {
  const char* text = mnl_attr_get_str(&attr);
  return std::string(text, strnlen(text, mnl_attr_get_payload_len(&attr)));
}

bool IsVrfPort(const nlattr& link_info) {
  bool vrf = false;
  ForEachNested(link_info, [&](const nlattr& attr) {
    vrf = vrf || (mnl_attr_get_type(&attr) == IFLA_INFO_SLAVE_KIND && TextOf(attr) == "vrf");
  });
  return vrf;
}

void AddLink(const nlmsghdr& message, InterfaceSnapshot* snapshot) {
  if (message.nlmsg_type != RTM_NEWLINK ||
      mnl_nlmsg_get_payload_len(&message) < sizeof(ifinfomsg)) {
    return;
  }
  ifinfomsg header;
  std::memcpy(&header, mnl_nlmsg_get_payload(&message), sizeof header);
  InterfaceSnapshot::Interface& interface =
      snapshot->by_index[static_cast<uint32_t>(header.ifi_index)];
  interface.loopback = (header.ifi_flags & IFF_LOOPBACK) != 0;
  uint32_t master = 0;
  bool vrf_port = false;
  ForEachAttribute(message, sizeof(ifinfomsg), [&](const nlattr& attr) {
    switch (mnl_attr_get_type(&attr)) {
      case IFLA_IFNAME:
        interface.name = TextOf(attr);
        break;
      case IFLA_MASTER:
        if (mnl_attr_get_payload_len(&attr) == sizeof master) master = mnl_attr_get_u32(&attr);
        break;
      case IFLA_LINKINFO:
        vrf_port = IsVrfPort(attr);
        break;
      default:
        break;
    }
  });
  interface.vrf = vrf_port ? master : 0;
}

}  // namespace

std::optional<Address> InterfaceSnapshot::PrimaryAddress(uint32_t ifindex, Family family) const {
  const auto it = by_index.find(ifindex);
  if (it == by_index.end()) return std::nullopt;
  return family == Family::kIpv4 ? it->second.primary4 : it->second.primary6;
}

bool InterfaceSnapshot::IsLocal(const Address& address) const {
  if (address.IsV4Mapped() && address.bytes()[12] == 127) return true;
  return local_addresses.contains(address.bytes());
}

bool InterfaceSnapshot::IsLoopback(uint32_t ifindex) const {
  const auto it = by_index.find(ifindex);
  return it != by_index.end() && it->second.loopback;
}

uint32_t InterfaceSnapshot::DeliveryIndex(uint32_t ifindex) const {
  const auto it = by_index.find(ifindex);
  return it == by_index.end() || it->second.vrf == 0 ? ifindex : it->second.vrf;
}

std::string InterfaceSnapshot::NameOf(uint32_t ifindex) const {
  const auto it = by_index.find(ifindex);
  return it == by_index.end() ? std::string() : it->second.name;
}

uint32_t InterfaceSnapshot::IndexOf(absl::string_view name) const {
  for (const auto& [index, interface] : by_index) {
    if (name == interface.name) return index;
  }
  return 0;
}

absl::StatusOr<std::unique_ptr<Interfaces>> Interfaces::Open() {
  ASSIGN_OR_RETURN(NetlinkSocket events, NetlinkSocket::Open(NETLINK_ROUTE));
  ASSIGN_OR_RETURN(NetlinkSocket requests, NetlinkSocket::Open(NETLINK_ROUTE));
  for (const unsigned group : {RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR}) {
    RETURN_IF_ERROR(events.JoinGroup(group));
  }
  auto interfaces =
      std::unique_ptr<Interfaces>(new Interfaces(std::move(events), std::move(requests)));
  RETURN_IF_ERROR(interfaces->Refresh());
  return interfaces;
}

absl::Status Interfaces::Update() {
  while (true) {
    const absl::StatusOr<bool> read = events_.ReceiveEvents([](const nlmsghdr&) {});
    if (absl::IsResourceExhausted(read.status())) continue;  // lost events: the dump makes up
    if (!read.ok()) return read.status();
    if (!*read) break;
  }
  return Refresh();
}

absl::Status Interfaces::UpdateIfChanged() {
  pollfd fd{.fd = event_fd(), .events = POLLIN, .revents = 0};
  return ::poll(&fd, 1, 0) > 0 ? Update() : absl::OkStatus();
}

absl::Status Interfaces::Refresh() {
  auto snapshot = std::make_shared<InterfaceSnapshot>();
  bool interrupted = true;
  for (int attempt = 0; interrupted && attempt < kDumpAttempts; ++attempt) {
    interrupted = false;
    *snapshot = InterfaceSnapshot();
    RETURN_IF_ERROR(DumpLinks(snapshot.get(), &interrupted));
    RETURN_IF_ERROR(DumpAddresses(snapshot.get(), &interrupted));
  }
  if (interrupted) return absl::UnavailableError("list addresses: they keep changing");
  const std::lock_guard lock(mutex_);
  snapshot_ = std::move(snapshot);
  generation_.fetch_add(1, std::memory_order_release);
  return absl::OkStatus();
}

absl::Status Interfaces::DumpLinks(InterfaceSnapshot* snapshot, bool* interrupted) {
  alignas(nlmsghdr) char buffer[256];
  nlmsghdr* request = mnl_nlmsg_put_header(buffer);
  request->nlmsg_type = RTM_GETLINK;
  request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  mnl_nlmsg_put_extra_header(request, sizeof(ifinfomsg));
  return requests_.Transact(
      request, "list interfaces", [&](const nlmsghdr& message) { AddLink(message, snapshot); },
      interrupted);
}

absl::Status Interfaces::DumpAddresses(InterfaceSnapshot* snapshot, bool* interrupted) {
  alignas(nlmsghdr) char buffer[256];
  nlmsghdr* request = mnl_nlmsg_put_header(buffer);
  request->nlmsg_type = RTM_GETADDR;
  request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  mnl_nlmsg_put_extra_header(request, sizeof(ifaddrmsg));  // AF_UNSPEC: both families
  return requests_.Transact(
      request, "list addresses", [&](const nlmsghdr& message) { AddAddress(message, snapshot); },
      interrupted);
}

std::shared_ptr<const InterfaceSnapshot> Interfaces::Get() const {
  const std::lock_guard lock(mutex_);
  return snapshot_;
}

absl::StatusOr<std::shared_ptr<const InterfaceSnapshot>> ReadInterfaces() {
  ASSIGN_OR_RETURN(const std::unique_ptr<Interfaces> interfaces, Interfaces::Open());
  return interfaces->Get();
}

}  // namespace utproxy
