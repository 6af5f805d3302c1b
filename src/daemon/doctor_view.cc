// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/doctor_view.h"

#include <bpf/libbpf.h>
#include <linux/rtnetlink.h>

#include <algorithm>

#include "base/status.h"
#include "diagnose/chain_reach.h"
#include "diagnose/chain_walk.h"
#include "diagnose/checks.h"
#include "diagnose/legacy_reader.h"
#include "diagnose/proc_reader.h"
#include "diagnose/routing_reader.h"
#include "diagnose/ruleset_reader.h"
#include "netlink/diag_client.h"
#include "queue/queue_stats.h"
#include "ruleset/nft_batch.h"
#include "ruleset/nft_table.h"

namespace utproxy {
namespace {

// False where the kernel has no sock_diag for them.
bool LoadSockets(SystemView* view) {
  absl::StatusOr<DiagClient> client = DiagClient::Open();
  if (!client.ok()) return false;
  bool known = true;
  for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
      const absl::Status status =
          client->Dump(family, proto, kAllStates, [&](const Socket& socket) {
            SocketFacts facts;
            facts.socket = socket;
            view->sockets.push_back(std::move(facts));
          });
      known = known && (status.ok() || family == Family::kIpv6);
    }
  }
  ReadOwners(view);
  return known;
}

void LoadFeatures(SystemView* view) {
  if (absl::StatusOr<NetlinkSocket> nft = OpenNftSocket(); nft.ok()) {
    const absl::StatusOr<NftFeatures> nft_features = ProbeNft(*nft);
    if (nft_features.ok()) {
      view->features["NFQUEUE"] = nft_features->native_queue || nft_features->xt_queue;
    }
  }
  const int sk_lookup = libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SK_LOOKUP, nullptr);
  if (sk_lookup >= 0) view->features["sk_lookup"] = sk_lookup == 1;
}

// Senders to ask about. Not likely ones are those of networks behind other interfaces' gateways:
// their packets come in here where the way there and the way back differ. So do those of anybody,
// where the interface has a default route of its own, as each of several providers' has.
struct Sender {
  Address address;
  bool likely = true;
};
std::vector<Sender> SendersOf(const SystemView& view, const Entry& entry) {
  std::vector<Sender> senders = {
      {NeighbourOf(entry.iif.Primary(entry.family).value_or(Address()), entry.family)}};
  for (const Cidr& cidr : entry.target.sources) {
    if (cidr.family == entry.family) senders.push_back({NeighbourOf(cidr.address, cidr.family)});
  }
  const bool strict = std::max(view.rp_filter_all, entry.iif.rp_filter) == 1;
  for (const GatewayRoute& route : view.gateway_routes) {
    if (strict && route.to.family == entry.family && route.oif != entry.iif.index) {
      senders.push_back({NeighbourOf(route.to.address, route.to.family), false});
    }
  }
  for (const RouteFacts& route : view.routes) {
    if (strict && route.family == entry.family && route.type == RTN_UNICAST &&
        route.oif == entry.iif.index) {
      senders.push_back(
          {*Address::Parse(route.family == Family::kIpv4 ? "192.0.2.241" : "2001:db8:f2f2::f2"),
           !entry.target.iifs.empty()});
    }
  }
  return senders;
}

absl::Status LoadProbes(NetlinkSocket* route, SystemView* view) {
  absl::Status status;
  std::vector<ProbeFacts> probes;
  ForEachEntry(*view, [&](const Entry& entry) {
    for (const Sender& sender : SendersOf(*view, entry)) {
      Packet packet{.src = sender.address,
                    .dst = SampleDestination(entry.target, entry.family),
                    .sport = 40000,
                    .dport = SamplePort(entry.target),
                    .family = entry.family,
                    .protocol = entry.target.tcp ? uint8_t{IPPROTO_TCP} : uint8_t{IPPROTO_UDP},
                    .tcp_flags = kTcpSyn,
                    .outcome = ParseOutcome::kOk,
                    .iif = entry.iif.index,
                    .mark = MarkAt(entry)};
      const absl::StatusOr<RouteAnswer> answer = ProbeRoute(route, packet);
      if (!answer.ok()) {
        status.Update(answer.status());
        continue;
      }
      probes.push_back({.target = entry.index,
                        .family = entry.family,
                        .iif = entry.iif.name,
                        .src = sender.address,
                        .dst = packet.dst,
                        .ip_proto = packet.protocol,
                        .mark = packet.mark,
                        .likely = sender.likely,
                        .answer = *answer});
    }
  });
  view->probes = std::move(probes);
  return status;
}

bool LeadsTo(const ProxyTarget& found, const ProxyTarget& asked) {
  if (found.kind == ProxyTarget::Kind::kQueue) {
    return found.queue_first <= asked.queue_last && asked.queue_first <= found.queue_last;
  }
  return found.policy.on_port == asked.policy.on_port && (found.tcp || !asked.tcp);
}

}  // namespace

