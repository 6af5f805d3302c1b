// SPDX-License-Identifier: GPL-3.0-or-later
#include "churn/judge.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstdio>

namespace utproxy::churn {
namespace {

constexpr int kMostPrinted = 20;
constexpr uint32_t kBogusMark = 0xfffffff0;

std::string Describe(const Probe& probe) {
  const char* kind = probe.proto == Proto::kUdp ? "datagram" : probe.syn ? "SYN" : "segment";
  return absl::StrCat(FamilyName(probe.family), " ", kind, " from port ", probe.sport);
}

std::string Describe(const Outcomes& outcomes) {
  std::string text;
  for (const Outcome outcome : outcomes) {
    absl::StrAppend(&text, text.empty() ? "" : " or ", churn::Describe(outcome));
  }
  return text;
}

}  // namespace

uint32_t Judge::Sending(const Probe& probe, Timeline* timeline, int64_t now_ns) {
  packets_.push_back({.probe = probe, .timeline = timeline, .sent_ns = now_ns});
  return first_id_ + static_cast<uint32_t>(packets_.size()) - 1;
}

Judge::Sent* Judge::Find(uint32_t id) {
  const uint32_t position = id - first_id_;
  return position < packets_.size() ? &packets_[position] : nullptr;
}

void Judge::Arrived(uint32_t id) {
  if (Sent* packet = Find(id)) packet->arrived = true;
}

void Judge::Delivered(uint32_t id, uint32_t mark, int64_t now_ns) {
  Sent* packet = Find(id);
  if (packet == nullptr || packet->seen_ns != 0) return;
  packet->outcome = mark;
  packet->seen_ns = now_ns;
  if (packet->timeline == nullptr) SettleBefore(id, now_ns);
}

// All of the marker's family that was sent before the marker has its verdict, and since one queue
// takes both families, of the other one too.
void Judge::SettleBefore(uint32_t marker, int64_t now_ns) {
  while (first_id_ != marker + 1) {
    Sent packet = packets_.front();
    packets_.pop_front();
    ++first_id_;
    if (packet.timeline == nullptr) continue;
    ++report_.sent;
    if (!packet.arrived) {
      ++report_.not_arrived;
      continue;
    }
    if (packet.seen_ns == 0) packet.seen_ns = now_ns;
    JudgeOne(first_id_ - 1, &packet);
  }
}

void Judge::Falsify(Outcome* outcome) {
  falsified_ = self_test_ > 0 && std::uniform_real_distribution<>()(random_) < self_test_;
  if (!falsified_) return;
  ++report_.falsified;
  *outcome = *outcome == kMiss || random_() % 2 == 0 ? kBogusMark : kMiss;
}

void Judge::JudgeOne(uint32_t id, Sent* packet) {
  Falsify(&packet->outcome);
  ++report_.judged;
  report_.missed += packet->outcome == kMiss;
  report_.window_ns += static_cast<uint64_t>(packet->seen_ns - packet->sent_ns);
  const Timeline::Allowed allowed =
      packet->timeline->Within(packet->probe, packet->sent_ns - late_ns_, packet->seen_ns);
  report_.ambiguous += allowed.at_once.size() > 1;
  Count(id, *packet, allowed);
}

// Whether the delivery found another socket than the decision could have found, and the sockets
// changed in between so that it had to.
bool Judge::IsRace(const Sent& packet, const Timeline::Allowed& allowed) const {
  const Timeline& timeline = *packet.timeline;
  const Probe& probe = packet.probe;
  const int64_t from_ns = packet.sent_ns - late_ns_, to_ns = packet.seen_ns;
  if (packet.outcome == kHit && timeline.MayTurnTimeWait(probe, from_ns, to_ns)) return true;
  if (timeline.Came(packet.outcome, probe, from_ns, to_ns)) return true;
  return std::any_of(allowed.at_once.begin(), allowed.at_once.end(),
                     [&](Outcome mark) { return timeline.Left(mark, probe, from_ns, to_ns); });
}

void Judge::Count(uint32_t id, const Sent& packet, const Timeline::Allowed& allowed) {
  if (Contains(allowed.at_once, packet.outcome)) return;
  if (Contains(allowed.apart, packet.outcome)) {
    ++report_.apart;
    return;
  }
  const bool may_hit = std::any_of(allowed.at_once.begin(), allowed.at_once.end(),
                                   [](Outcome outcome) { return outcome != kMiss; });
  if (may_hit && packet.outcome != kMiss && !falsified_ && IsRace(packet, allowed)) {
    ++report_.raced;
    return;
  }
  if (packet.outcome == kMiss && !falsified_ && packet.probe.proto == Proto::kTcp &&
      packet.timeline->ListenerClosed(packet.sent_ns - late_ns_, packet.seen_ns)) {
    ++report_.freed;
    return;
  }
  report_.found += falsified_;
  if (packet.outcome == kMiss) {
    ++report_.wrong_drop;
    Print(id, packet, allowed, "wrong drop");
  } else if (may_hit) {
    ++report_.wrong_socket;
    Print(id, packet, allowed, "wrong socket");
  } else {
    ++report_.wrong_hit;
    Print(id, packet, allowed, "wrong hit");
  }
}

void Judge::Print(uint32_t id, const Sent& packet, const Timeline::Allowed& allowed,
                  const char* what) {
  if (printed_++ >= kMostPrinted) return;
  std::fprintf(stderr, "%s%s: packet %u, %s: %s, allowed: %s\n    sent +0, seen %+lld µs\n%s", what,
               falsified_ ? " (falsified)" : "", id, Describe(packet.probe).c_str(),
               churn::Describe(packet.outcome).c_str(), Describe(allowed.at_once).c_str(),
               static_cast<long long>((packet.seen_ns - packet.sent_ns) / 1000),
               packet.timeline->Describe(packet.sent_ns, packet.seen_ns).c_str());
}

}  // namespace utproxy::churn
