// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/copy_explainer.h"

#include <absl/time/clock.h>

#include "base/clock.h"
#include "utproxy/parse.h"

namespace utproxy {
namespace {

constexpr int64_t kOwnersNs = 2 * kNsPerSec;  // how often /proc is walked at most
constexpr char kTarget[] = "default";

TraceRecord RecordOf(const NflogPacket& logged) {
  TraceRecord record;
  const uint32_t true_length = ClaimedLength(logged.payload);
  ParsePacket(logged.payload, true_length, &record.packet);
  record.packet.iif = logged.indev;
  record.packet.mark = logged.mark;
  KeepBytes(logged.payload, true_length, &record);
  return record;
}

}  // namespace

bool CopyExplainer::Passes(const TraceRecord& record) const {
  return filter_.Passes({.record = record, .target = kTarget, .queue = group_, .names = names_});
}

std::optional<Json> CopyExplainer::Explain(const NflogPacket& logged) {
  TraceRecord record = RecordOf(logged);
  Json json;
  json["time"] = TimeText(logged.arrived_ns != 0 ? logged.arrived_ns : absl::GetCurrentTimeNanos());
  json["target"] = kTarget;
  json["group"] = group_;
  absl::StatusOr<Explanation> explanation = ask_(record.packet);
  if (!explanation.ok()) return Failed(explanation.status(), &record, std::move(json));
  explanation->decision.origin = Origin::kExact;
  Describe(record.packet, explanation->decision, &record);
  if (!Passes(record)) return std::nullopt;
  json.update(
      ToJson(*explanation, record.packet, names_, OwnersFor(explanation->decision), "exact"));
  if (!parts_.steps) {
    json.erase("steps");
    json.erase("kernel");
  }
  if (parts_.raw) json["raw"] = RawJson(record);
  return json;
}

std::optional<Json> CopyExplainer::Failed(const absl::Status& status, TraceRecord* record,
                                          Json json) {
  ++failed_;
  record->mark = record->packet.mark;
  const bool passes_dropped = Passes(*record);
  record->verdict = Verdict::kAccept;
  record->reason = Reason::kListener;
  if (!passes_dropped && !Passes(*record)) return std::nullopt;
  json["error"] = std::string(status.message());
  json["failed_total"] = failed_;
  json["packet"] = ToJson(record->packet, names_);
  if (parts_.raw) json["raw"] = RawJson(*record);
  return json;
}

const OwnersByInode& CopyExplainer::OwnersFor(const Decision& decision) {
  const bool known =
      !decision.socket || decision.socket->inode == 0 || owners_.contains(decision.socket->inode);
  if (!known && (owners_ns_ == 0 || MonotonicNs() - owners_ns_ > kOwnersNs)) {
    owners_ = ReadSocketOwners();
    owners_ns_ = MonotonicNs();
  }
  return owners_;
}

}  // namespace utproxy
