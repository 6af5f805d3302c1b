// SPDX-License-Identifier: GPL-3.0-or-later
#include "doctor_watch.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <map>
#include <ostream>

#include "base/status.h"
#include "daemon/doctor_view.h"
#include "doctor_text.h"
#include "netlink/socket.h"
#include "text.h"

namespace utproxy::tools {
namespace {

constexpr int kMaxFailures = 10;  // one after the other

bool Same(const Finding& a, const Finding& b) {
  return a.id == b.id && a.where == b.where && a.severity == b.severity && a.fix == b.fix;
}

bool Has(const Findings& findings, const Finding& wanted) {
  return std::any_of(findings.begin(), findings.end(),
                     [&](const Finding& f) { return Same(f, wanted); });
}

bool HadMarkRule(const SystemView& view, Family family) {
  return std::any_of(view.rules.begin(), view.rules.end(), [&](const PolicyRule& r) {
    return r.family == family && r.mark && *r.mark != 0;
  });
}

using Listeners = std::map<std::pair<Proto, uint16_t>, const SocketFacts*>;
Listeners ListenersOf(const SystemView& view) {
  Listeners listeners;
  for (const SocketFacts& s : view.sockets) {
    const bool listens =
        s.socket.proto == Proto::kTcp ? s.socket.listening() : !s.socket.connected();
    const bool wanted = std::any_of(view.targets.begin(), view.targets.end(), [&](const auto& t) {
      return t.policy.on_port != 0 && t.LeadsToPort(s.socket.local_port);
    });
    if (listens && wanted) listeners[{s.socket.proto, s.socket.local_port}] = &s;
  }
  return listeners;
}

DoctorChange Event(const char* event, std::string where, std::string cause) {
  DoctorChange change;
  change.event = event;
  change.finding.severity = Severity::kInfo;
  change.finding.where = std::move(where);
  change.finding.cause = std::move(cause);
  return change;
}

void CompareListeners(const SystemView& before, const SystemView& now,
                      std::vector<DoctorChange>* changes) {
  const Listeners old = ListenersOf(before);
  for (const auto& [key, socket] : ListenersOf(now)) {
    const auto it = old.find(key);
    if (it == old.end() || it->second->socket.cookie == socket->socket.cookie) continue;
    changes->push_back(
        Event("listener_restarted", absl::StrCat(ProtoName(key.first), " port ", key.second),
              absl::StrCat("The listener is another one: ", socket->comm, " (pid ", socket->pid,
                           ") after ", it->second->comm, " (pid ", it->second->pid, ").")));
  }
}

void CompareQueues(const SystemView& before, const SystemView& now,
                   std::vector<DoctorChange>* changes) {
  for (const QueueFacts& queue : now.queues) {
    for (const QueueFacts& old : before.queues) {
      const uint64_t lost = queue.dropped + queue.user_dropped;
      const uint64_t lost_before = old.dropped + old.user_dropped;
      if (old.number != queue.number || old.port_id != queue.port_id || lost <= lost_before) {
        continue;
      }
      changes->push_back(Event("queue_dropping", absl::StrCat("queue ", queue.number),
                               absl::StrCat(lost - lost_before, " more packets were dropped, ",
                                            queue.depth, " wait now.")));
    }
  }
}

void CompareDaemons(const SystemView& before, const SystemView& now,
                    std::vector<DoctorChange>* changes) {
  const bool was = before.daemon.has_value() || !before.daemon_silence.empty();
  const bool is = now.daemon.has_value() || !now.daemon_silence.empty();
  if (was == is) return;
  changes->push_back(is ? Event("daemon_back", "utproxy", "A utproxy runs and answers.")
                        : Event("daemon_gone", "utproxy",
                                "The utproxy that was asked is gone, or can't be asked."));
}

std::string Now() {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E3S%Ez", absl::Now(), absl::LocalTimeZone());
}

void Write(const DoctorChange& change, bool json, Environment& env) {
  const std::string time = Now();
  if (json) {
    Json line = {{"time", time}, {"event", change.event}};
    const Json finding = ToJson(change.finding);
    for (const auto& [key, value] : finding.items()) {
      if (value != "") line[key] = value;
    }
    env.out << JsonLine(line) << "\n";
  } else {
    const bool good = change.event == "mended" || change.event == "daemon_back";
    env.out << time << " "
            << Paint(change.event, good ? Color::kGood : Color::kWarning, env.color()) << "\n"
            << FindingText(change.finding, env.width, env.color());
  }
}

// Sockets that become readable when something of the routing or the ruleset changes.
absl::StatusOr<std::vector<NetlinkSocket>> OpenEvents() {
  std::vector<NetlinkSocket> sockets;
  ASSIGN_OR_RETURN(NetlinkSocket route, NetlinkSocket::Open(NETLINK_ROUTE));
  for (const unsigned group : {RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE, RTNLGRP_IPV4_ROUTE,
                               RTNLGRP_IPV6_ROUTE, RTNLGRP_LINK}) {
    RETURN_IF_ERROR(route.JoinGroup(group));
  }
  sockets.push_back(std::move(route));
  ASSIGN_OR_RETURN(NetlinkSocket nft, NetlinkSocket::Open(NETLINK_NETFILTER));
  if (nft.JoinGroup(NFNLGRP_NFTABLES).ok()) sockets.push_back(std::move(nft));  // else poll
  return sockets;
}

// Waits for an event, a second at the most; a burst of events, such as a ruleset's, is one.
void WaitForChange(std::vector<NetlinkSocket>* events) {
  std::vector<pollfd> fds;
  for (const NetlinkSocket& s : *events)
    fds.push_back({.fd = s.fd(), .events = POLLIN, .revents = 0});
  if (::poll(fds.data(), fds.size(), 1000) <= 0) return;
  (void)::poll(nullptr, 0, 50);
  for (NetlinkSocket& s : *events) {
    while (true) {
      const absl::StatusOr<bool> read = s.ReceiveEvents([](const nlmsghdr&) {});
      if (absl::IsResourceExhausted(read.status())) continue;  // lost events: we look anyway
      if (!read.ok() || !*read) break;
    }
  }
}

}  // namespace

std::vector<DoctorChange> CompareViews(const SystemView& before, const Findings& old_findings,
                                       const SystemView& now, Findings* findings) {
  for (Finding& f : *findings) {
    if (f.id != "no_fwmark_rule" && f.id != "ipv6_missing") continue;
    if (!f.family || !HadMarkRule(before, *f.family) || HadMarkRule(now, *f.family)) continue;
    f.id = "rule_removed";
    f.cause =
        absl::StrCat("The policy rule was there a moment ago, and somebody removed it. ", f.cause);
  }
  std::vector<DoctorChange> changes;
  for (const Finding& f : *findings) {
    if (!Has(old_findings, f)) changes.push_back({"appeared", f});
  }
  for (const Finding& f : old_findings) {
    if (!Has(*findings, f)) changes.push_back({"mended", f});
  }
  CompareListeners(before, now, &changes);
  CompareQueues(before, now, &changes);
  CompareDaemons(before, now, &changes);
  return changes;
}

absl::Status WatchDoctor(DoctorSource& source, SystemView view, Findings findings, bool json,
                         Environment& env) {
  ASSIGN_OR_RETURN(std::vector<NetlinkSocket> events, OpenEvents());
  int failures = 0;
  while (env.out.good()) {
    WaitForChange(&events);
    absl::StatusOr<SystemView> loaded = source.LoadAgain();
    // A dump can fail while the very thing it lists changes.
    if (!loaded.ok() && ++failures < kMaxFailures) continue;
    RETURN_IF_ERROR(loaded.status());
    failures = 0;
    SystemView now = std::move(*loaded);
    Findings found = Diagnose(now);
    for (const Finding& old : findings) {
      // What was seen to be removed stays so named until it is back.
      for (Finding& f : found) {
        if (old.id == "rule_removed" && f.fix == old.fix && f.where == old.where) f = old;
      }
    }
    for (const DoctorChange& change : CompareViews(view, findings, now, &found)) {
      Write(change, json, env);
    }
    env.out.flush();
    view = std::move(now);
    findings = std::move(found);
  }
  return absl::OkStatus();
}

}  // namespace utproxy::tools
