// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_QUEUE_BATCH_OBSERVER_H_
#define UTPROXY_QUEUE_BATCH_OBSERVER_H_

#include <absl/types/span.h>

#include <cstdint>

#include "queue/batch_decider.h"

namespace utproxy {

// One batch whose verdicts have been sent.
struct DecidedBatch {
  absl::Span<const QueuedPacket> packets;
  absl::Span<const Decision> decisions;  // of the same size
  int64_t decided_ns = 0;                // when the decision was there; CLOCK_MONOTONIC
  uint64_t took_ns = 0;                  // for the decision of the whole batch
};

// Is told of what a queue's worker has decided. One instance a worker, called from its thread
// only; what it is given is valid during the call. The next packets wait for it.
class BatchObserver {
 public:
  virtual ~BatchObserver() = default;
  virtual void Decided(const DecidedBatch& batch) = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_QUEUE_BATCH_OBSERVER_H_
