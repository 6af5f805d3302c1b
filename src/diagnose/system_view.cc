// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/system_view.h"

#include <absl/strings/match.h>
#include <absl/strings/strip.h>

#include <algorithm>

namespace utproxy {

bool InterfaceFacts::Has(Family family) const {
  return std::any_of(addresses.begin(), addresses.end(),
                     [&](const Assigned& a) { return a.family == family && !a.link_local; });
}

std::optional<Address> InterfaceFacts::Primary(Family family) const {
  for (const Assigned& a : addresses) {
    if (a.family == family && a.primary) return a.address;
  }
  return std::nullopt;
}

bool ProxyTarget::CoversPort(uint16_t port) const {
  return dports.empty() || std::any_of(dports.begin(), dports.end(), [&](const NumberRange& r) {
           return r.first <= port && port <= r.last;
         });
}

bool ProxyTarget::LeadsToPort(uint16_t port) const {
  if (!spread.active()) return port == policy.on_port;
  const std::vector<uint16_t> all = spread.AllPorts();
  return std::find(all.begin(), all.end(), port) != all.end();
}

bool ProxyTarget::CoversInterface(const std::string& name) const {
  return iifs.empty() || std::any_of(iifs.begin(), iifs.end(), [&](absl::string_view pattern) {
           return absl::ConsumeSuffix(&pattern, "*") ? absl::StartsWith(name, pattern)
                                                     : name == pattern;
         });
}

const InterfaceFacts* SystemView::FindInterface(const std::string& name) const {
  for (const InterfaceFacts& each : interfaces) {
    if (each.name == name) return &each;
  }
  return nullptr;
}

std::vector<const InterfaceFacts*> SystemView::Ingress(const ProxyTarget& target,
                                                       Family family) const {
  std::vector<const InterfaceFacts*> found;
  for (const InterfaceFacts& each : interfaces) {
    if (each.up && !each.loopback && each.Has(family) && target.CoversInterface(each.name)) {
      found.push_back(&each);
    }
  }
  return found;
}

bool SystemView::IsLocal(const Address& address) const {
  for (const InterfaceFacts& each : interfaces) {
    for (const auto& a : each.addresses) {
      if (a.address == address) return true;
    }
  }
  return address.IsV4Mapped() && address.bytes()[12] == 127;
}

}  // namespace utproxy
