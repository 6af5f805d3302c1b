// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_NFT_OBJECTS_H_
#define UTPROXY_RULESET_NFT_OBJECTS_H_

#include <absl/status/statusor.h>
#include <libnftnl/chain.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <linux/netlink.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "netlink/socket.h"
#include "ruleset/nft_table.h"

// libnftnl's objects, owned, and what is read of the kernel's answers with them.
namespace utproxy::nft {

struct Free {
  void operator()(nftnl_table* table) const { nftnl_table_free(table); }
  void operator()(nftnl_chain* chain) const { nftnl_chain_free(chain); }
  void operator()(nftnl_rule* rule) const { nftnl_rule_free(rule); }
  void operator()(nftnl_set* set) const { nftnl_set_free(set); }
};
using TablePtr = std::unique_ptr<nftnl_table, Free>;
using ChainPtr = std::unique_ptr<nftnl_chain, Free>;
using RulePtr = std::unique_ptr<nftnl_rule, Free>;
using SetPtr = std::unique_ptr<nftnl_set, Free>;

// libnftnl's allocators fail only for want of memory, which ends the program as it does elsewhere.
template <typename T>
T* Allocated(T* object) {
  if (object == nullptr) std::abort();
  return object;
}

TablePtr NewTable(const char* name);
ChainPtr NewChain(const char* table, const std::string& name);
RulePtr NewRule(const char* table, const std::string& chain);

// The comments that `nft list` shows.
void SetComment(nftnl_table* table, const std::string& comment);
void SetComment(nftnl_rule* rule, const std::string& comment);

std::string ReadComment(const nftnl_rule* rule);  // empty where there is none

// For the lister, which else shows host-order keys reversed.
void SetKeyByteOrder(nftnl_set* set, bool host_order);

// A table message of the kernel; nullopt where it is none.
std::optional<NftTable> ReadTable(const nlmsghdr& nlh);

struct FoundChain {
  std::string name;
  bool base = false;  // at a hook
};

// Chains of table mangle that are ours by name, in the order of the kernel's list.
absl::StatusOr<std::vector<std::string>> ListOwnMangleChains(NetlinkSocket& socket,
                                                             uint16_t family);
// All chains of our table, in the order of the kernel's list, which is that of their making.
absl::StatusOr<std::vector<FoundChain>> ListChains(NetlinkSocket& socket);
// Of all chains of our table together.
absl::StatusOr<size_t> CountRules(NetlinkSocket& socket);
// Queues, the first and the last one of each rule of our table that leads to some.
absl::StatusOr<std::vector<std::pair<uint16_t, uint16_t>>> ListQueues(NetlinkSocket& socket);
// Handles of the rules of chain PREROUTING of table mangle that jump to kIptablesChain.
absl::StatusOr<std::vector<uint64_t>> ListJumpsToOwn(NetlinkSocket& socket, uint16_t family);

// Adds the remedy to a PermissionDenied.
absl::Status Privileged(absl::Status status);

}  // namespace utproxy::nft

#endif  // UTPROXY_RULESET_NFT_OBJECTS_H_
