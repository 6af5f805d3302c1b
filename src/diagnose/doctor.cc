// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/doctor.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <algorithm>
#include <array>

#include "diagnose/checks.h"

namespace utproxy {
namespace {

constexpr std::array kChecks = {
    DoctorCheck{"kernel_feature_missing", CheckFeatures},
    DoctorCheck{"daemon_silent", CheckDaemonSilent},
    DoctorCheck{"queue_unbound", CheckQueueUnbound},
    DoctorCheck{"no_listener", CheckListener},
    DoctorCheck{"not_transparent", CheckTransparent},
    DoctorCheck{"listener_address", CheckListenerAddress},
    DoctorCheck{"no_fwmark_rule", CheckFwmarkRule},
    DoctorCheck{"rule_removed", CheckRuleRemoved},
    DoctorCheck{"no_local_route", CheckLocalRoute},
    DoctorCheck{"mark_overlap", CheckMarkOverlap},
    DoctorCheck{"src_valid_mark", CheckSrcValidMark},
    DoctorCheck{"rp_filter", CheckRpFilter},
    DoctorCheck{"ipv6_missing", CheckIpv6},
    DoctorCheck{"input_policy", CheckInputPolicy},
    DoctorCheck{"br_netfilter", CheckBridge},
    DoctorCheck{"loop", CheckLoop},
    DoctorCheck{"own_traffic_not_proxied", CheckOwnTraffic},
    DoctorCheck{"own_services_matched", CheckOwnServices},
    DoctorCheck{"socket_match_hijack", CheckSocketMatch},
    DoctorCheck{"reply_bind_conflict", CheckReplyBind},
    DoctorCheck{"queue_overflow", CheckQueueOverflow},
    DoctorCheck{"ruleset_reload_loss", CheckReloadLoss},
    DoctorCheck{"conntrack_full", CheckConntrack},
    DoctorCheck{"fd_limit", CheckFdLimit},
    DoctorCheck{"flow_offload", CheckFlowOffload},
    DoctorCheck{"fragments", CheckFragments},
    DoctorCheck{"listener_on_port_exposed", CheckExposed},
    DoctorCheck{"not_delivered", CheckDelivered},
};

// What one family alone can lack.
bool OfOneFamily(const Finding& f) {
  return f.id == "no_fwmark_rule" || f.id == "no_local_route" || f.id == "no_listener";
}

// What two targets can lack is told of both, also where one command would do for both.
bool EachItsOwn(const Finding& a, const Finding& b) {
  return a.target != b.target &&
         (a.id == "no_listener" || a.id == "not_transparent" || a.id == "listener_address");
}

// IPv4 has it and IPv6 does not: the cause is that IPv6 was left out.
void NameIpv6(Findings* findings) {
  for (Finding& f : *findings) {
    if (!OfOneFamily(f) || f.family != Family::kIpv6) continue;
    const bool v4_too = std::any_of(findings->begin(), findings->end(), [&](const Finding& other) {
      return other.target == f.target && other.family == Family::kIpv4 &&
             (other.id == f.id || other.id == "rule_removed");
    });
    if (!v4_too) f.id = "ipv6_missing";
  }
}

}  // namespace

const char* SeverityName(Severity severity) {
  switch (severity) {
    case Severity::kError:
      return "error";
    case Severity::kWarning:
      return "warning";
    case Severity::kInfo:
      break;
  }
  return "info";
}

absl::Span<const DoctorCheck> DoctorChecks() { return kChecks; }

Findings Diagnose(const SystemView& view) {
  Findings all;
  for (const DoctorCheck& check : kChecks) check.check(view, &all);
  // Only targets that have an IPv4 side to compare with.
  for (Finding& f : all) {
    if (f.target < view.targets.size() && !view.targets[f.target].v4 && f.family == Family::kIpv6) {
      f.family.reset();
    }
  }
  NameIpv6(&all);
  Findings once;
  for (Finding& f : all) {
    const bool known = std::any_of(once.begin(), once.end(), [&](const Finding& o) {
      return o.id == f.id && o.fix == f.fix && o.severity == f.severity &&
             (o.where == f.where || o.cause == f.cause || (!f.fix.empty() && !EachItsOwn(o, f)));
    });
    if (!known) once.push_back(std::move(f));
  }
  std::stable_sort(once.begin(), once.end(),
                   [](const Finding& a, const Finding& b) { return a.severity < b.severity; });
  return once;
}

bool Healthy(const Findings& findings) {
  return std::none_of(findings.begin(), findings.end(),
                      [](const Finding& f) { return f.severity == Severity::kError; });
}

void ForEachEntry(const SystemView& view, absl::FunctionRef<void(const Entry&)> fn) {
  for (size_t i = 0; i < view.targets.size(); ++i) {
    const ProxyTarget& target = view.targets[i];
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
      if (!target.Covers(family)) continue;
      for (const InterfaceFacts* iif : view.Ingress(target, family)) {
        const auto& bypassed = target.bypassed;
        if (std::find(bypassed.begin(), bypassed.end(), std::pair(family, iif->name)) !=
            bypassed.end()) {
          continue;
        }
        fn({.target = target, .index = i, .family = family, .iif = *iif});
      }
    }
  }
}

