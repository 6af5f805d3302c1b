// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_QUEUE_ACCEPT_ALL_H_
#define UTPROXY_QUEUE_ACCEPT_ALL_H_

#include <cstdint>

#include "queue/batch_decider.h"

namespace utproxy {

// Looks nothing up: what a queue does with the same system calls and no decision, the limit that
// benchmarks compare with. Accepts with the bits of `mark` flipped; drops what goes to
// `dropped_port` (host byte order; 0: nothing).
class AcceptAll : public BatchDecider {
 public:
  explicit AcceptAll(uint32_t mark, uint16_t dropped_port = 0)
      : mark_(mark), dropped_port_(dropped_port) {}

  void DecideBatch(absl::Span<const QueuedPacket> packets,
                   absl::Span<Decision> decisions) override {
    for (size_t i = 0; i < packets.size(); ++i) {
      const bool dropped = dropped_port_ != 0 && packets[i].packet.dport == dropped_port_;
      decisions[i].verdict = dropped ? Verdict::kDrop : Verdict::kAccept;
      decisions[i].reason = dropped ? Reason::kNoSocket : Reason::kListener;
      decisions[i].mark = packets[i].packet.mark ^ mark_;
    }
  }

 private:
  const uint32_t mark_;
  const uint16_t dropped_port_;
};

}  // namespace utproxy

#endif  // UTPROXY_QUEUE_ACCEPT_ALL_H_
