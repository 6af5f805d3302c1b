// SPDX-License-Identifier: GPL-3.0-or-later
// Who listens where a target looks for a listener.
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <netinet/in.h>

#include <algorithm>

#include "diagnose/checks.h"
#include "diagnose/fixes.h"

namespace utproxy {
namespace {

constexpr uint64_t kMaxPorts = 16;  // of a target without --on-port, each looked at

enum class State : uint8_t { kGood, kAbsent, kElsewhere, kNotTransparent };

struct Place {
  const Entry& entry;
  Proto proto;
  uint16_t port;
  Address laddr;  // unspecified: the packet's own
};
struct Found {
  State state = State::kAbsent;
  const SocketFacts* socket = nullptr;
};

bool Listens(const Socket& s) { return s.proto == Proto::kTcp ? s.listening() : !s.connected(); }

// Takes the family's packets at all.
bool Serves(const Socket& s, Family family) {
  if (family == Family::kIpv6) return s.inet6() && !s.local.IsV4Mapped();
  return !s.inet6() || (!s.v6only() && (s.local.IsUnspecified() || s.local.IsV4Mapped()));
}

Found Look(const SystemView& view, const Place& place) {
  Found found;
  for (const SocketFacts& each : view.sockets) {
    const Socket& s = each.socket;
    const bool device = s.ifindex == 0 || s.ifindex == place.entry.iif.index;
    if (s.proto != place.proto || s.local_port != place.port || !Listens(s) || !device ||
        !Serves(s, place.entry.family)) {
      continue;
    }
    const bool here = s.local.IsUnspecified() || s.local == place.laddr;
    const State state = !here             ? State::kElsewhere
                        : s.transparent() ? State::kGood
                                          : State::kNotTransparent;
    // The exact address goes before the wildcard, as in the kernel's lookup.
    if (here && s.local == place.laddr && !place.laddr.IsUnspecified()) return {state, &each};
    if (state == State::kGood || found.state == State::kAbsent ||
        (state == State::kNotTransparent && found.state == State::kElsewhere)) {
      found = {state, &each};
    }
  }
  return found;
}

void ForEachPlace(const SystemView& view, absl::FunctionRef<void(const Place&)> fn) {
  ForEachEntry(view, [&](const Entry& entry) {
    const Policy& policy = entry.target.policy;
    if (!entry.target.policy_known) return;
    Address laddr = policy.on_ip(entry.family);
    if (laddr.IsUnspecified()) laddr = entry.iif.Primary(entry.family).value_or(Address());
    std::vector<uint16_t> ports = entry.target.spread.AllPorts();
    if (ports.empty() && policy.on_port != 0) ports.push_back(policy.on_port);
    for (const NumberRange& r : entry.target.dports) {
      if (policy.on_port != 0 || r.last - r.first >= kMaxPorts) continue;
      for (uint64_t p = r.first; p <= r.last; ++p) ports.push_back(static_cast<uint16_t>(p));
    }
    for (const Proto proto : {Proto::kTcp, Proto::kUdp}) {
      if (!entry.target.Covers(proto)) continue;
      for (const uint16_t port : ports) fn({entry, proto, port, laddr});
    }
  });
}

std::string PlaceText(const Place& place) {
  return absl::StrCat(ProtoName(place.proto), " port ", place.port);
}

bool OtherIsServed(const SystemView& view, const Place& place) {
  if (!place.entry.target.tcp || !place.entry.target.udp) return false;
  Place other = place;
  other.proto = place.proto == Proto::kTcp ? Proto::kUdp : Proto::kTcp;
  return Look(view, other).state == State::kGood;
}

// Another of the target's ports takes what this one should.
bool AnotherPortServes(const SystemView& view, const Place& place) {
  for (const uint16_t port : place.entry.target.spread.AllPorts()) {
    Place other = place;
    other.port = port;
    if (Look(view, other).state == State::kGood) return true;
  }
  return false;
}

// A target for both protocols whose proxy serves one of them is broken for the other one where a
// rule sends that there; else, or where misses pass, incomplete.
Severity SeverityFor(const SystemView& view, const Place& place) {
  const ProxyTarget& target = place.entry.target;
  if (AnotherPortServes(view, place)) return Severity::kWarning;
  const bool lost = !target.rules.empty() && target.policy.on_miss == OnMiss::kDrop;
  return OtherIsServed(view, place) && !lost ? Severity::kWarning : Severity::kError;
}

// Another port where somebody listens the way a transparent proxy does.
const SocketFacts* Alternative(const SystemView& view, const Place& place) {
  for (const SocketFacts& each : view.sockets) {
    const Socket& s = each.socket;
    const bool here = s.local.IsUnspecified() || s.local == place.laddr;
    if (s.proto == place.proto && Listens(s) && s.transparent() && here && s.local_port != 0 &&
        Serves(s, place.entry.family)) {
      return &each;
    }
  }
  return nullptr;
}

Finding About(const SystemView& view, const Place& place, const char* id) {
  Finding f;
  f.id = id;
  f.severity = SeverityFor(view, place);
  f.where = absl::StrCat(WhereText(place.entry), ", ", PlaceText(place));
  f.family = place.entry.family;
  f.target = place.entry.index;
  return f;
}

std::string OwnerText(const SocketFacts& s) {
  if (s.pid == 0) return "a process that can't be told";
  return absl::StrCat(s.comm, " (pid ", s.pid, ")");
}

// Has the target leave the protocol alone that its proxy does not serve.
std::string LeaveProtocol(const SystemView& view, const Place& place, const RuleRef& rule) {
  const ProxyTarget& target = place.entry.target;
  if (rule.owned) {
    const char* other = place.proto == Proto::kTcp ? "udp" : "tcp";
    const std::string restart = RestartDaemon(view, target, {{"--proto", other}});
    if (!restart.empty()) return restart;
  }
  const char* proto = ProtoName(place.proto);
  const RuleRef chain{rule.family, rule.table, rule.chain, 0, false};
  const auto& iifs = target.iifs;
  const std::string iif = iifs.size() == 1 ? iifs[0] : "";
  // iptables writes "lan+" for "lan*".
  const std::string xt_iif = absl::StrReplaceAll(iif, {{"*", "+"}});
  return InsertRule(chain,
                    absl::StrCat(iif.empty() ? "" : absl::StrCat("-i ", ShellWord(xt_iif), " "),
                                 "-p ", proto, " -j RETURN"),
                    absl::StrCat(iif.empty() ? "" : absl::StrCat("iifname ", ShellWord(iif), " "),
                                 "meta l4proto ", proto, " return"));
}

std::string NoListenerFix(const SystemView& view, const Place& place) {
  const ProxyTarget& target = place.entry.target;
  const bool half = OtherIsServed(view, place);
  const SocketFacts* other = half ? nullptr : Alternative(view, place);
  if (other != nullptr) {
    return MoveTarget(view, target, place.entry.family, "", other->socket.local_port);
  }
  // Nobody to lead to: until the proxy is back, let traffic pass.
  for (const RuleRef& rule : target.rules) {
    if (!SeesFamily(rule.family, place.entry.family)) continue;
    if (half) return LeaveProtocol(view, place, rule);
    // What a running daemon has made it puts back.
    const std::string stop = StopDaemon(view, target);
    const bool put_back = rule.table == "utproxy" && !stop.empty();
    if (!rule.owned && !put_back) return DeleteRule(rule);
    return absl::StrCat(stop, "utproxy ruleset remove");
  }
  return "utproxy ruleset remove";
}

// Of several ports the one where nobody listens is left out, where the command line says the ports.
Finding MissingOneOf(const SystemView& view, const Place& place) {
  const SpreadSpec& spread = place.entry.target.spread;
  Finding f = About(view, place, "no_listener");
  f.cause =
      absl::StrCat("Nobody listens on ", PlaceText(place), " for ", FamilyText(place.entry.family),
                   ", one of the target's ports ", spread.ToString(),
                   "; the others serve its clients. Start the proxy's ", "process there; ");
  const auto without = [&place](std::vector<uint16_t> ports) {
    std::erase(ports, place.port);
    return absl::StrJoin(ports, ",");
  };
  // Where only backups serve, they are the ports.
  const bool last = spread.ports.size() == 1 && spread.ports[0] == place.port;
  f.fix = RestartDaemon(view, place.entry.target,
                        {{"--on-port", without(last ? spread.backups : spread.ports)},
                         {"--backup-port", last ? "" : without(spread.backups)}});
  if (f.fix.empty() || absl::StrContains(f.fix, "--config")) {
    f.fix = "utproxy doctor --watch";
    absl::StrAppend(&f.cause, "the command tells when somebody listens there.");
  } else {
    absl::StrAppend(&f.cause, "until then the fix leaves the port out.");
  }
  return f;
}

}  // namespace

void CheckListener(const SystemView& view, Findings* findings) {
  ForEachPlace(view, [&](const Place& place) {
    if (Look(view, place).state != State::kAbsent) return;
    if (AnotherPortServes(view, place)) return findings->push_back(MissingOneOf(view, place));
    Finding f = About(view, place, "no_listener");
    f.cause = absl::StrCat("Nobody listens on ", PlaceText(place), " for ",
                           FamilyText(place.entry.family), ", where the proxy should");
    if (const SocketFacts* other = Alternative(view, place)) {
      absl::StrAppend(&f.cause, "; ", OwnerText(*other), " does on port ", other->socket.local_port,
                      ", transparently.");
    } else {
      absl::StrAppend(&f.cause, ". Start the proxy; until then the fix lets traffic go direct.");
    }
    f.fix = NoListenerFix(view, place);
    findings->push_back(std::move(f));
  });
}

void CheckTransparent(const SystemView& view, Findings* findings) {
  ForEachPlace(view, [&](const Place& place) {
    const Found found = Look(view, place);
    if (found.state != State::kNotTransparent || !found.socket->socket.transparent_known()) return;
    const SocketFacts& s = *found.socket;
    Finding f = About(view, place, "not_transparent");
    f.cause = absl::StrCat("The listener on ", PlaceText(place), " of ", OwnerText(s),
                           " has no IP_TRANSPARENT, so the kernel hands it nothing.");
    constexpr uint64_t kNetAdminOrRaw = 1 << 12 | 1 << 13;
    const auto process = view.processes.find(s.pid);
    if (process != view.processes.end() && (process->second.capabilities & kNetAdminOrRaw) == 0) {
      absl::StrAppend(&f.cause,
                      " Its process has neither CAP_NET_ADMIN nor CAP_NET_RAW, without "
                      "which it can't set that.");
    } else {
      absl::StrAppend(&f.cause,
                      " The fix sets it until the proxy restarts; for good, switch on "
                      "its transparent (tproxy) mode.");
    }
    f.fix = s.socket.inet6() ? SetSocketOption(s.pid, s.fd, IPPROTO_IPV6, 75)
                             : SetSocketOption(s.pid, s.fd, IPPROTO_IP, 19);
    findings->push_back(std::move(f));
  });
}

// Connections are made by the kernel alone, and then nobody takes them.
void CheckStopped(const SystemView& view, Findings* findings) {
  ForEachPlace(view, [&](const Place& place) {
    const Found found = Look(view, place);
    if (found.state != State::kGood) return;
    const auto process = view.processes.find(found.socket->pid);
    if (process == view.processes.end() || !process->second.stopped) return;
    Finding f = About(view, place, "not_delivered");
    f.cause = absl::StrCat("Packets reach the listener on ", PlaceText(place), ", but ",
                           OwnerText(*found.socket), " is stopped, by a signal or a debugger.");
    f.fix = absl::StrCat("kill -CONT ", found.socket->pid);
    findings->push_back(std::move(f));
  });
}

void CheckListenerAddress(const SystemView& view, Findings* findings) {
  ForEachPlace(view, [&](const Place& place) {
    const Found found = Look(view, place);
    if (found.state != State::kElsewhere) return;
    const Family family = place.entry.family;
    const std::string at = found.socket->socket.local.ToString(family);
    const bool told = !place.entry.target.policy.on_ip(family).IsUnspecified();
    Finding f = About(view, place, "listener_address");
    f.cause = absl::StrCat(OwnerText(*found.socket), " listens on ", at, " ", PlaceText(place),
                           ", but the rule looks for it at ", place.laddr.ToString(family),
                           told ? ", its --on-ip." : ", the interface's primary address.");
    f.fix = MoveTarget(view, place.entry.target, family, at, place.port);
    findings->push_back(std::move(f));
  });
}

}  // namespace utproxy
