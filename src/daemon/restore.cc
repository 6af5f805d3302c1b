// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "base/clock.h"
#include "base/status.h"
#include "daemon/daemon.h"

namespace utproxy {
namespace {

// Another that takes them away again and again is told of no more often.
constexpr int64_t kToldEveryNs = 60 * kNsPerSec;

}  // namespace

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
  if (status.ok() && restored->empty()) return;
  ++restored_untold_;
  const int64_t now_ns = MonotonicNs();
  if (restored_told_ns_ != 0 && now_ns - restored_told_ns_ < kToldEveryNs) return;
  const std::string often = restored_untold_ > 1
                                ? absl::StrCat(", ", restored_untold_, " times since the last word")
                                : "";
  restored_told_ns_ = now_ns;
  restored_untold_ = 0;
  sentences->push_back(
      status.ok()
          ? absl::StrCat("somebody took away what --install had made, so packets went past the "
                         "proxy for up to a second; put back",
                         often, ": ", absl::StrJoin(*restored, "; "))
          : absl::StrCat("what --install made is gone and can't be put back", often, ": ",
                         status.message()));
}

}  // namespace utproxy
