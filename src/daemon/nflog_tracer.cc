// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/nflog_tracer.h"

#include "base/status.h"

namespace utproxy {
namespace {

constexpr int kWaitMs = 1000;

}  // namespace

absl::StatusOr<std::unique_ptr<NflogTracer>> NflogTracer::Open(uint16_t group, const Policy& policy,
                                                               Filter filter,
                                                               const TraceParts& parts) {
  ASSIGN_OR_RETURN(auto explainer, Explainer::Open());
  ASSIGN_OR_RETURN(NflogSource source, NflogSource::Open(group));
  CopyExplainer copies([explainer = std::shared_ptr<Explainer>(std::move(explainer)),
                        policy](const Packet& packet) { return explainer->Exact(packet, policy); },
                       group, std::move(filter), parts, SystemInterfaceName);
  return std::unique_ptr<NflogTracer>(new NflogTracer(std::move(source), std::move(copies)));
}

absl::Status NflogTracer::Run(const std::function<bool(const Json&)>& take,
                              const std::function<void(uint64_t lost, uint64_t total)>& lost,
                              const std::function<void()>& pause) {
  uint64_t told = 0;
  bool wanted = true;
  while (wanted) {
    RETURN_IF_ERROR(source_.Receive(kWaitMs, [&](const NflogPacket& logged) {
      if (!wanted) return;
      if (const std::optional<Json> json = copies_.Explain(logged)) wanted = take(*json);
    }));
    if (source_.lost() != told) {
      lost(source_.lost() - told, source_.lost());
      told = source_.lost();
    }
    pause();
  }
  return absl::OkStatus();
}

}  // namespace utproxy
