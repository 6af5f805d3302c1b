// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/owner_filler.h"

#include "base/clock.h"

namespace utproxy {
namespace {

constexpr int64_t kWalkNs = 2 * kNsPerSec;

}  // namespace

void OwnerFiller::FillOne(Json* socket) {
  if (!socket->is_object() || socket->contains("pid")) return;
  const auto it = socket->find("inode");
  if (it == socket->end() || !it->is_number_unsigned()) return;
  const auto inode = it->get<uint32_t>();
  if (inode == 0) return;
  if (!owners_.contains(inode) && (walked_ns_ == 0 || MonotonicNs() - walked_ns_ > kWalkNs)) {
    owners_ = ReadSocketOwners();
    walked_ns_ = MonotonicNs();
  }
  const auto owner = owners_.find(inode);
  if (owner == owners_.end()) return;
  (*socket)["pid"] = owner->second.pid;
  (*socket)["comm"] = owner->second.comm;
  if (!owner->second.cgroup.empty()) (*socket)["cgroup"] = owner->second.cgroup;
}

void OwnerFiller::Fill(Json* json) {
  FillOne(json);
  if (const auto socket = json->find("socket"); socket != json->end()) FillOne(&*socket);
  const auto steps = json->find("steps");
  if (steps == json->end() || !steps->is_array()) return;
  for (Json& step : *steps) {
    if (!step.is_object()) continue;
    const auto candidates = step.find("candidates");
    if (candidates == step.end() || !candidates->is_array()) continue;
    for (Json& candidate : *candidates) FillOne(&candidate);
  }
}

}  // namespace utproxy
