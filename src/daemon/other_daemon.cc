// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/other_daemon.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/status.h"
#include "queue/queue_stats.h"
#include "ruleset/ruleset.h"

namespace utproxy {

absl::Status NoOtherDaemonHasTheTable(absl::Span<const Target> own) {
  ASSIGN_OR_RETURN(const auto queues, QueuesOfUnboundRun());
  if (queues.empty()) return absl::OkStatus();
  const absl::StatusOr<std::vector<QueueStats>> bound = ReadQueueStats();
  if (absl::IsNotFound(bound.status())) return absl::OkStatus();  // none is
  RETURN_IF_ERROR(bound.status());
  for (const QueueStats& each : *bound) {
    const auto leads = [&](const std::pair<uint16_t, uint16_t>& range) {
      return range.first <= each.number && each.number <= range.second;
    };
    const auto is_own = [&](const Target& target) {
      return target.queue_first <= each.number && each.number <= target.queue_last;
    };
    if (std::none_of(queues.begin(), queues.end(), leads) ||
        std::any_of(own.begin(), own.end(), is_own)) {
      continue;
    }
    return WithRemedy(
        absl::AlreadyExistsError(absl::StrCat("nftables table inet utproxy: a running utproxy "
                                              "holds it (queue ",
                                              each.number, ", netlink port ", each.port_id, ")")),
        "stop that utproxy first; there is one ruleset in a network namespace");
  }
  return absl::OkStatus();
}

}  // namespace utproxy
