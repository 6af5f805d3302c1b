// SPDX-License-Identifier: GPL-3.0-or-later
// What other rules of the host do to a target's packets.
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <absl/strings/str_cat.h>
#include <linux/netfilter.h>
#include <linux/rtnetlink.h>

#include <algorithm>

#include "diagnose/chain_walk.h"
#include "diagnose/checks.h"
#include "diagnose/fixes.h"

namespace utproxy {
namespace {

RuleRef RefOf(const ChainFacts& chain, uint64_t handle = 0) {
  return {chain.family, chain.table, chain.name, handle, false};
}

bool SetsMark(const RuleFacts& rule, const ProxyTarget& target) {
  return rule.mark &&
         (rule.mark->value & target.policy.mark_mask) ==
             (MarkOf(target) & target.policy.mark_mask) &&
         MarkOf(target) != 0;
}

}  // namespace

// Of a queue's packets nothing is lost: the mark comes along, and sk_lookup finds the socket when
// the packet is received.
void CheckBridge(const SystemView& view, Findings* findings) {
  ForEachEntry(view, [&](const Entry& entry) {
    if (entry.target.kind == ProxyTarget::Kind::kQueue) return;
    const bool v4 = entry.family == Family::kIpv4;
    const bool calls = v4 ? view.bridge_calls_iptables : view.bridge_calls_ip6tables;
    if (entry.iif.kind != "bridge" || !calls) return;
    const char* name =
        v4 ? "net.bridge.bridge-nf-call-iptables" : "net.bridge.bridge-nf-call-ip6tables";
    Finding f;
    f.id = "br_netfilter";
    f.where = WhereText(entry);
    f.cause = absl::StrCat(entry.iif.name, " is a bridge and ", name,
                           " is 1: the rules meet each packet inside the bridge, before it is "
                           "received, and the socket chosen there is lost on the way.");
    f.fix = absl::StrCat("sysctl -w ", name, "=0");
    findings->push_back(std::move(f));
  });
}

void CheckOwnTraffic(const SystemView& view, Findings* findings) {
  for (const ProxyTarget& target : view.targets) {
    if (!target.policy_known || !target.mark_set) continue;
    bool marked = false;
    for (const ChainFacts& chain : view.ruleset.chains) {
      if (chain.hook != NF_INET_LOCAL_OUT) continue;
      bool marks = false;
      ForEachRule(view.ruleset, chain,
                  [&](const VisitedRule& at) { marks |= SetsMark(at.rule(), target); });
      marked |= marks && chain.type == "route";
      if (!marks || chain.type == "route") continue;
      const std::string place = absl::StrCat(TableFamilyName(chain.family), " ",
                                             ShellWord(chain.table), " ", ShellWord(chain.name));
      Finding f;
      f.id = "own_traffic_not_proxied";
      f.where = absl::StrCat("chain ", place);
      f.cause = absl::StrCat("The output chain ", chain.name, " of table ", chain.table,
                             " sets the proxy's mark, but is of type ", chain.type,
                             ": only one of type route has packets routed again, so the host's own "
                             "traffic goes direct.");
      f.fix = absl::StrCat("{ echo delete chain ", place, "; nft -s list chain ", place,
                           " | sed 's/type ", chain.type,
                           " hook output/type route hook output/'; "
                           "} | nft -f -");
      findings->push_back(std::move(f));
    }
    if (!marked && target.local_output) {
      Finding f;
      f.id = "own_traffic_not_proxied";
      f.where = "output";
      f.cause = "--local-output is asked for, but no output chain of type route sets the mark.";
      f.fix = RunCommand(target);
      findings->push_back(std::move(f));
    }
  }
}

void CheckInputPolicy(const SystemView& view, Findings* findings) {
  ForEachEntry(view, [&](const Entry& entry) {
    if (!entry.target.policy_known || !entry.target.mark_set) return;
    for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
      if (!entry.target.Covers(proto)) continue;
      PacketPattern packet = FirstPacket(entry, proto);
      packet.mark = MarkAt(entry);
      for (const ChainFacts& chain : view.ruleset.chains) {
        if (chain.hook != NF_INET_LOCAL_IN || !SeesFamily(chain.family, entry.family) ||
            !SurelyDropped(view.ruleset, chain, packet)) {
          continue;
        }
        const std::string mark = MarkMaskText(entry.target);
        Finding f;
        f.id = "input_policy";
        f.where = absl::StrCat(WhereText(entry), ", chain ", chain.name);
        f.cause = absl::StrCat("Redirected packets pass the input hook, where chain ", chain.name,
                               " of table ", chain.table, " drops them",
                               chain.policy_drop ? " by its policy" : "",
                               ": no rule accepts packets with mark ", mark, ".");
        const uint32_t mask = entry.target.policy.mark_mask;
        f.fix = InsertRule(
            RefOf(chain), absl::StrCat("-m mark --mark ", mark, " -j ACCEPT"),
            absl::StrCat("meta mark and ", mask, " == ", MarkOf(entry.target) & mask, " accept"));
        findings->push_back(std::move(f));
      }
    }
  });
}