const char* FamilyText(Family family) { return family == Family::kIpv4 ? "IPv4" : "IPv6"; }

std::string WhereText(const Entry& entry) {
  return absl::StrCat(FamilyText(entry.family), ", ", entry.iif.name);
}

Address SampleDestination(const ProxyTarget& target, Family family) {
  for (const AddressInterval& interval : target.dsts) {
    if (interval.last.IsV4Mapped() != (family == Family::kIpv4)) continue;
    // A network's own address is no host's.
    std::array<uint8_t, 16> bytes = interval.first.bytes();
    if (interval.first != interval.last) bytes[15] |= 1;
    return Address::FromIpv6(bytes.data());
  }
  return *Address::Parse(family == Family::kIpv4 ? "203.0.113.241" : "2001:db8:f1f1::f1");
}

uint16_t SamplePort(const ProxyTarget& target) {
  return target.dports.empty() ? uint16_t{80} : static_cast<uint16_t>(target.dports[0].first);
}

PacketPattern FirstPacket(const Entry& entry, Proto proto) {
  return {.family = entry.family,
          .iif = entry.iif.name,
          .proto = proto,
          .src = std::nullopt,
          .dst = SampleDestination(entry.target, entry.family),
          .dport = SamplePort(entry.target),
          .mark = 0,
          .dst_type = std::nullopt,
          .ct_state = kCtNew};
}

uint32_t MarkOf(const ProxyTarget& target) { return target.policy.Remark(0); }

Address NeighbourOf(const Address& own, Family family) {
  std::array<uint8_t, 16> bytes = own.bytes();
  bytes[15] = static_cast<uint8_t>(bytes[15] ^ 3);
  if (family == Family::kIpv6) return Address::FromIpv6(bytes.data());
  uint32_t v4 = 0;
  std::copy(bytes.begin() + 12, bytes.end(), reinterpret_cast<uint8_t*>(&v4));
  return Address::FromIpv4(v4);
}

const Arrival* ArrivalAt(const Entry& entry) {
  for (const Arrival& each : entry.target.arrivals) {
    if (each.family == entry.family && each.iif == entry.iif.name) return &each;
  }
  return nullptr;
}

uint32_t MarkAt(const Entry& entry) {
  const Arrival* arrival = ArrivalAt(entry);
  const bool known = arrival != nullptr && arrival->reached && arrival->mark &&
                     entry.target.policy_known && entry.target.mark_set;
  return known ? *arrival->mark : MarkOf(entry.target);
}

std::string MarkMaskText(const ProxyTarget& target) {
  const uint32_t mask = target.policy.mark_mask;
  const uint32_t mark = MarkOf(target);
  // Bits outside of the mask are flipped, so they are not known beforehand.
  return absl::StrFormat("0x%x/0x%x", mark & mask, mask);
}

}  // namespace utproxy
