// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ENGINE_DECIDER_H_
#define UTPROXY_ENGINE_DECIDER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/flow_cache.h"
#include "mirror/exact.h"
#include "mirror/mirror.h"
#include "queue/batch_decider.h"
#include "queue/counters.h"
#include "steer/steering.h"
#include "utproxy/policy.h"

namespace utproxy {

// How one worker's decisions came about. Written by the worker, read by any thread.
struct alignas(64) DeciderCounters {
  Counter by_mirror;        // packets decided by the mirror alone
  Counter by_cache;         // packets decided by the worker's UDP flow cache
  Counter by_exact;         // packets the kernel was asked about
  Counter exact_queries;    // queries that took
  Counter exact_failed;     // packets the kernel gave no answer about: dropped
  Counter time_wait_ended;  // TIME_WAIT sockets ended for a new connection
  Counter time_wait_end_failed;
  Counter steered;       // packets that a flow entry was put or kept for
  Counter steer_failed;  // hits dropped since their entry could not stand
};

// Whether routing by the mark alone would look for the socket elsewhere than the decision found it:
// a listener whose address or port is not the packet's own.
bool NeedsSteering(const Packet& packet, const Decision& decision);

// Decides the packets of one queue: Decide() over the mirror where that is sure to be what the
// kernel would say, else over exact queries.
//
// Sure is only: a segment other than a SYN that belongs to a transparent full socket or request
// socket in the mirror; a datagram of a transparent connected UDP socket; a datagram of a flow
// that an exact query decided within the last second, nothing having changed at its listener's
// port. Every SYN, every TIME_WAIT and everything that would be dropped is asked of the kernel.
//
// Even so a mirror can be late: nothing tells it that IP_TRANSPARENT was switched on or off. So the
// kernel is asked about sure packets too, up to kChecksPerSecond of them by each worker: below that
// rate every single decision is the kernel's own, above it the checks fall on any packet alike, and
// what they find is known from then on.
class Decider : public BatchDecider {
 public:
  static constexpr int64_t kChecksPerSecond = 5000;  // about 1 % of a core
  static constexpr int64_t kCheckBurst = 256;

  // `mirror` and `steering` must outlive this; `steering` null: deliver by mark alone.
  Decider(const Policy& policy, Mirror* mirror, ExactQuerier querier, Steering* steering);

  void DecideBatch(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions) override;

  const DeciderCounters& counters() const { return counters_; }

 private:
  enum class Source : uint8_t { kUnsure, kMirror, kCache };
  Source DecideByMirror(const Packet& packet, Decision* decision);
  void RefillChecks();
  bool TakeCheck(const Packet& packet);
  bool DecideByCache(const Packet& packet, Decision* decision);
  void DecideByExact(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions);
  void Learn(const ExactAnswer& answer);
  void EndTimeWaits(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions);
  void Steer(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions, bool last);
  uint64_t SteeredTo(const Packet& packet) const;
  void Release(const Packet& packet);
  void Remember(absl::Span<const Decision> decisions);
  void RefreshInterfaces();
  uint64_t Circumstances(const Packet& packet) const;

  const Policy policy_;
  Mirror* const mirror_;
  Steering* const steering_;
  ExactQuerier querier_;
  FlowCache cache_;
  std::shared_ptr<const InterfaceSnapshot> interfaces_;
  uint64_t interfaces_generation_ = 0;
  int64_t now_ns_ = 0;        // read once a batch
  int64_t checks_ = 0;        // how many may be made now
  int64_t checks_at_ns_ = 0;  // when that was so

  // Scratch of one batch, kept for its capacity.
  std::vector<size_t> unsure_;
  std::vector<size_t> gone_;
  std::vector<Packet> asked_;
  std::vector<ExactAnswer> answers_;
  std::vector<uint64_t> circumstances_;
  std::vector<Socket> learned_;
  std::vector<size_t> steer_at_;
  std::vector<SteerRequest> steer_requests_;
  std::vector<SteerResult> steer_results_;
  DeciderCounters counters_;
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_DECIDER_H_
