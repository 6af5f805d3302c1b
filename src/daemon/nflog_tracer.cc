// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/nflog_tracer.h"

#include <absl/time/clock.h>

#include "base/clock.h"
#include "base/status.h"
#include "utproxy/parse.h"

namespace utproxy {
namespace {

constexpr int kWaitMs = 1000;
constexpr int64_t kOwnersNs = 2 * kNsPerSec;  // how often /proc is walked at most
constexpr char kTarget[] = "default";

}  // namespace

absl::StatusOr<std::unique_ptr<NflogTracer>> NflogTracer::Open(uint16_t group, const Policy& policy,
                                                               Filter filter,
                                                               const TraceParts& parts) {
  ASSIGN_OR_RETURN(auto explainer, Explainer::Open());
  ASSIGN_OR_RETURN(NflogSource source, NflogSource::Open(group));
  return std::unique_ptr<NflogTracer>(new NflogTracer(std::move(source), std::move(explainer),
                                                      group, policy, std::move(filter), parts));
}

absl::Status NflogTracer::Run(const std::function<bool(const Json&)>& take,
                              const std::function<void(uint64_t lost, uint64_t total)>& lost,
                              const std::function<void()>& pause) {
  uint64_t told = 0;
  bool wanted = true;
  absl::Status status;
  while (wanted && status.ok()) {
    const absl::Status received = source_.Receive(kWaitMs, [&](const NflogPacket& logged) {
      if (!wanted || !status.ok()) return;
      bool passes = false;
      const absl::StatusOr<Json> json = Explain(logged, &passes);
      status = json.status();
      if (json.ok() && passes) wanted = take(*json);
    });
    status.Update(received);
    if (source_.lost() != told) {
      lost(source_.lost() - told, source_.lost());
      told = source_.lost();
    }
    pause();
  }
  return status;
}

absl::StatusOr<Json> NflogTracer::Explain(const NflogPacket& logged, bool* passes) {
  Packet packet;
  const uint32_t true_length = ClaimedLength(logged.payload);
  ParsePacket(logged.payload, true_length, &packet);
  packet.iif = logged.indev;
  packet.mark = logged.mark;
  ASSIGN_OR_RETURN(Explanation explanation, explainer_->Exact(packet, policy_));
  explanation.decision.origin = Origin::kExact;
  TraceRecord record;
  Describe(packet, explanation.decision, &record);
  KeepBytes(logged.payload, true_length, &record);
  const std::function<std::string(uint32_t)> names = SystemInterfaceName;
  *passes = filter_.Passes({.record = record, .target = kTarget, .queue = group_, .names = names});
  if (!*passes) return Json();
  const int64_t time_ns = logged.arrived_ns != 0 ? logged.arrived_ns : absl::GetCurrentTimeNanos();
  Json json;
  json["time"] = TimeText(time_ns);
  json["target"] = kTarget;
  json["group"] = group_;
  json.update(ToJson(explanation, packet, names, OwnersFor(explanation.decision), "exact"));
  if (!parts_.steps) {
    json.erase("steps");
    json.erase("kernel");
  }
  if (parts_.raw) json["raw"] = RawJson(record);
  return json;
}

const OwnersByInode& NflogTracer::OwnersFor(const Decision& decision) {
  const bool known =
      !decision.socket || decision.socket->inode == 0 || owners_.contains(decision.socket->inode);
  if (!known && (owners_ns_ == 0 || MonotonicNs() - owners_ns_ > kOwnersNs)) {
    owners_ = ReadSocketOwners();
    owners_ns_ = MonotonicNs();
  }
  return owners_;
}

}  // namespace utproxy
