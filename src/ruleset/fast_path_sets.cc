// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/fast_path_sets.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <arpa/inet.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "base/status.h"
#include "netlink/attributes.h"
#include "ruleset/nft_batch.h"
#include "ruleset/nft_objects.h"
#include "ruleset/plan.h"

namespace utproxy {
namespace {

// Element lists travel in an attribute with a 16-bit length.
constexpr size_t kElementsPerMessage = 500;

nft::SetPtr NewSet(NamedSet named) {
  nft::SetPtr set(nft::Allocated(nftnl_set_alloc()));
  nftnl_set_set_u32(set.get(), NFTNL_SET_FAMILY, NFPROTO_INET);
  nftnl_set_set_str(set.get(), NFTNL_SET_TABLE, kTableName);
  nftnl_set_set_str(set.get(), NFTNL_SET_NAME, SetName(named).c_str());
  return set;
}

void Empty(NamedSet named, NftBatch& batch) {
  const nft::SetPtr set = NewSet(named);
  batch.Add(NFT_MSG_DELSETELEM, NFPROTO_INET, 0,
            absl::StrCat("empty nftables set inet ", kTableName, " ", SetName(named)),
            [&](nlmsghdr* nlh) { nftnl_set_elems_nlmsg_build_payload(nlh, set.get()); });
}

// The element's parts stand in whole registers of 32 bits.
void AddElement(const ListenerPlace& place, Family family, nftnl_set* set) {
  const size_t size = AddressBytes(family);
  std::array<uint8_t, 20> key{};
  std::memcpy(key.data(), place.address.bytes().data() + (16 - size), size);
  const uint16_t port = htons(place.port);
  std::memcpy(key.data() + size, &port, sizeof port);
  nftnl_set_elem* e = nft::Allocated(nftnl_set_elem_alloc());
  nftnl_set_elem_set(e, NFTNL_SET_ELEM_KEY, key.data(), static_cast<uint32_t>(size + 4));
  nftnl_set_elem_add(set, e);
}

void Fill(NamedSet named, absl::Span<const ListenerPlace> places, NftBatch& batch) {
  while (!places.empty()) {
    const nft::SetPtr part = NewSet(named);
    const auto some = places.subspan(0, kElementsPerMessage);
    for (const ListenerPlace& place : some) AddElement(place, named.family, part.get());
    batch.Add(NFT_MSG_NEWSETELEM, NFPROTO_INET, NLM_F_CREATE,
              absl::StrCat("fill nftables set inet ", kTableName, " ", SetName(named)),
              [&](nlmsghdr* nlh) { nftnl_set_elems_nlmsg_build_payload(nlh, part.get()); });
    places.remove_prefix(some.size());
  }
}

uint64_t PacketsOf(nftnl_rule* rule) {
  uint64_t packets = 0;
  const auto read = [](nftnl_expr* e, void* sum) {
    const char* name = nftnl_expr_get_str(e, NFTNL_EXPR_NAME);
    if (name != nullptr && std::strcmp(name, "counter") == 0) {
      *static_cast<uint64_t*>(sum) += nftnl_expr_get_u64(e, NFTNL_EXPR_CTR_PACKETS);
    }
    return 0;
  };
  nftnl_expr_foreach(rule, read, &packets);
  return packets;
}

}  // namespace

absl::Status ForgetDecidedFlows(NetlinkSocket& socket) {
  NftBatch batch;
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    Empty({SetKind::kDecided, family}, batch);
  }
  return batch.Commit(socket);
}

absl::Status ReplaceListeners(NetlinkSocket& socket, absl::Span<const ListenerPlace> places) {
  NftBatch batch;
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    std::vector<ListenerPlace> own;
    std::copy_if(places.begin(), places.end(), std::back_inserter(own), [&](const auto& place) {
      return place.address.IsV4Mapped() || family == Family::kIpv6;
    });
    const NamedSet set{SetKind::kListeners, family};
    Empty(set, batch);
    Fill(set, own, batch);
  }
  return batch.Commit(socket);
}

absl::StatusOr<uint32_t> RulesetGeneration(NetlinkSocket& socket) {
  alignas(nlmsghdr) char buffer[64];
  nlmsghdr* nlh = nftnl_nlmsg_build_hdr(buffer, NFT_MSG_GETGEN, NFPROTO_UNSPEC, 0, 0);
  uint32_t generation = 0;
  const auto read = [&](const nlmsghdr& answer) {
    ForEachAttribute(answer, sizeof(nfgenmsg), [&](const nlattr& attr) {
      if (mnl_attr_get_type(&attr) != NFTA_GEN_ID) return;
      if (mnl_attr_get_payload_len(&attr) < sizeof generation) return;
      generation = ntohl(mnl_attr_get_u32(&attr));
    });
  };
  RETURN_IF_ERROR(nft::Privileged(socket.Transact(nlh, "read nftables' generation", read)));
  return generation;
}

absl::StatusOr<std::optional<FastPathCounters>> ReadFastPathCounters(NetlinkSocket& socket) {
  alignas(nlmsghdr) char buffer[512];
  nlmsghdr* nlh = nftnl_nlmsg_build_hdr(buffer, NFT_MSG_GETRULE, NFPROTO_INET, NLM_F_DUMP, 0);
  const nft::RulePtr wanted = nft::NewRule(kTableName, kPreroutingChain);
  nftnl_rule_nlmsg_build_payload(nlh, wanted.get());
  FastPathCounters counters;
  bool any = false;
  const auto read = [&](const nlmsghdr& answer) {
    const nft::RulePtr rule(nft::Allocated(nftnl_rule_alloc()));
    if (nftnl_rule_nlmsg_parse(&answer, rule.get()) < 0) return;
    const std::string comment = nft::ReadComment(rule.get());
    const bool tcp = absl::EndsWith(comment, kFastTcp);
    if (!tcp && !absl::EndsWith(comment, kFastUdp)) return;
    any = true;
    (tcp ? counters.tcp : counters.udp) += PacketsOf(rule.get());
  };
  const absl::Status status = socket.Transact(nlh, "read the fast path's counters", read);
  if (absl::IsNotFound(status)) return std::optional<FastPathCounters>();
  RETURN_IF_ERROR(nft::Privileged(status));
  return any ? std::optional(counters) : std::nullopt;
}

}  // namespace utproxy
