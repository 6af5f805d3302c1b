// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_NFT_RULE_H_
#define UTPROXY_RULESET_NFT_RULE_H_

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

#include <cstdint>
#include <string>

#include "ruleset/nft_batch.h"
#include "ruleset/plan.h"

namespace utproxy {

// How to say to this kernel what has two forms.
struct NftDialect {
  bool native_queue = true;   // nft's `queue`; else the xt target NFQUEUE through nft_compat
  bool tproxy_defrag = true;  // defragmentation by a `tproxy` expression; else by `ct state`
  // A rule that names a cgroup which is not there is left out, as no packet can be of it: for
  // callers that look again when it comes. Else it is an error.
  bool skip_missing_cgroups = false;
};

// Writes rules, and the anonymous sets they look into, as nf_tables messages.
class NftRuleWriter {
 public:
  // `batch` must outlive this.
  NftRuleWriter(NftBatch& batch, std::string table, NftDialect dialect)
      : batch_(batch), table_(std::move(table)), dialect_(dialect) {}

  // Makes the set, where it is not there yet. Before the rules that name it.
  void AddSet(NamedSet named);

  // Appends `rule` to the chain. NotFound where a cgroup does not exist.
  absl::Status Add(absl::string_view chain, const Rule& rule);

 private:
  NftBatch& batch_;
  std::string table_;
  NftDialect dialect_;
  uint32_t next_set_id_ = 1;
};

}  // namespace utproxy

#endif  // UTPROXY_RULESET_NFT_RULE_H_
