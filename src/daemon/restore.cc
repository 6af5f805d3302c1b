// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "base/clock.h"
#include "base/status.h"
#include "daemon/daemon.h"

namespace utproxy {

// Without them packets go their own way, past the proxy, and nothing else would tell: of the
// namespace's rules, those of policy and the routes anybody can take away, and so the table, where
// it is to outlive the daemon.
void Daemon::RestoreRules(std::vector<std::string>* sentences) {
  if (!ruleset_ || leaves_) return;
  absl::StatusOr<std::vector<std::string>> restored = ruleset_->RestoreDelivery(installed_);
  absl::Status status = restored.status();
  const absl::StatusOr<bool> stands = ruleset_->TableStands();
  status.Update(stands.status());
  if (stands.ok() && !*stands) {
    StopFastPath();
    const absl::Status made = ruleset_->RestoreTable();
    status.Update(made);
    if (made.ok() && restored.ok()) restored->push_back("nftables table inet utproxy");
    status.Update(StartFastPath());
  }
  if (!status.ok()) {
    if (const auto often = unrestored_.Due(MonotonicNs())) {
      sentences->push_back(absl::StrCat("what --install made is gone in part and can't be put back",
                                        *often, ": ", status.message()));
    }
    return;
  }
  if (restored->empty()) return;
  if (const auto often = restored_.Due(MonotonicNs())) {
    sentences->push_back(absl::StrCat(
        "what --install had made was gone in part, so packets went past the proxy for up to a "
        "second; put back",
        *often, ": ", absl::StrJoin(*restored, "; ")));
  }
}

}  // namespace utproxy
