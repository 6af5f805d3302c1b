// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/trace_json.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>

#include <utility>

#include "daemon/explain_context.h"
#include "daemon/explainer.h"
#include "trace/record_lookup.h"

namespace utproxy {
namespace {

// The decision was made without the kernel's answer, so there is nothing to decide over again.
std::vector<ExplainStep> NoAnswer() {
  return {{.kind = StepKind::kEstablished,
           .result = "unknown",
           .why = "The kernel was asked about this packet and gave no answer, so nothing may be "
                  "concluded: it is dropped (exact_failed in 'utproxy stats').",
           .candidates = {}}};
}

ExplainStep Shed() {
  return {.kind = StepKind::kDelivery,
          .result = "failed",
          .why =
              "A flood fills the queue, and new connections are what is dropped then, so that "
              "those that stand are served (shed in 'utproxy stats').",
          .candidates = {}};
}

ExplainStep SteerFailed() {
  return {.kind = StepKind::kDelivery,
          .result = "failed",
          .why =
              "The flow entry that leads the packet to the listener could not be made to stand, "
              "so it is dropped (steer_failed in 'utproxy stats'; 'utproxy explain --live' "
              "tells why).",
          .candidates = {}};
}

}  // namespace

namespace {

// Which ports had a listener then, nobody knows any more.
void TellChoice(const SpreadSpec& spread, Explanation* explanation) {
  for (ExplainStep& step : explanation->steps) {
    if (step.kind != StepKind::kLaddr) continue;
    absl::StrAppend(&step.why, " The port was chosen among ", spread.ToString(), " by a hash of ",
                    spread.by == SpreadBy::kClient ? "the client's address." : "the flow.");
  }
}

}  // namespace

Json RawJson(const TraceRecord& record) {
  Json raw;
  raw["bytes"] = absl::BytesToHexString(
      {reinterpret_cast<const char*>(record.bytes), size_t{record.captured}});
  raw["length"] = record.true_length;
  raw["iif"] = record.packet.iif;
  return raw;
}

std::string TimeText(int64_t realtime_ns) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E9SZ", absl::FromUnixNanos(realtime_ns),
                          absl::UTCTimeZone());
}

RecordStory TellRecord(const TraceRecord& record, const Policy& rule, const SpreadSpec& spread,
                       PortLists* around) {
  if (record.trouble == Trouble::kExactFailed) return {.steps = NoAnswer(), .tproxy = std::nullopt};
  RecordLookup lookup(record, around);
  Policy policy = rule;
  if (spread.active() && record.looked_up) policy.on_port = record.lport;
  Explanation explanation = Explain(record.packet, policy, lookup);
  if (spread.active()) TellChoice(spread, &explanation);
  RecordStory story{.steps = std::move(explanation.steps),
                    .tproxy = std::move(explanation.decision)};
  if (record.trouble == Trouble::kSteerFailed) story.steps.push_back(SteerFailed());
  if (record.trouble == Trouble::kShed) story.steps.push_back(Shed());
  return story;
}

Json ToJson(const TraceRecord& record, const TraceContext& context, const TraceParts& parts,
            PortLists* around, const OwnersByInode& owners) {
  const int64_t decided_ns = record.decided_ns + context.realtime_offset_ns;
  Json json;
  json["time"] = TimeText(decided_ns);
  json["target"] = context.target;
  json["queue"] = context.queue;
  json["id"] = record.id;
  if (record.arrived_ns > 0 && record.arrived_ns <= decided_ns) {
    json["wait_ns"] = decided_ns - record.arrived_ns;
  }
  json["decide_ns"] = record.decide_ns;
  std::optional<SocketOwner> owner;
  if (record.has_socket) owner = OwnerOf(record.socket, owners);
  json.update(ToJson(record.decision(), record.packet, context.names, owner));
  if (parts.steps) {
    const RecordStory story = TellRecord(record, context.policy, context.spread, around);
    json["steps"] = StepsJson(story.steps, owners);
    if (story.tproxy)
      json["kernel"] = KernelWould(record.packet, *story.tproxy, context.spread.active());
  }
  json["source"] = OriginName(record.origin);
  if (parts.raw) json["raw"] = RawJson(record);
  return json;
}

}  // namespace utproxy