ProxyTarget ProxyTargetOf(const Target& target, std::string options) {
  ProxyTarget proxy;
  const Match& match = target.ruleset.match;
  const auto has = [&](Proto proto) {
    return match.protos.empty() ||
           std::find(match.protos.begin(), match.protos.end(), proto) != match.protos.end();
  };
  proxy.tcp = has(Proto::kTcp);
  proxy.udp = has(Proto::kUdp);
  for (const PortRange& range : match.dports) proxy.dports.push_back({range.first, range.last});
  proxy.iifs = match.iifs;
  proxy.sources = match.src;
  proxy.policy = target.policy;
  proxy.spread = target.spread;
  proxy.mark_set = target.policy.mark_mask != 0 || target.policy.mark_value != 0;
  proxy.queue_first = target.queue_first;
  proxy.queue_last = target.queue_last;
  proxy.table = target.ruleset.route_table;
  proxy.local_output = target.ruleset.local_output;
  proxy.from_user = true;
  proxy.options = std::move(options);
  return proxy;
}

std::vector<ProxyTarget> JoinTargets(std::vector<ProxyTarget> found,
                                     const std::vector<ProxyTarget>& asked, bool only_asked) {
  std::vector<ProxyTarget> joined;
  for (const ProxyTarget& each : asked) {
    bool alone = true;
    for (ProxyTarget& target : found) {
      if (target.from_user || !LeadsTo(target, each)) continue;
      alone = false;
      target.from_user = true;
      target.options = each.options;
      target.table = each.table;
      target.local_output = each.local_output;
      target.sources = each.sources;
      if (target.kind != ProxyTarget::Kind::kQueue) continue;
      target.policy = each.policy;
      target.spread = each.spread;
      target.policy_known = true;
      target.mark_set = each.mark_set;
    }
    if (alone) joined.push_back(each);
  }
  for (ProxyTarget& target : found) {
    if (target.from_user || !only_asked) joined.push_back(std::move(target));
  }
  return joined;
}

void LoadQueues(SystemView* view) {
  const absl::StatusOr<std::vector<QueueStats>> queues = ReadQueueStats();
  if (!queues.ok()) return;
  for (const QueueStats& q : *queues) {
    view->queues.push_back({.number = q.number,
                            .port_id = q.port_id,
                            .depth = q.depth,
                            .dropped = q.dropped,
                            .user_dropped = q.user_dropped,
                            .packets = q.last_id});
    const int pid = static_cast<int>(q.port_id);
    if (view->processes.contains(pid)) continue;
    if (auto process = ReadProcess(pid)) view->processes[pid] = std::move(*process);
  }
}

absl::Status LoadRoutingAndRuleset(NetlinkSocket* route, SystemView* view, absl::Status* ruleset) {
  RETURN_IF_ERROR(ReadRouting(route, view));
  ReadSysctls(view);
  ASSIGN_OR_RETURN(NetlinkSocket nft, NetlinkSocket::Open(NETLINK_NETFILTER));
  absl::StatusOr<RulesetFacts> facts = ReadRuleset(&nft);
  view->ruleset_read = facts.ok();
  if (facts.ok()) {
    view->ruleset = std::move(*facts);
    std::map<uint64_t, std::string> names;
    for (const InterfaceFacts& each : view->interfaces) names[each.index] = each.name;
    NameInterfaces(names, &view->ruleset);
    view->legacy_unread = !ReadLegacyTables(&view->ruleset);
  }
  *ruleset = facts.status();
  return absl::OkStatus();
}

absl::StatusOr<SystemView> LoadSystemView(const std::vector<ProxyTarget>& asked, bool only_asked) {
  SystemView view;
  ASSIGN_OR_RETURN(NetlinkSocket route, NetlinkSocket::Open(NETLINK_ROUTE));
  absl::Status ruleset;
  RETURN_IF_ERROR(LoadRoutingAndRuleset(&route, &view, &ruleset));
  if (!ruleset.ok() && ErrnoOf(ruleset) != EPERM) return ruleset;
  view.features["sock_diag"] = LoadSockets(&view);
  LoadQueues(&view);
  LoadFeatures(&view);
  view.targets = JoinTargets(FindTargets(view.ruleset), asked, only_asked);
  FollowTargets(&view);
  RETURN_IF_ERROR(LoadProbes(&route, &view));
  return view;
}

DaemonFacts DaemonFactsOf(const Json& stats) {
  const auto number = [&](const char* group, const char* key) -> uint64_t {
    const auto it = stats.find(group);
    if (it == stats.end() || !it->is_object() || !it->contains(key)) return 0;
    return (*it)[key].is_number_unsigned() ? (*it)[key].get<uint64_t>() : 0;
  };
  return {.fragments = number("reasons", "fragment"), .flushed = number("losses", "flushed")};
}

Json ToJson(const Finding& finding) {
  Json json;
  json["id"] = finding.id;
  json["severity"] = SeverityName(finding.severity);
  json["where"] = finding.where;
  json["cause"] = finding.cause;
  json["fix"] = finding.fix;
  return json;
}

}  // namespace utproxy
