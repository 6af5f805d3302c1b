// SPDX-License-Identifier: GPL-3.0-or-later
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <absl/strings/str_cat.h>
#include <linux/netfilter.h>

#include <algorithm>

#include "base/status.h"
#include "ruleset/nft_batch.h"
#include "ruleset/nft_objects.h"
#include "ruleset/ruleset.h"

// What an InstalledRuleset does about others that take parts of it away: network managers that
// remove policy rules they do not know, `nft flush ruleset`.
namespace utproxy {

absl::StatusOr<std::vector<std::string>> InstalledRuleset::RestoreDelivery(
    absl::Span<const RulesetSpec> specs) {
  ASSIGN_OR_RETURN(NetlinkSocket route, NetlinkSocket::Open(NETLINK_ROUTE));
  ASSIGN_OR_RETURN(const std::vector<DeliveryItem> restored,
                   utproxy::RestoreDelivery(route, WantedDelivery(specs)));
  std::vector<std::string> commands;
  for (const DeliveryItem& item : restored) commands.push_back(DeliveryCommand(item));
  return commands;
}

// Of what has just been made: what is counted later, others may have changed.
absl::Status InstalledRuleset::NoteRules() {
  if (owned_) return absl::OkStatus();
  ASSIGN_OR_RETURN(NetlinkSocket nft, OpenNftSocket());
  ASSIGN_OR_RETURN(rules_, nft::CountRules(nft));
  return absl::OkStatus();
}

absl::StatusOr<bool> InstalledRuleset::TableStands() {
  if (!nft_ || owned_) return true;
  ASSIGN_OR_RETURN(NetlinkSocket nft, OpenNftSocket());
  ASSIGN_OR_RETURN(const std::optional<NftTable> table, FindTable(nft, NFPROTO_INET, kTableName));
  if (!table) return false;
  ASSIGN_OR_RETURN(const std::vector<nft::FoundChain> there, nft::ListChains(nft));
  for (const std::string& base : live_bases_) {
    const auto is_it = [&](const nft::FoundChain& chain) { return chain.name == base; };
    if (std::none_of(there.begin(), there.end(), is_it)) return false;
  }
  ASSIGN_OR_RETURN(const size_t rules, nft::CountRules(nft));
  return rules == rules_;
}

absl::Status InstalledRuleset::RestoreTable() {
  ASSIGN_OR_RETURN(const std::optional<NftTable> table, FindTable(*nft_, NFPROTO_INET, kTableName));
  if (table && (table->owner != 0 || table->comment != kRunComment)) {
    return WithRemedy(absl::AlreadyExistsError(absl::StrCat("nftables table inet ", kTableName,
                                                            ": another has made one of its own")),
                      "take that away (nft delete table inet utproxy)");
  }
  const NftInstall install{kRunComment, owned_, table.has_value(), dialect_};
  RETURN_IF_ERROR(InstallTable(*nft_, chains_, install));
  live_bases_ = BaseChains();
  return NoteRules();
}

absl::StatusOr<std::vector<std::pair<uint16_t, uint16_t>>> QueuesOfUnboundRun() {
  ASSIGN_OR_RETURN(NetlinkSocket nft, OpenNftSocket());
  ASSIGN_OR_RETURN(const std::optional<NftTable> table, FindTable(nft, NFPROTO_INET, kTableName));
  if (!table || table->owner != 0 || table->comment != kRunComment) {
    return std::vector<std::pair<uint16_t, uint16_t>>();
  }
  return nft::ListQueues(nft);
}

}  // namespace utproxy