void CheckOwnServices(const SystemView& view, Findings* findings) {
  CheckForwardedPorts(view, findings);
  ForEachEntry(view, [&](const Entry& entry) {
    const ProxyTarget& target = entry.target;
    const std::optional<Address> own = entry.iif.Primary(entry.family);
    if (!own || target.rules.empty()) return;
    for (const SocketFacts& each : view.sockets) {
      const Socket& s = each.socket;
      const bool listens = s.proto == Proto::kTcp ? s.listening() : !s.connected();
      const bool family = entry.family == Family::kIpv4 ? !s.inet6() || !s.v6only() : s.inet6();
      if (!listens || !family || !target.Covers(s.proto) || !target.CoversPort(s.local_port) ||
          s.transparent() || !s.transparent_known() || target.LeadsToPort(s.local_port) ||
          (!s.local.IsUnspecified() && s.local != *own)) {
        continue;
      }
      PacketPattern packet = FirstPacket(entry, s.proto);
      packet.dst = *own;
      packet.dport = s.local_port;
      packet.dst_type = uint8_t{RTN_LOCAL};
      for (const ChainFacts& chain : view.ruleset.chains) {
        if (chain.hook != NF_INET_PRE_ROUTING || !SeesFamily(chain.family, entry.family) ||
            !SurelyReaches(view.ruleset, chain, packet, target.rules)) {
          continue;
        }
        const RuleRef& rule = target.rules.front();
        Finding f;
        f.id = "own_services_matched";
        f.where = absl::StrCat(WhereText(entry), ", ", ProtoName(s.proto), " port ", s.local_port);
        f.cause = absl::StrCat("The rule also takes what is for this host's own addresses: ",
                               each.comm.empty() ? "a service" : each.comm, " on ",
                               ProtoName(s.proto), " port ", s.local_port, " can't be reached at ",
                               own->ToString(entry.family), ".");
        f.fix = rule.owned ? LeaveAlone(view, target, *own, entry.family)
                           : InsertRule(RefOf(chain), "-m addrtype --dst-type LOCAL -j RETURN",
                                        "fib daddr type local return");
        findings->push_back(std::move(f));
        break;
      }
    }
  });
}

void CheckSocketMatch(const SystemView& view, Findings* findings) {
  for (const ChainFacts& base : view.ruleset.chains) {
    if (base.hook != NF_INET_PRE_ROUTING || view.targets.empty()) continue;
    ForEachRule(view.ruleset, base, [&](const VisitedRule& at) {
      const ChainFacts& chain = at.chain;
      const RuleFacts& rule = at.rule();
      if (!rule.socket_match || rule.socket_transparent) return;
      const ChainFacts* next = view.ruleset.FindChain(chain.family, chain.table, rule.jump_to);
      bool marks = rule.mark.has_value();
      if (next != nullptr) {
        ForEachRule(view.ruleset, *next,
                    [&](const VisitedRule& inner) { marks |= inner.rule().mark.has_value(); });
      }
      if (!marks) return;
      const RuleRef ref = RefOf(chain, rule.handle);
      Finding f;
      f.id = "socket_match_hijack";
      f.where = absl::StrCat("table ", chain.table, ", chain ", chain.name);
      f.cause = absl::StrCat(
          "A rule in chain ", chain.name,
          " marks packets of every socket, not only of transparent ones: its socket match lacks "
          "`transparent`, so ordinary sockets' packets are diverted, too.");
      if (IsIptables(ref)) {
        f.fix = absl::StrCat(IptablesTool(ref), "-save -t ", IptablesTable(ref),
                             " | sed '/-m socket/{/--transparent/!s/-m socket\\( --nowildcard\\)*/&"
                             " --transparent/}' | ",
                             IptablesTool(ref), "-restore");
      } else {
        f.fix =
            absl::StrCat(DeleteRule(ref), " && nft insert rule ", TableFamilyName(chain.family),
                         " ", ShellWord(chain.table), " ", ShellWord(chain.name),
                         " socket transparent 1 meta mark set ",
                         rule.mark ? rule.mark->value : MarkOf(view.targets.front()), " accept");
      }
      findings->push_back(std::move(f));
    });
  }
}

void CheckFlowOffload(const SystemView& view, Findings* findings) {
  for (const ChainFacts& chain : view.ruleset.chains) {
    for (const RuleFacts& rule : chain.rules) {
      if (rule.flowtable.empty()) continue;
      const FlowtableFacts* table = nullptr;
      for (const FlowtableFacts& each : view.ruleset.flowtables) {
        if (each.family == chain.family && each.table == chain.table &&
            each.name == rule.flowtable) {
          table = &each;
        }
      }
      const InterfaceFacts* device = nullptr;
      ForEachEntry(view, [&](const Entry& entry) {
        if (table != nullptr && SeesFamily(chain.family, entry.family) &&
            std::find(table->devices.begin(), table->devices.end(), entry.iif.name) !=
                table->devices.end()) {
          device = &entry.iif;
        }
      });
      if (device == nullptr) continue;
      Finding f;
      f.id = "flow_offload";
      f.where = absl::StrCat(device->name, ", flowtable ", rule.flowtable);
      f.cause = absl::StrCat(
          "Flowtable ", rule.flowtable, " takes forwarded flows of ", device->name,
          " past all rules, so a flow that began before the proxy's rule, or passed it by once, is "
          "never seen by it again.");
      f.fix = DeleteRule(RefOf(chain, rule.handle));
      findings->push_back(std::move(f));
    }
  }
}

}  // namespace utproxy
