// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ENGINE_DECIDER_H_
#define UTPROXY_ENGINE_DECIDER_H_

#include <array>
#include <bitset>
#include <cstdint>
#include <memory>
#include <vector>

#include "decide/spread.h"
#include "engine/flow_cache.h"
#include "engine/marked_destinations.h"
#include "engine/query_budget.h"
#include "engine/token_bucket.h"
#include "engine/young_flows.h"
#include "mirror/exact.h"
#include "mirror/mirror.h"
#include "mirror/table_lookup.h"
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
  Counter over_budget;      // packets it should have been asked about, decided by the mirror
  Counter exact_queries;    // queries that took
  Counter exact_failed;     // packets the kernel gave no answer about: dropped
  Counter time_wait_ended;  // TIME_WAIT sockets ended for a new connection
  Counter time_wait_end_failed;
  Counter steered;       // packets that a flow entry was put or kept for
  Counter shed;          // hits beyond the budget, dropped as the queue was crowded
  Counter steer_failed;  // hits dropped since their entry could not stand
  // Where the target has several ports: packets led to the listener at each, in their order.
  std::array<Counter, Spread::kMaxPorts> to_port;
};

// Whether routing by the mark alone would look for the socket elsewhere than the decision found it:
// a listener whose address or port is not the packet's own.
bool NeedsSteering(const Packet& packet, const Decision& decision);

// Decides the packets of one queue: Decide() over the mirror where that is sure to be what the
// kernel would say, else over exact queries.
//
// Sure is only: a segment other than a SYN that belongs to a transparent full socket in the mirror;
// a datagram of a transparent connected UDP socket; a datagram of a flow that an exact query
// decided within the last ten seconds, nothing having changed at its listener's port; a segment of
// no known socket for whose SYN the kernel named, within the last 0.2 s, the listener that the
// mirror finds: it is a hit, whether a connection has come of that SYN or not. Every SYN, every
// TIME_WAIT, every request socket (nobody tells that one has ended) and everything that would be
// dropped is asked of the kernel, as far as the budget below goes.
//
// Even so a mirror can be late: nothing tells it that IP_TRANSPARENT was switched on or off. So the
// kernel is asked about sure packets too, up to kChecksPerSecond of them by each worker, a quarter
// of that while packets wait for it: below that rate every single decision is the kernel's own,
// above it the checks fall on any packet alike, and what they find is known from then on.
//
// Questions cost some microseconds each, and a flood must not buy one a packet. Each worker asks
// about as many packets a second as its QueryRates say, and about an eighth of that, the checks of
// sure packets included, while it is flooded (see QueryBudget). A packet beyond them, counted as
// over_budget, is decided as Decide() finds it over the mirror. A hit gets its mark; a miss is
// dropped (or passed, with --on-miss accept). Where by the mirror a hit's own address and port do
// not lead to the listener, one entry leads all flows there that come in by this interface to this
// destination and have none of their own: where routing without a mark does not call the address
// local, and neither another target's policy nor another program steers here (else each takes an
// entry). Nothing but a mark then makes the host take in packets to it, the policy is the same for
// all of them, and the entry goes five seconds after its last use. What can be wrong then:
//
// - A listener that is younger than the mirror's last dump (10 ms; UDP sockets 50 ms; later where
//   they are many): a miss. A client's SYN comes again after a second. One that has closed is known
//   within milliseconds; till then its packets are marked, and lead to nobody, or, where they need
//   a flow entry, are dropped as steer_failed.
// - A connection that the mirror does not know, being young. It is the mirror's from its first
//   packet on that the kernel was asked about, and from the next dump at the latest (5 s; later
//   where a dump costs more than 100 ms). Until then its segments are decided like stray ones. With
//   a listener at laddr:lport that makes no difference: they are hits, and the kernel's own lookup
//   comes upon the connection before any listener or flow entry. Where the listener has closed
//   meanwhile they are dropped, and sent again by their sender. The segments that follow a SYN have
//   tokens of their own, so only who floods with whole handshakes, or with more than 60,000 SYNs a
//   second and queue, so that theirs are forgotten, and with stray segments too, leads to this.
// - A TIME_WAIT that the mirror does not know: a SYN is accepted, but the TIME_WAIT stays, as with
//   all of them before Linux 6.0. Those it knows are asked about from the tokens of known sockets;
//   beyond even those none is ended, since only the kernel's answer says that it is still there.
// - A connection of the router's own that is not transparent, and that the mirror does not know:
//   its segments are hits where there is a listener, and reach it. TPROXY would drop them.
// - A socket bound to the packet's own address and port that is younger than the mirror's last
//   dump: where the rule names no other port it gets what the listener should have.
// - Several sockets that could be the listener: the first one's IP_TRANSPARENT decides for all.
//   Which of them has the packet is left to the kernel, as ever.
//
// Where the queue of a flooded worker is crowded as well (see QueueWorker), TCP hits beyond the
// budget are dropped, and counted as `shed`: taking them in costs the kernel several times what
// dropping them does, and a queue that runs full drops packets of the connections, too, whereas a
// client sends its SYN again. Datagrams, which nobody may send again, are not shed.
//
// Where the target has several ports, the mirror says which of them have a listener for a packet,
// and the kernel is asked about the one whose turn it is (decide/spread.h). Where it knows of none
// there, the others are asked about as far as the budget goes, so that a packet is dropped for want
// of a listener at all of them, and none is lost to a listener that has just gone. Only a listener
// that has just come is passed over, until the mirror knows of it.
//
// So a flood takes exactness where sockets have just changed, and for as long as it lasts. A
// connection that the mirror knows has its segments decided as ever. What the flow cache knows of a
// UDP flow, a flood of datagrams may push out: the flow is then one of those beyond the budget.
class Decider : public BatchDecider {
 public:
  static constexpr int64_t kChecksPerSecond = 5000;  // about 1 % of a core
  static constexpr int64_t kCheckBurst = 256;
  // In tokens, in a batch that is full: more packets wait already, and at such a rate the checks
  // are few among them either way.
  static constexpr int64_t kBackloggedCheckCost = 4;

