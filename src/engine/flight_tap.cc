// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/flight_tap.h"

namespace utproxy {

void FlightTap::Decided(const DecidedBatch& batch) {
  const uint64_t share_ns = batch.packets.empty() ? 0 : batch.took_ns / batch.packets.size();
  for (size_t i = 0; i < batch.packets.size(); ++i) {
    const QueuedPacket& queued = batch.packets[i];
    record_.decided_ns = batch.decided_ns;
    record_.arrived_ns = queued.arrived_ns;
    record_.decide_ns = share_ns;
    record_.id = queued.id;
    Describe(queued.packet, batch.decisions[i], &record_);
    KeepBytes(queued.bytes, queued.true_length, &record_);
    recorder_.Append(record_);
  }
}

}  // namespace utproxy
