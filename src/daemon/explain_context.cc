// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/explain_context.h"

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/netfilter.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/fd.h"
#include "base/status.h"
#include "daemon/doctor_view.h"
#include "diagnose/chain_walk.h"
#include "diagnose/marked_route.h"
#include "diagnose/proc_reader.h"
#include "diagnose/routing_reader.h"
#include "diagnose/ruleset_reader.h"

namespace utproxy {
namespace {

// utproxy's own program (steer/sk_lookup.bpf.c).
constexpr char kOwnProgram[] = "steer";

// Names of the sk_lookup programs attached to this network namespace, utproxy's left out; ids where
// the right to look at programs (CAP_SYS_ADMIN) is missing.
std::vector<std::string> OtherPrograms(uint32_t own_id) {
  std::vector<std::string> names;
  const UniqueFd netns(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  std::array<uint32_t, 64> ids{};
  uint32_t flags = 0, count = ids.size();
  if (!netns.valid() ||
      bpf_prog_query(netns.get(), BPF_SK_LOOKUP, 0, &flags, ids.data(), &count) != 0) {
    return names;
  }
  for (uint32_t i = 0; i < std::min<uint32_t>(count, ids.size()); ++i) {
    if (ids[i] == own_id) continue;
    const UniqueFd program(bpf_prog_get_fd_by_id(ids[i]));
    bpf_prog_info info{};
    uint32_t len = sizeof info;
    if (!program.valid() || bpf_obj_get_info_by_fd(program.get(), &info, &len) != 0) {
      names.push_back(absl::StrCat("id ", ids[i]));
      continue;
    }
    const std::string name(info.name, strnlen(info.name, sizeof info.name));
    if (name != kOwnProgram) names.push_back(name.empty() ? absl::StrCat("id ", ids[i]) : name);
  }
  return names;
}

std::string RuleText(const PolicyRule& rule) {
  std::string text = absl::StrCat("The rule with priority ", rule.priority);
  if (rule.mark) absl::StrAppendFormat(&text, " (fwmark 0x%x/0x%x)", *rule.mark, *rule.mask);
  return absl::StrCat(text, " leads to table ", rule.table, ".");
}

std::string MissText(const Decision& decision) {
  if (decision.verdict == Verdict::kAccept && IsHit(decision.reason)) return "";
  return ReasonName(decision.reason);
}

}  // namespace

absl::StatusOr<ExplainContext> ExplainContext::Load(uint32_t own_program) {
  SystemView view;
  ASSIGN_OR_RETURN(NetlinkSocket route, NetlinkSocket::Open(NETLINK_ROUTE));
  absl::Status ruleset;  // without it the rest is told
  RETURN_IF_ERROR(LoadRoutingAndRuleset(&route, &view, &ruleset));
  return ExplainContext(std::move(view), OtherPrograms(own_program));
}

std::string ExplainContext::RouteSentences(const Packet& packet, uint32_t mark,
                                           const RouteAnswer& route) const {
  std::string text;
  const InterfaceFacts* iif = nullptr;
  for (const InterfaceFacts& each : view_.interfaces) {
    if (each.index == packet.iif) iif = &each;
  }
  if (route.kind != RouteAnswer::Kind::kRefused) {
    const RoutedPacket routed{.family = packet.family,
                              .mark = mark,
                              .iif = iif != nullptr ? iif->name : "",
                              .src = packet.src,
                              .dst = packet.dst,
                              .ip_proto = packet.protocol};
    for (const PolicyRule& rule : view_.rules) {
      if (rule.table != route.table || !rule.to_table || FitsPacket(rule, routed) != Fit::kYes) {
        continue;
      }
      text = " " + RuleText(rule);
      break;
    }
  }
  if (iif == nullptr || packet.family != Family::kIpv4) return text;
  const int rp_filter = std::max(view_.rp_filter_all, iif->rp_filter);
  const bool valid_mark = view_.src_valid_mark_all != 0 || iif->src_valid_mark != 0;
  const bool refused = route.kind == RouteAnswer::Kind::kRefused;
  absl::StrAppend(&text, " rp_filter on ", iif->name, " is ", rp_filter,
                  rp_filter == 0   ? " (off)"
                  : rp_filter == 1 ? " (strict)"
                                   : " (loose)",
                  ", src_valid_mark ", valid_mark ? 1 : 0, ": the sender ",
                  refused ? "does not pass." : "passes.");
  return text;
}

std::string ExplainContext::InputSentence(const Packet& packet, uint32_t mark) const {
  if (!view_.ruleset_read) {
    return " What the input chains do can't be read without CAP_NET_ADMIN.";
  }
  PacketPattern pattern{.family = packet.family,
                        .iif = std::nullopt,
                        .proto = packet.proto(),
                        .src = packet.src,
                        .dst = packet.dst,
                        .dport = packet.dport,
                        .mark = mark,
                        .dst_type = std::nullopt,
                        .ct_state = std::nullopt};
  if (packet.is_pure_syn()) pattern.ct_state = 8;
  for (const InterfaceFacts& each : view_.interfaces) {
    if (each.index == packet.iif) pattern.iif = each.name;
  }
  size_t chains = 0;
  for (const ChainFacts& chain : view_.ruleset.chains) {
    if (chain.hook != NF_INET_LOCAL_IN || !SeesFamily(chain.family, packet.family)) continue;
    ++chains;
    if (!SurelyDropped(view_.ruleset, chain, pattern)) continue;
    return absl::StrCat(" But before that chain ", chain.name, " of table ", chain.table,
                        " on the input hook drops it",
                        chain.policy_drop ? " (policy drop, and no rule accepts it)." : ".");
  }
  return chains == 0
             ? " No input chain is in its way."
             : absl::StrCat(" The input hook's ", chains,
                            chains == 1 ? " chain does" : " chains do", " not surely drop it.");
}

std::string ExplainContext::ProgramSentence() const {
  if (programs_.empty()) return "";
  return absl::StrCat(" Another sk_lookup program is attached here (",
                      absl::StrJoin(programs_, ", "),
                      "): it has a say in every lookup of a listener, TPROXY's own as well.");
}

Json KernelWould(const Packet& packet, const Decision& decision, bool spread) {
  const std::string miss = MissText(decision);
  Json json;
  if (packet.outcome == ParseOutcome::kNotTcpOrUdp) {
    json["xt_TPROXY"] = "its rule takes TCP and UDP only, so never meets the packet";
    json["nft tproxy"] = "its rule takes TCP and UDP only, so never meets the packet";
  } else if (miss.empty()) {
    json["xt_TPROXY"] =
        absl::StrFormat("pins the socket, sets the mark 0x%x, accepts", decision.mark);
    json["nft tproxy"] =
        "pins the socket and goes on with the rule's next statement, such as "
        "`meta mark set ... accept`";
  } else {
    json["xt_TPROXY"] = "drops the packet";
    json["nft tproxy"] =
        "leaves the rule: the packet meets the next one, and without any passes "
        "unmarked, so is forwarded";
  }
  // Of what it would do with a rule for this one port.
  if (spread && decision.listener_looked_up) {
    for (Json& what : json) {
      what = absl::StrCat(what.get<std::string>(),
                          ": with a rule for this port alone, as it can't spread over several");
    }
  }
  return json;
}

}  // namespace utproxy
