// SPDX-License-Identifier: GPL-3.0-or-later
// What the proxy's processes and sockets run into.
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <absl/strings/str_cat.h>
#include <linux/netfilter.h>
#include <sys/socket.h>

#include <algorithm>
#include <set>

#include "diagnose/chain_walk.h"
#include "diagnose/checks.h"
#include "diagnose/fixes.h"

namespace utproxy {
namespace {

bool IsListener(const ProxyTarget& target, const Socket& s) {
  const bool listens = s.proto == Proto::kTcp ? s.listening() : !s.connected();
  const uint16_t port = target.policy.on_port;
  return listens && target.Covers(s.proto) && target.policy_known && s.transparent() &&
         (port != 0 ? target.LeadsToPort(s.local_port) : target.CoversPort(s.local_port));
}

// The processes that serve a target.
std::set<int> ProxiesOf(const SystemView& view, const ProxyTarget& target) {
  std::set<int> pids;
  for (const SocketFacts& s : view.sockets) {
    if (s.pid != 0 && IsListener(target, s.socket)) pids.insert(s.pid);
  }
  return pids;
}

std::string ProcessText(int pid, const std::string& comm) {
  return absl::StrCat("pid ", pid, " (", comm, ")");
}

Family PeerFamily(const Socket& s) {
  return s.local.IsV4Mapped() || !s.inet6() ? Family::kIpv4 : Family::kIpv6;
}

}  // namespace

void CheckReplyBind(const SystemView& view, Findings* findings) {
  for (const ProxyTarget& target : view.targets) {
    if (!target.udp || target.dports.empty()) continue;
    const std::set<int> proxies = ProxiesOf(view, target);
    for (const SocketFacts& each : view.sockets) {
      const Socket& s = each.socket;
      const bool wildcard = s.proto == Proto::kUdp && !s.connected() && s.local.IsUnspecified();
      if (!wildcard || !target.CoversPort(s.local_port) || IsListener(target, s) ||
          proxies.contains(each.pid) || each.reuse_address != false) {
        continue;
      }
      Finding f;
      f.id = "reply_bind_conflict";
      f.where = absl::StrCat("udp port ", s.local_port, ", ", ProcessText(each.pid, each.comm));
      f.cause = absl::StrCat(each.comm, " holds udp port ", s.local_port,
                             " on every address without SO_REUSEADDR, so the proxy gets EADDRINUSE "
                             "when it binds the address and port that a client asked, to answer "
                             "from there.");
      f.fix = SetSocketOption(each.pid, each.fd, SOL_SOCKET, SO_REUSEADDR);
      findings->push_back(std::move(f));
    }
  }
}

void CheckFdLimit(const SystemView& view, Findings* findings) {
  std::set<int> pids;
  for (const ProxyTarget& target : view.targets) {
    for (const int pid : ProxiesOf(view, target)) pids.insert(pid);
  }
  for (const int pid : pids) {
    const auto it = view.processes.find(pid);
    if (it == view.processes.end() || it->second.max_fds == 0) continue;
    const ProcessFacts& p = it->second;
    const uint64_t tenths = p.fds >= p.max_fds ? 10 : p.fds * 10 / p.max_fds;
    if (tenths < 8) continue;
    Finding f;
    f.id = "fd_limit";
    f.severity = p.fds + p.max_fds / 50 + 1 >= p.max_fds ? Severity::kError : Severity::kWarning;
    f.where = ProcessText(pid, p.comm);
    f.cause = absl::StrCat("The proxy has ", p.fds, " of its ", p.max_fds,
                           " descriptors open (RLIMIT_NOFILE); every proxied connection takes two, "
                           "and accept() fails at the limit.");
    // Up to the hard limit anybody may raise it; beyond that the hard one has to go up, too.
    const uint64_t soft = std::min<uint64_t>(p.max_fds_hard, 65536);
    f.fix = soft >= p.max_fds * 2 ? absl::StrCat("prlimit --pid ", pid, " --nofile=", soft, ":")
                                  : absl::StrCat("prlimit --pid ", pid, " --nofile=65536:65536");
    findings->push_back(std::move(f));
  }
}

void CheckExposed(const SystemView& view, Findings* findings) {
  for (const ProxyTarget& target : view.targets) {
    if (!target.policy_known || target.policy.on_port == 0) continue;
    for (const SocketFacts& each : view.sockets) {
      const Socket& s = each.socket;
      const uint16_t port = s.local_port;
      if (!target.LeadsToPort(port) || target.CoversPort(port)) continue;
      // A connection to the listener's own address and port was not redirected there.
      const bool direct = s.proto == Proto::kTcp && s.connected() && s.transparent() &&
                          view.IsLocal(s.local) && !view.IsLocal(s.remote);
      if (!direct) continue;
      const Family family = PeerFamily(s);
      Finding f;
      f.id = "listener_on_port_exposed";
      f.where = absl::StrCat(FamilyText(family), ", tcp port ", port);
      f.cause = absl::StrCat(s.remote.ToString(family), " is connected to the proxy's own port ",
                             port, " at ", s.local.ToString(family),
                             " directly, without having been redirected: what it asks for is the "
                             "proxy itself.");
      f.fix = absl::StrCat(IptablesTool(family), " -I INPUT ! -i lo -p tcp --dport ", port,
                           " -m mark ! --mark ", MarkMaskText(target), " -j DROP");
      // Kept out already: what is left will end by itself.
      PacketPattern packet{.family = family,
                           .iif = std::nullopt,
                           .proto = Proto::kTcp,
                           .src = std::nullopt,
                           .dst = s.local,
                           .dport = port,
                           .mark = 0,
                           .dst_type = uint8_t{2},
                           .ct_state = kCtEstablished};
      for (const InterfaceFacts& iif : view.interfaces) {
        if (iif.up && !iif.loopback) packet.iif = iif.name;
      }
      const bool kept_out = std::any_of(
          view.ruleset.chains.begin(), view.ruleset.chains.end(), [&](const ChainFacts& c) {
            return c.hook == NF_INET_LOCAL_IN && SeesFamily(c.family, family) &&
                   SurelyDropped(view.ruleset, c, packet);
          });
      if (!kept_out) findings->push_back(std::move(f));
      break;
    }
  }
}

// Output rules that mark what the host sends so that it comes back through lo to the proxy.
void CheckLoop(const SystemView& view, Findings* findings) {
  for (const ProxyTarget& target : view.targets) {
    if (!target.policy_known || !target.mark_set || !target.tcp) continue;
    const std::set<int> proxies = ProxiesOf(view, target);
    if (proxies.empty()) continue;
    const auto process = view.processes.find(*proxies.begin());
    if (process == view.processes.end()) continue;
    for (const ChainFacts& chain : view.ruleset.chains) {
      if (chain.hook != NF_INET_LOCAL_OUT || chain.type != "route") continue;
      const Family family = SeesFamily(chain.family, Family::kIpv4) ? Family::kIpv4 : Family::kIpv6;
      if (!target.Covers(family)) continue;
      // The proxy's own connection to where a client wanted to go, with the marks its sockets have.
      uint32_t so_mark = 0;
      for (const SocketFacts& s : view.sockets) {
        if (proxies.contains(s.pid) && s.socket.mark != 0) so_mark = s.socket.mark;
      }
      PacketPattern packet{.family = family,
                           .iif = std::nullopt,
                           .proto = Proto::kTcp,
                           .src = std::nullopt,
                           .dst = SampleDestination(target, family),
                           .dport = SamplePort(target),
                           .mark = so_mark,
                           .dst_type = uint8_t{1},
                           .ct_state = kCtNew,
                           .uid = process->second.uid};
      std::vector<RuleRef> goals;
      for (const RuleFacts& rule : chain.rules) {
        const bool marks =
            rule.mark && ((rule.mark->value ^ MarkOf(target)) & target.policy.mark_mask) == 0;
        // Rules that ask for a user or a cgroup may well leave the proxy out.
        if (marks) {
          goals.push_back({chain.family, chain.table, chain.name, rule.handle, false});
        }
      }
      if (goals.empty() || !SurelyReaches(view.ruleset, chain, packet, goals)) continue;
      const uint32_t uid = process->second.uid;
      Finding f;
      f.id = "loop";
      f.where = absl::StrCat("chain ", chain.name, ", ",
                             ProcessText(process->first, process->second.comm));
      f.cause = absl::StrCat(
          "Chain ", chain.name, " of table ", chain.table,
          " marks what this host sends, also what the proxy itself sends: nothing there tells it "
          "apart, so its connections come back to it.");
      f.fix = InsertRule({chain.family, chain.table, chain.name, 0, false},
                         absl::StrCat("-m owner --uid-owner ", uid, " -j RETURN"),
                         absl::StrCat("meta skuid ", uid, " return"));
      findings->push_back(std::move(f));
    }
  }
}

}  // namespace utproxy
