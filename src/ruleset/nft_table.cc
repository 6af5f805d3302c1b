// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/nft_table.h"

#include <absl/strings/str_cat.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/rule.h>
#include <libnftnl/table.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>

#include "base/status.h"
#include "ruleset/nft_objects.h"

namespace utproxy {
namespace {

constexpr uint16_t kInet = NFPROTO_INET;

void AddTable(NftBatch& batch, const char* name, absl::string_view comment, bool owned) {
  const nft::TablePtr table = nft::NewTable(name);
  if (owned) nftnl_table_set_u32(table.get(), NFTNL_TABLE_FLAGS, NFT_TABLE_F_OWNER);
  if (!comment.empty()) nft::SetComment(table.get(), std::string(comment));
  batch.Add(NFT_MSG_NEWTABLE, kInet, NLM_F_CREATE | NLM_F_EXCL,
            absl::StrCat("add nftables table inet ", name),
            [&](nlmsghdr* nlh) { nftnl_table_nlmsg_build_payload(nlh, table.get()); });
}

void DropTable(NftBatch& batch, const char* name) {
  const nft::TablePtr table = nft::NewTable(name);
  batch.Add(NFT_MSG_DELTABLE, kInet, 0, absl::StrCat("delete nftables table inet ", name),
            [&](nlmsghdr* nlh) { nftnl_table_nlmsg_build_payload(nlh, table.get()); });
}

void AddChain(NftBatch& batch, const char* table, const std::string& name, Hook hook) {
  const nft::ChainPtr chain = nft::NewChain(table, name);
  if (hook != Hook::kNone) {
    const bool route = hook == Hook::kOutputRoute;
    nftnl_chain_set_u32(chain.get(), NFTNL_CHAIN_HOOKNUM,
                        route ? NF_INET_LOCAL_OUT : NF_INET_PRE_ROUTING);
    nftnl_chain_set_s32(chain.get(), NFTNL_CHAIN_PRIO,
                        hook == Hook::kAfterQueue ? kLearnPriority : kHookPriority);
    nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_TYPE, route ? "route" : "filter");
    nftnl_chain_set_u32(chain.get(), NFTNL_CHAIN_POLICY, NF_ACCEPT);
  }
  batch.Add(NFT_MSG_NEWCHAIN, kInet, NLM_F_CREATE,
            absl::StrCat("add nftables chain inet ", table, " ", name),
            [&](nlmsghdr* nlh) { nftnl_chain_nlmsg_build_payload(nlh, chain.get()); });
}

void DropChain(NftBatch& batch, uint16_t family, const char* table, const std::string& name) {
  const nft::ChainPtr chain = nft::NewChain(table, name);
  batch.Add(NFT_MSG_DELCHAIN, family, 0, absl::StrCat("delete nftables chain ", table, " ", name),
            [&](nlmsghdr* nlh) { nftnl_chain_nlmsg_build_payload(nlh, chain.get()); });
}

// All rules of the chain, or the one with `handle`.
void DropRules(NftBatch& batch, uint16_t family, const char* table, const std::string& chain,
               std::optional<uint64_t> handle = std::nullopt) {
  const nft::RulePtr rule = nft::NewRule(table, chain);
  if (handle) nftnl_rule_set_u64(rule.get(), NFTNL_RULE_HANDLE, *handle);
  batch.Add(NFT_MSG_DELRULE, family, 0, absl::StrCat("empty nftables chain ", table, " ", chain),
            [&](nlmsghdr* nlh) { nftnl_rule_nlmsg_build_payload(nlh, rule.get()); });
}

absl::Status AddRules(NftBatch& batch, absl::Span<const Chain> chains, NftDialect dialect) {
  NftRuleWriter writer(batch, kTableName, dialect);
  for (const NamedSet& set : SetsOf(chains)) writer.AddSet(set);
  for (const Chain& chain : chains) {
    for (const Rule& rule : chain.rules) {
      const absl::Status status = writer.Add(chain.name, rule);
      if (absl::IsNotFound(status) && dialect.skip_missing_cgroups) continue;
      RETURN_IF_ERROR(status);
    }
  }
  return absl::OkStatus();
}

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

namespace {

// With `ct` the one feature alone.
absl::StatusOr<NftFeatures> Probe(NetlinkSocket& socket, bool ct) {
  const std::string name = absl::StrCat(kTableName, "-probe-", socket.port_id());
  const std::string owned = name + "-owned";
  NftBatch batch;
  AddTable(batch, name.c_str(), "", false);
  AddChain(batch, name.c_str(), "c", Hook::kNone);
  const Rule queue{{}, Queue{0, 0, false, false}, "probe", false};
  const Rule defrag{{}, EnableDefrag{}, "probe", false};
  NftDialect second{.native_queue = false, .tproxy_defrag = false};
  NftRuleWriter first_writer(batch, name, NftDialect()), second_writer(batch, name, second);
  const auto index_of = [&](NftRuleWriter& writer, const Rule& rule) -> absl::StatusOr<size_t> {
    RETURN_IF_ERROR(writer.Add("c", rule));
    return batch.size() - 1;
  };
  if (ct) {
    ASSIGN_OR_RETURN(const size_t rule, index_of(second_writer, defrag));
    DropTable(batch, (name + "-none").c_str());
    ASSIGN_OR_RETURN(const NftBatch::Errors errors, batch.Run(socket));
    return NftFeatures{.ct = errors[rule] == 0};
  }
  ASSIGN_OR_RETURN(const size_t native_queue, index_of(first_writer, queue));
  ASSIGN_OR_RETURN(const size_t xt_queue, index_of(second_writer, queue));
  ASSIGN_OR_RETURN(const size_t tproxy, index_of(first_writer, defrag));
  const Rule carried{{ForWildcard{}, ForTransparent{}}, Return{}, "probe", false};
  ASSIGN_OR_RETURN(const size_t socket_rule, index_of(first_writer, carried));
  AddTable(batch, owned.c_str(), "", true);
  const size_t owner = batch.size() - 1;
  // The one that makes it abort: there is no such table.
  DropTable(batch, (name + "-none").c_str());
  ASSIGN_OR_RETURN(const NftBatch::Errors errors, batch.Run(socket));
  if (errors[0] != 0) return ErrnoStatus(errors[0], "nftables: family inet");
  return NftFeatures{.native_queue = errors[native_queue] == 0,
                     .xt_queue = errors[xt_queue] == 0,
                     .tproxy = errors[tproxy] == 0,
                     .owner = errors[owner] == 0,
                     .socket = errors[socket_rule] == 0};
}

}  // namespace

// A rule with ct takes connection tracking's hooks, and with the transaction's end they go, at
// which the kernel drops what waits in any queue of the namespace. So it is tried only where it is
// needed: then our table, where there is one, has such a rule too, and the hooks stay.
absl::StatusOr<NftFeatures> ProbeNft(NetlinkSocket& socket) {
  ASSIGN_OR_RETURN(NftFeatures features, Probe(socket, /*ct=*/false));
  if (features.tproxy) return features;
  ASSIGN_OR_RETURN(const NftFeatures other, Probe(socket, /*ct=*/true));
  features.ct = other.ct;
  return features;
}

absl::StatusOr<std::optional<NftTable>> FindTable(NetlinkSocket& socket, uint16_t family,
                                                  const char* name) {
  alignas(nlmsghdr) char buffer[512];
  nlmsghdr* nlh = nftnl_nlmsg_build_hdr(buffer, NFT_MSG_GETTABLE, family, 0, 0);
  const nft::TablePtr wanted = nft::NewTable(name);
  nftnl_table_nlmsg_build_payload(nlh, wanted.get());
  std::optional<NftTable> found;
  const absl::Status status =
      socket.Transact(nlh, absl::StrCat("look for nftables table ", name),
                      [&](const nlmsghdr& answer) { found = nft::ReadTable(answer); });
  if (absl::IsNotFound(status)) return std::optional<NftTable>();
  if (!status.ok()) return nft::Privileged(status);
  return found;
}

absl::Status InstallTable(NetlinkSocket& socket, absl::Span<const Chain> chains,
                          const NftInstall& install) {
  NftBatch batch;
  if (install.replace) DropTable(batch, kTableName);
  AddTable(batch, kTableName, install.comment, install.owned);
  for (const Chain& chain : chains) AddChain(batch, kTableName, chain.name, chain.hook);
  RETURN_IF_ERROR(AddRules(batch, chains, install.dialect));
  return batch.Commit(socket);
}

absl::Status UpdateTable(NetlinkSocket& socket, absl::Span<const Chain> from,
                         absl::Span<const Chain> to, NftDialect dialect,
                         std::vector<std::string>& live) {
  NftBatch batch;
  std::vector<std::string> bases = live;
  for (const std::string& name : live) DropRules(batch, kInet, kTableName, name);
  for (const Chain& chain : from) {
    if (chain.hook == Hook::kNone && chain.name != kDefragChain) {
      DropRules(batch, kInet, kTableName, chain.name);
      DropChain(batch, kInet, kTableName, chain.name);
    }
  }
  std::vector<Chain> added;
  for (const Chain& chain : to) {
    if (chain.name == kDefragChain) continue;
    added.push_back(chain);
    if (Contains(bases, chain.name)) continue;
    AddChain(batch, kTableName, chain.name, chain.hook);
    if (chain.hook != Hook::kNone) bases.push_back(chain.name);
  }
  RETURN_IF_ERROR(AddRules(batch, added, dialect));
  RETURN_IF_ERROR(batch.Commit(socket));
  live = std::move(bases);
  return absl::OkStatus();
}

absl::Status DeleteTable(NetlinkSocket& socket) {
  NftBatch batch;
  DropTable(batch, kTableName);
  const absl::Status status = batch.Commit(socket);
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

namespace {

absl::Status DeleteIptablesChains(NetlinkSocket& socket, uint16_t family) {
  ASSIGN_OR_RETURN(const std::vector<std::string> chains, nft::ListOwnMangleChains(socket, family));
  if (chains.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<uint64_t> jumps, nft::ListJumpsToOwn(socket, family));
  NftBatch batch;
  for (const uint64_t handle : jumps) DropRules(batch, family, "mangle", "PREROUTING", handle);
  for (const std::string& chain : chains) DropRules(batch, family, "mangle", chain);
  for (const std::string& chain : chains) DropChain(batch, family, "mangle", chain);
  return batch.Commit(socket);
}

}  // namespace

absl::Status DeleteIptablesChains(NetlinkSocket& socket) {
  RETURN_IF_ERROR(DeleteIptablesChains(socket, NFPROTO_IPV4));
  return DeleteIptablesChains(socket, NFPROTO_IPV6);
}

}  // namespace utproxy
