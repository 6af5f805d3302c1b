// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/port_watch.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>

#include "mirror/table_lookup.h"

namespace utproxy {
namespace {

// A packet that no socket is connected for, to be looked up with.
Packet Sample(Proto proto, Family family, uint32_t iif) {
  return {.src = *Address::Parse(family == Family::kIpv4 ? "192.0.2.1" : "2001:db8::1"),
          .dst = *Address::Parse(family == Family::kIpv4 ? "192.0.2.2" : "2001:db8::2"),
          .sport = 1,
          .dport = 1,
          .family = family,
          .protocol = static_cast<uint8_t>(proto),
          .tcp_flags = kTcpSyn,
          .iif = iif};
}

bool Listens(const Target& target, uint16_t port, Proto proto, Family family,
             const SocketTable& table, const InterfaceSnapshot& interfaces) {
  TableLookup lookup(table, interfaces);
  const std::vector<std::string>& wanted = target.ruleset.match.iifs;
  for (const auto& [index, interface] : interfaces.by_index) {
    const bool taken =
        wanted.empty() || std::find(wanted.begin(), wanted.end(), interface.name) != wanted.end();
    if (!taken && !(interface.loopback && target.ruleset.local_output)) continue;
    const Packet packet = Sample(proto, family, index);
    LaddrSource source;
    const Address laddr = ListenerAddress(packet, target.policy, lookup, &source);
    if (lookup.StateAt(packet, laddr, port) == PortState::kTakes) return true;
  }
  return false;
}

}  // namespace

std::vector<PortStatus> PortStatusOf(const Target& target, const SocketTable& table,
                                     const InterfaceSnapshot& interfaces) {
  std::vector<PortStatus> all;
  const std::vector<Proto>& protos = target.ruleset.match.protos;
  for (const uint16_t port : target.spread.AllPorts()) {
    PortStatus status{
        .port = port, .backup = all.size() >= target.spread.ports.size(), .listens = {}};
    for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
      if (!protos.empty() && std::find(protos.begin(), protos.end(), proto) == protos.end()) {
        continue;
      }
      for (const Family family : {Family::kIpv4, Family::kIpv6}) {
        if (!Listens(target, port, proto, family, table, interfaces)) continue;
        status.listens.push_back(
            absl::StrCat(ProtoName(proto), family == Family::kIpv4 ? "/ipv4" : "/ipv6"));
      }
    }
    all.push_back(std::move(status));
  }
  return all;
}

std::vector<std::string> PortWatch::Tell(const std::vector<Target>& targets,
                                         const SocketTable& table,
                                         const InterfaceSnapshot& interfaces) {
  std::vector<std::string> sentences;
  decltype(known_) now;
  for (const Target& target : targets) {
    for (PortStatus& port : PortStatusOf(target, table, interfaces)) {
      const auto before = known_.find({target.name, port.port});
      const bool told =
          before == known_.end() ? !port.listens.empty() : before->second == port.listens;
      if (!told) {
        sentences.push_back(absl::StrCat(
            "target ", target.name, ": port ", port.port, port.backup ? " (backup)" : "",
            port.listens.empty()
                ? ": no transparent listener, its clients go to the others"
                : absl::StrCat(": transparent listeners for ", absl::StrJoin(port.listens, ", "),
                               ", its clients come back")));
      }
      now[{target.name, port.port}] = std::move(port.listens);
    }
  }
  known_ = std::move(now);
  return sentences;
}

}  // namespace utproxy