  // `mirror` and `steering` must outlive this; `steering` null: deliver by mark alone. `spread`:
  // the ports in the place of the policy's one, or null.
  Decider(const Policy& policy, Mirror* mirror, ExactQuerier querier, Steering* steering,
          const QueryRates& rates = {}, std::shared_ptr<const Spread> spread = nullptr);

  void DecideBatch(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions) override;
  void SetCrowded(bool crowded) override { crowded_ = crowded; }

  const DeciderCounters& counters() const { return counters_; }
  const std::shared_ptr<const Spread>& spread() const { return spread_; }

 private:
  int64_t CheckCost(size_t batch) const;
  void Prefetch(absl::Span<const QueuedPacket> packets);
  // kGuess: unsure, and decided without the kernel a moment ago. kUnsettled: by the cache, but its
  // flow entry may have gone.
  enum class Source : uint8_t { kUnsure, kGuess, kMirror, kCache, kUnsettled, kSyn };
  Source DecideByMirror(const Packet& packet, uint64_t circumstances, Decision* decision,
                        QueryClass* query);
  Source DecideByCache(const Packet& packet, uint64_t circumstances, Decision* decision);
  // kAnswers: where a listener has closed since, the kernel can be asked again.
  enum class SteerFor : uint8_t { kAnswers, kLastAnswers, kBeyondBudget };
  bool FollowsItsSyn(const Packet& packet, const Decision& decision,
                     const TableLookup& lookup) const;
  QueryClass ClassOf(const Packet& packet, const Decision& decision, bool known);
  void DecideBeyondBudget(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions);
  bool IsToBeShed(const Packet& packet, const Decision& decision) const;
  bool LeadsThereByItself(const Packet& packet, const Decision& decision) const;
  void SettleKnown(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions);
  void RememberGuesses(absl::Span<const QueuedPacket> packets,
                       absl::Span<const Decision> decisions);
  void DecideByExact(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions);
  uint16_t PortToAsk(const Packet& packet, const Decision& decision) const;
  void AskOtherPorts(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions);
  std::optional<size_t> NextPort(const Packet& packet,
                                 const std::bitset<Spread::kMaxPorts>& tried) const;
  void CountPorts(absl::Span<const Decision> decisions);
  void Learn(const ExactAnswer& answer);
  void EndTimeWaits(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions);
  void Steer(const std::vector<size_t>& which, absl::Span<const QueuedPacket> packets,
             absl::Span<Decision> decisions, SteerFor what);
  uint64_t SteeredTo(const Packet& packet) const;
  void Release(const Packet& packet);
  void Remember(absl::Span<const Decision> decisions);
  void RefreshInterfaces();
  uint64_t Circumstances(const Packet& packet) const;

  const Policy policy_;
  const std::shared_ptr<const Spread> spread_;
  Mirror* const mirror_;
  Steering* const steering_;
  ExactQuerier querier_;
  FlowCache cache_;
  std::shared_ptr<const InterfaceSnapshot> interfaces_;
  uint64_t interfaces_generation_ = 0;
  int64_t now_ns_ = 0;  // read once a batch
  bool crowded_ = false;
  TokenBucket checks_{kChecksPerSecond, kCheckBurst, QueryBudget::kTogether};
  QueryBudget budget_;
  YoungFlows young_;
  MarkedDestinations destinations_;

  // Scratch of one batch, kept for its capacity.
  std::vector<FlowKey> keys_;
  std::vector<size_t> unsure_;
  std::vector<size_t> beyond_budget_;
  std::vector<size_t> following_;
  std::vector<size_t> beyond_steered_;
  std::vector<size_t> gone_;
  std::vector<Packet> asked_;
  std::vector<ExactAnswer> answers_;
  std::vector<uint16_t> ports_;  // to ask about, where there are several
  struct OtherPorts {
    std::vector<std::bitset<Spread::kMaxPorts>> tried;  // of unsure_
    std::vector<size_t> at;                             // in unsure_
    std::vector<Packet> asked;
    std::vector<uint16_t> ports;
    std::vector<ExactAnswer> answers;
  };
  OtherPorts other_;
  std::vector<uint64_t> seen_;  // each packet's circumstances, before anything was looked up
  std::vector<uint64_t> circumstances_;
  std::vector<Socket> learned_;
  std::vector<size_t> steer_at_;
  std::vector<SteerRequest> steer_requests_;
  std::vector<SteerResult> steer_results_;
  DeciderCounters counters_;
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_DECIDER_H_
