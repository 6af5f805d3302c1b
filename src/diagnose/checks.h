// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_CHECKS_H_
#define UTPROXY_DIAGNOSE_CHECKS_H_

#include <absl/functional/function_ref.h>

#include "diagnose/chain_walk.h"
#include "diagnose/doctor.h"

// One function an id: looks at the view, appends what it finds. Pure.
namespace utproxy {

// Where routing leads marked packets: checks_routing.cc.
void CheckFwmarkRule(const SystemView& view, Findings* findings);
void CheckLocalRoute(const SystemView& view, Findings* findings);
void CheckRuleRemoved(const SystemView& view, Findings* findings);
void CheckMarkOverlap(const SystemView& view, Findings* findings);
void CheckSrcValidMark(const SystemView& view, Findings* findings);
void CheckRpFilter(const SystemView& view, Findings* findings);
void CheckIpv6(const SystemView& view, Findings* findings);

// Whatever else keeps a packet from its listener. Looks at what the others found, and comes last:
// checks_delivery.cc.
void CheckDelivered(const SystemView& view, Findings* findings);
// Parts of it, checks_arrival.cc: rules around one target's, and those that the answers meet.
void CheckArrivals(const SystemView& view, size_t target, Findings* findings);
void CheckAnswers(const SystemView& view, Findings* findings);
// What routing does with packets, as in "it forwards them by wan0 (table 254)".
std::string AnswerText(const SystemView& view, const RouteAnswer& answer);
// A neighbour of the interface's own address: what its clients look like.
Address NeighbourOf(const Address& own, Family family);

// Who listens, and how: checks_listener.cc, checks_process.cc.
void CheckListener(const SystemView& view, Findings* findings);
void CheckTransparent(const SystemView& view, Findings* findings);
void CheckListenerAddress(const SystemView& view, Findings* findings);
void CheckStopped(const SystemView& view, Findings* findings);
void CheckReplyBind(const SystemView& view, Findings* findings);
void CheckFdLimit(const SystemView& view, Findings* findings);
void CheckExposed(const SystemView& view, Findings* findings);
void CheckLoop(const SystemView& view, Findings* findings);

// The ruleset around: checks_ruleset.cc.
void CheckBridge(const SystemView& view, Findings* findings);
void CheckOwnTraffic(const SystemView& view, Findings* findings);
void CheckInputPolicy(const SystemView& view, Findings* findings);
void CheckOwnServices(const SystemView& view, Findings* findings);
void CheckForwardedPorts(const SystemView& view, Findings* findings);  // checks_nat.cc
void CheckSocketMatch(const SystemView& view, Findings* findings);
void CheckFlowOffload(const SystemView& view, Findings* findings);

// Queues, tables of the kernel's, features: checks_kernel.cc.
void CheckFragments(const SystemView& view, Findings* findings);
void CheckQueueUnbound(const SystemView& view, Findings* findings);
void CheckDaemonSilent(const SystemView& view, Findings* findings);
void CheckQueueOverflow(const SystemView& view, Findings* findings);
void CheckReloadLoss(const SystemView& view, Findings* findings);
void CheckConntrack(const SystemView& view, Findings* findings);
void CheckFeatures(const SystemView& view, Findings* findings);

// One place where a target's packets come in.
struct Entry {
  const ProxyTarget& target;
  size_t index;  // of the target
  Family family;
  const InterfaceFacts& iif;
};
void ForEachEntry(const SystemView& view, absl::FunctionRef<void(const Entry&)> fn);

const char* FamilyText(Family family);  // "IPv4"
std::string WhereText(const Entry& entry);
// What a target's packets might ask for: an address of its rule's, else 203.0.113.x, 2001:db8::x,
// none of the host's own. Port 80 where it names none.
Address SampleDestination(const ProxyTarget& target, Family family);
uint16_t SamplePort(const ProxyTarget& target);
// The first packet of a flow for the target, as it comes in: to SampleDestination(), no mark.
PacketPattern FirstPacket(const Entry& entry, Proto proto);
uint32_t MarkOf(const ProxyTarget& target);  // of a packet that hit, having come without one
// The target's packets where routing sees them: how they got there, null where not known, and
// their mark: MarkOf() but where they came with another one, or it is changed behind the target's
// rule.
const Arrival* ArrivalAt(const Entry& entry);
uint32_t MarkAt(const Entry& entry);
std::string MarkMaskText(const ProxyTarget& target);  // "0x1/0x1", as for `ip rule`

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_CHECKS_H_
