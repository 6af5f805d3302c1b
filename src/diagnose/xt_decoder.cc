// SPDX-License-Identifier: GPL-3.0-or-later
// What the xt matches and targets say that iptables-nft leaves in their own form (nft_compat).
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/xt_CT.h>
#include <linux/netfilter/xt_NFQUEUE.h>
#include <linux/netfilter/xt_TPROXY.h>
#include <linux/netfilter/xt_addrtype.h>
#include <linux/netfilter/xt_connmark.h>
#include <linux/netfilter/xt_conntrack.h>
#include <linux/netfilter/xt_mark.h>
#include <linux/netfilter/xt_multiport.h>
#include <linux/netfilter/xt_owner.h>
#include <linux/netfilter/xt_socket.h>
#include <linux/netfilter/xt_state.h>
#include <linux/netfilter/xt_tcpudp.h>
#include <linux/rtnetlink.h>

#include <cstring>

#include "diagnose/rule_decoder.h"

namespace utproxy {
namespace {

// The structure at the front of `info`; false where that is too short for one.
template <typename T>
bool Read(absl::Span<const uint8_t> info, T* out) {
  if (info.size() < sizeof *out) return false;
  std::memcpy(out, info.data(), sizeof *out);
  return true;
}

void AddNumbers(RuleFacts* rule, Field field, std::vector<NumberRange> numbers, bool negated) {
  RuleCondition condition;
  condition.field = field;
  condition.negated = negated;
  condition.numbers = std::move(numbers);
  rule->conditions.push_back(std::move(condition));
}

void AddAnyBit(RuleFacts* rule, uint64_t mask, bool negated) {
  RuleCondition condition;
  condition.field = Field::kCtState;
  condition.any_bit = true;
  condition.mask = mask;
  condition.negated = negated;
  rule->conditions.push_back(std::move(condition));
}

bool PortRanges(const __u16 (&spts)[2], const __u16 (&dpts)[2], bool not_source, bool not_dest,
                RuleFacts* rule) {
  if (spts[0] != 0 || spts[1] != 0xffff) {
    AddNumbers(rule, Field::kSport, {{spts[0], spts[1]}}, not_source);
  }
  if (dpts[0] != 0 || dpts[1] != 0xffff) {
    AddNumbers(rule, Field::kDport, {{dpts[0], dpts[1]}}, not_dest);
  }
  return true;
}

bool Multiport(absl::Span<const uint8_t> info, RuleFacts* rule) {
  xt_multiport_v1 multi;
  if (!Read(info, &multi) || multi.count > XT_MULTI_PORTS || multi.flags > XT_MULTIPORT_DESTINATION)
    return false;
  std::vector<NumberRange> ranges;
  for (int i = 0; i < multi.count; ++i) {
    NumberRange range{multi.ports[i], multi.ports[i]};
    if (multi.pflags[i] != 0 && i + 1 < multi.count) range.last = multi.ports[++i];
    ranges.push_back(range);
  }
  AddNumbers(rule, multi.flags == XT_MULTIPORT_SOURCE ? Field::kSport : Field::kDport,
             std::move(ranges), multi.invert != 0);
  return true;
}

bool Addrtype(absl::Span<const uint8_t> info, RuleFacts* rule) {
  xt_addrtype_info_v1 type;
  if (!Read(info, &type) || type.source != 0 || type.dest == 0) return false;
  std::vector<NumberRange> types;  // the bits are RTN_* of linux/rtnetlink.h, in their order
  for (uint64_t bit = 0; bit < 16; ++bit) {
    if ((type.dest >> bit & 1) != 0) types.push_back({bit, bit});
  }
  AddNumbers(rule, Field::kDstType, std::move(types), (type.flags & XT_ADDRTYPE_INVERT_DEST) != 0);
  return true;
}

bool Conntrack(absl::Span<const uint8_t> info, RuleFacts* rule) {
  xt_conntrack_mtinfo3 ct;
  rule->defrags = true;
  if (!Read(info, &ct) || ct.match_flags != XT_CONNTRACK_STATE) return false;
  // Bit 0 invalid, then the ctinfo values from 1 on, as nft's ct state.
  AddAnyBit(rule, ct.state_mask, (ct.invert_flags & XT_CONNTRACK_STATE) != 0);
  return true;
}

bool Owner(absl::Span<const uint8_t> info, RuleFacts* rule) {
  xt_owner_match_info owner;
  if (!Read(info, &owner)) return false;
  if ((owner.match & XT_OWNER_UID) != 0) {
    AddNumbers(rule, Field::kUid, {{owner.uid_min, owner.uid_max}},
               (owner.invert & XT_OWNER_UID) != 0);
  }
  if ((owner.match & XT_OWNER_GID) != 0) {
    AddNumbers(rule, Field::kGid, {{owner.gid_min, owner.gid_max}},
               (owner.invert & XT_OWNER_GID) != 0);
  }
  return true;
}

}  // namespace

bool DecodeXtMatch(absl::string_view name, uint32_t revision, absl::Span<const uint8_t> info,
                   RuleFacts* rule) {
  if (name == "comment") return true;
  if (name == "tcp") {
    xt_tcp tcp;
    if (!Read(info, &tcp) || tcp.flg_mask != 0 || tcp.option != 0) return false;
    return PortRanges(tcp.spts, tcp.dpts, (tcp.invflags & XT_TCP_INV_SRCPT) != 0,
                      (tcp.invflags & XT_TCP_INV_DSTPT) != 0, rule);
  }
  if (name == "udp") {
    xt_udp udp;
    if (!Read(info, &udp)) return false;
    return PortRanges(udp.spts, udp.dpts, (udp.invflags & XT_UDP_INV_SRCPT) != 0,
                      (udp.invflags & XT_UDP_INV_DSTPT) != 0, rule);
  }
  if (name == "multiport" && revision == 1) return Multiport(info, rule);
  if (name == "addrtype" && revision == 1) return Addrtype(info, rule);
  if (name == "conntrack") return revision == 3 && Conntrack(info, rule);
  if (name == "owner" && revision == 1) return Owner(info, rule);
  if (name == "state") {
    xt_state_info state;
    rule->defrags = true;
    if (!Read(info, &state)) return false;
    AddAnyBit(rule, state.statemask, false);
    return true;
  }
  if (name == "mark" && revision == 1) {
    xt_mark_mtinfo1 mark;
    if (!Read(info, &mark)) return false;
    AddNumbers(rule, Field::kMark, {{mark.mark, mark.mark}}, mark.invert != 0);
    rule->conditions.back().mask = mark.mask;
    return true;
  }
  if (name == "socket") {
    rule->socket_match = rule->defrags = true;
    rule->socket_transparent = revision >= 1 && !info.empty() && (info[0] & XT_SOCKET_TRANSPARENT);
    return false;  // whether there is such a socket is not known beforehand
  }
  return false;
}

bool DecodeXtTarget(absl::string_view name, uint32_t revision, absl::Span<const uint8_t> info,
                    uint8_t family, RuleFacts* rule) {
  if (name == "TPROXY") {
    TproxyStatement tproxy{.xt = true,
                           .v4 = family != NFPROTO_IPV6,
                           .v6 = family == NFPROTO_IPV6,
                           .address = {},
                           .port = 0,
                           .mark = {}};
    xt_tproxy_target_info_v1 v1;
    xt_tproxy_target_info v0;
    if (revision == 1 && Read(info, &v1)) {
      tproxy.port = ntohs(v1.lport);
      tproxy.mark = {v1.mark_value, v1.mark_mask};
      tproxy.address =
          family == NFPROTO_IPV6 ? Address::FromIpv6(&v1.laddr) : Address::FromIpv4(v1.laddr.ip);
      const bool none = family == NFPROTO_IPV6 ? tproxy.address.IsUnspecified() : v1.laddr.ip == 0;
      if (none) tproxy.address = Address();
    } else if (revision == 0 && Read(info, &v0)) {
      tproxy.port = ntohs(v0.lport);
      tproxy.mark = {v0.mark_value, v0.mark_mask};
      if (v0.laddr != 0) tproxy.address = Address::FromIpv4(v0.laddr);
    } else {
      return false;
    }
    rule->tproxy = tproxy;
    rule->defrags = true;
    return true;
  }
  if (name == "NFQUEUE") {
    xt_NFQ_info_v3 queue{};
    if (info.size() < sizeof queue.queuenum) return false;
    std::memcpy(&queue, info.data(), std::min(info.size(), sizeof queue));
    const int total = revision >= 1 && queue.queues_total > 0 ? queue.queues_total : 1;
    rule->queue = QueueStatement{.first = queue.queuenum,
                                 .last = static_cast<uint16_t>(queue.queuenum + total - 1),
                                 .bypass = revision >= 2 && (queue.flags & NFQ_FLAG_BYPASS) != 0};
    return true;
  }
  if (name == "MARK") {
    xt_mark_tginfo2 mark;
    rule->mark_unknown = revision != 2 || !Read(info, &mark);
    if (rule->mark_unknown) return false;
    rule->mark = MarkChange{mark.mark, mark.mask};
    return true;
  }
  if (name == "CT" || name == "NOTRACK") {
    xt_ct_target_info ct;
    rule->notrack = name == "NOTRACK" || (Read(info, &ct) && (ct.flags & XT_CT_NOTRACK) != 0);
    return true;
  }
  if (name == "CONNMARK") {
    xt_connmark_tginfo1 connmark;  // revision 2 goes on behind it
    rule->mark_unknown =
        revision < 1 || !Read(info, &connmark) || connmark.mode == XT_CONNMARK_RESTORE;
    return true;
  }
  if (name == "DNAT" || name == "REDIRECT") {
    rule->dnat = true;
    return true;
  }
  if (name == "REJECT") rule->verdict = RuleVerdict::kDrop;
  return true;
}

}  // namespace utproxy
