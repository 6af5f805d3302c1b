// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_NFT_TABLE_H_
#define UTPROXY_RULESET_NFT_TABLE_H_

#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <optional>
#include <string>
#include <vector>

#include "netlink/socket.h"
#include "ruleset/nft_rule.h"
#include "ruleset/plan.h"

// The table `inet utproxy` in the kernel of the calling thread's network namespace. All functions
// take a NETLINK_NETFILTER socket of OpenNftSocket().
namespace utproxy {

// Table comments tell our tables from a user's of the same name.
inline constexpr char kRunComment[] = "utproxy run";
inline constexpr char kPersistentComment[] = "utproxy ruleset";

struct NftFeatures {
  bool native_queue = false;  // CONFIG_NFT_QUEUE
  bool xt_queue = false;      // CONFIG_NFT_COMPAT and CONFIG_NETFILTER_XT_TARGET_NFQUEUE
  bool tproxy = false;        // CONFIG_NFT_TPROXY
  bool ct = false;            // CONFIG_NFT_CT; only looked for without `tproxy`
  bool owner = false;         // NFT_TABLE_F_OWNER, since Linux 5.12
  bool socket = false;        // CONFIG_NFT_SOCKET, with `wildcard`
};

// Asks by a transaction that always aborts: nothing is ever there for a packet to meet, and
// nothing is left behind. Needs CAP_NET_ADMIN.
absl::StatusOr<NftFeatures> ProbeNft(NetlinkSocket& socket);

struct NftTable {
  std::string comment;
  uint32_t owner = 0;  // netlink port id of the owner's socket; 0: none
};
// nullopt where there is no such table.
absl::StatusOr<std::optional<NftTable>> FindTable(NetlinkSocket& socket, uint16_t family,
                                                  const char* name);

struct NftInstall {
  absl::string_view comment;
  bool owned = false;    // the table ends with `socket`
  bool replace = false;  // in place of the table that is there
  NftDialect dialect;
};
// Makes the table with `chains`, in one transaction.
absl::Status InstallTable(NetlinkSocket& socket, absl::Span<const Chain> chains,
                          const NftInstall& install);

// Makes our table hold `to` where it holds `from`, in one transaction in which no hook is
// unregistered (that would drop every packet waiting in any queue of the namespace,
// nf_unregister_net_hook): a base chain that `to` lacks stays, empty, as does the defrag chain.
// `live` lists the base chains there are, and is brought up to date.
absl::Status UpdateTable(NetlinkSocket& socket, absl::Span<const Chain> from,
                         absl::Span<const Chain> to, NftDialect dialect,
                         std::vector<std::string>& live);

// Deletes the table. Fine where it does not exist.
absl::Status DeleteTable(NetlinkSocket& socket);

// Deletes what pasted iptables-nft commands of ours made: the chains UTPROXY and UTPROXY-... of
// the mangle tables of both families, and the jump to them. Fine where there is nothing.
absl::Status DeleteIptablesChains(NetlinkSocket& socket);

}  // namespace utproxy

#endif  // UTPROXY_RULESET_NFT_TABLE_H_
