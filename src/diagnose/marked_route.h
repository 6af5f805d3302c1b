// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_MARKED_ROUTE_H_
#define UTPROXY_DIAGNOSE_MARKED_ROUTE_H_

#include <absl/functional/function_ref.h>

#include <optional>
#include <string>
#include <vector>

#include "diagnose/chain_walk.h"
#include "diagnose/checks.h"

// Where policy routing leads packets that a target has marked: what the checks of routing share.
namespace utproxy {

// What policy rules ask about a packet. What is nullopt may be anything.
struct RoutedPacket {
  Family family = Family::kIpv4;
  uint32_t mark = 0;
  std::string iif;
  std::optional<Address> src, dst;
  std::optional<uint8_t> ip_proto;
};
// Whether the rule, its action left aside, is for the packet.
Fit FitsPacket(const PolicyRule& rule, const RoutedPacket& packet);
bool FitsMark(const PolicyRule& rule, uint32_t mark);

// "local default dev lo" is in the table; any default route is.
bool HasLocalDefault(const SystemView& view, Family family, uint32_t table);
bool HasDefault(const SystemView& view, Family family, uint32_t table);

// What is found out about one entry's way to the local sockets.
struct Delivery {
  const RouteAnswer* probe = nullptr;
  std::vector<const PolicyRule*> marked;  // fwmark rules that fit, by priority
  const PolicyRule* ours = nullptr;       // the first of them that delivers
  const PolicyRule* thief = nullptr;      // a rule before it that leads elsewhere, or refuses
  bool thief_refuses = false;  // blackhole, unreachable or prohibit, the rule or its table's route
  bool delivered() const;
  // Refused for its sender, as far as can be told: a blackhole looks the same.
  bool martian() const;
};
Delivery Inspect(const SystemView& view, const Entry& entry);

// Entries whose packets are known to be marked by the target, and keep the mark.
void ForEachMarked(const SystemView& view, absl::FunctionRef<void(const Entry&)> fn);

// A table that has the local route already, so that only the rule is missing; else the target's.
uint32_t DeliveryTable(const SystemView& view, const Entry& entry);

// "ip rule add fwmark 0x1/0x1 lookup 100"; `more` goes behind it.
std::string AddRuleCommand(const Entry& entry, uint32_t table, const std::string& more = "");

// A finding about the entry, without words.
Finding FindingAt(const Entry& entry, const char* id);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_MARKED_ROUTE_H_
