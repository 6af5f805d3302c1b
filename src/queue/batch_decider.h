// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_QUEUE_BATCH_DECIDER_H_
#define UTPROXY_QUEUE_BATCH_DECIDER_H_

#include <absl/types/span.h>

#include <cstddef>
#include <cstdint>

#include "utproxy/decision.h"
#include "utproxy/packet.h"

namespace utproxy {

// Packets that are received, decided and answered together, at most.
inline constexpr size_t kBatch = 64;

// One packet out of the queue.
struct QueuedPacket {
  uint32_t id = 0;  // the kernel's packet id, host byte order
  Packet packet;
  // The packet from its IP header, as much as was copied; valid until the worker receives again.
  absl::Span<const uint8_t> bytes;
  uint32_t true_length = 0;  // of the whole packet, in bytes
  int64_t arrived_ns = 0;    // when the kernel took it in; CLOCK_REALTIME, 0 where unknown
};

// Decides what a queue's worker has received. One instance a worker, called from its thread only.
class BatchDecider {
 public:
  virtual ~BatchDecider() = default;

  // Fills decisions[i] for packets[i]; both have the same size. No packet has a verdict yet, so
  // none of them may change what another one meets (see QueueWorker). When it returns, all that the
  // verdicts rely on (steering entries, ended TIME_WAIT sockets) is in place.
  virtual void DecideBatch(absl::Span<const QueuedPacket> packets,
                           absl::Span<Decision> decisions) = 0;

  // Called before a batch where it has changed: whether so many packets wait behind it that the
  // queue is about to lose some (see QueueWorker). At first it is not.
  virtual void SetCrowded(bool /*crowded*/) {}
};

}  // namespace utproxy

#endif  // UTPROXY_QUEUE_BATCH_DECIDER_H_
