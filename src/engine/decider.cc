// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine/decider.h"

#include <algorithm>

#include "base/clock.h"
#include "utproxy/decide.h"

namespace utproxy {
namespace {

constexpr size_t kCacheSlots = 1 << 15;
// How often the kernel is asked about a packet whose listener closes each time before its entry
// stands.
constexpr int kSteerAttempts = 16;

}  // namespace

bool NeedsSteering(const Packet& packet, const Decision& decision) {
  return decision.verdict == Verdict::kAccept && decision.by_listener() &&
         (decision.laddr != packet.dst || decision.lport != packet.dport);
}

Decider::Decider(const Policy& policy, Mirror* mirror, ExactQuerier querier, Steering* steering,
                 const QueryRates& rates, std::shared_ptr<const Spread> spread)
    : policy_(policy),
      spread_(std::move(spread)),
      mirror_(mirror),
      steering_(steering),
      querier_(std::move(querier)),
      cache_(kCacheSlots),
      budget_(rates) {
  querier_.set_steering([this](const Packet& packet) { return SteeredTo(packet); },
                        [this](const Packet& packet) { Release(packet); });
}

uint64_t Decider::SteeredTo(const Packet& packet) const {
  if (steering_ == nullptr) return 0;
  return steering_->ListenerOf(packet.key(), interfaces_->DeliveryIndex(packet.iif));
}

void Decider::Release(const Packet& packet) {
  steering_->Release(packet.key(), interfaces_->DeliveryIndex(packet.iif));
}

void Decider::DecideBatch(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions) {
  mirror_->NoteUse();
  RefreshInterfaces();
  Prefetch(packets);
  now_ns_ = MonotonicCoarseNs();
  checks_.Refill(now_ns_);
  budget_.Refill(now_ns_);
  const int64_t check_cost = CheckCost(packets.size());
  unsure_.clear();
  beyond_budget_.clear();
  following_.clear();
  seen_.resize(packets.size());
  for (size_t i = 0; i < packets.size(); ++i) {
    const Packet& packet = packets[i].packet;
    if (!packet.is_tcp()) seen_[i] = Circumstances(packet);
    QueryClass query;
    const Source source = DecideByMirror(packet, seen_[i], &decisions[i], &query);
    if (source == Source::kUnsure) {
      (budget_.Take(query) ? unsure_ : beyond_budget_).push_back(i);
    } else if (source == Source::kGuess) {
      budget_.Take(query) ? unsure_.push_back(i) : counters_.over_budget.Add(1);
    } else if (packet.outcome == ParseOutcome::kOk && checks_.Take(check_cost)) {
      unsure_.push_back(i);
    } else if (source == Source::kSyn || source == Source::kUnsettled) {
      following_.push_back(i);
    } else {
      (source == Source::kCache ? counters_.by_cache : counters_.by_mirror).Add(1);
    }
  }
  DecideBeyondBudget(packets, decisions);
  SettleKnown(packets, decisions);
  counters_.by_exact.Add(unsure_.size());
  for (int attempt = 1; !unsure_.empty(); ++attempt) {
    DecideByExact(packets, decisions);
    EndTimeWaits(packets, decisions);
    gone_.clear();
    Steer(unsure_, packets, decisions,
          attempt < kSteerAttempts ? SteerFor::kAnswers : SteerFor::kLastAnswers);
    Remember(decisions);
    unsure_.swap(gone_);
  }
  if (spread_ != nullptr) CountPorts(decisions);
}

int64_t Decider::CheckCost(size_t batch) const {
  if (budget_.flooded()) return QueryBudget::kFloodedCost;
  return batch == kBatch ? kBackloggedCheckCost : 1;
}

// Where there are many, the misses of what is read first for each overlap.
void Decider::Prefetch(absl::Span<const QueuedPacket> packets) {
  if (packets.size() < 2) return;
  keys_.clear();
  for (const QueuedPacket& queued : packets) {
    if (queued.packet.outcome != ParseOutcome::kOk) continue;
    keys_.push_back(queued.packet.key());
    if (!queued.packet.is_tcp()) cache_.Prefetch(keys_.back());
  }
  mirror_->table().Prefetch(keys_);
}

// The listener's entries stand mostly. Where it has closed, there may be a connection even so.
void Decider::SettleKnown(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions) {
  gone_.clear();
  Steer(following_, packets, decisions, SteerFor::kAnswers);
  auto gone = gone_.begin();
  for (const size_t i : following_) {
    if (gone != gone_.end() && *gone == i) {
      ++gone;
      continue;
    }
    const bool cached = decisions[i].origin == Origin::kCache;
    (cached ? counters_.by_cache : counters_.by_mirror).Add(1);
    if (!cached || decisions[i].verdict != Verdict::kAccept) continue;
    cache_.Settle(packets[i].packet.key(), packets[i].packet.iif, now_ns_);
  }
  unsure_.insert(unsure_.end(), gone_.begin(), gone_.end());
}

QueryClass Decider::ClassOf(const Packet& packet, const Decision& decision, bool known) {
  if (packet.is_pure_syn() && decision.verdict == Verdict::kAccept) {
    young_.Note(packet.key(), now_ns_);
  }
  if (known) return QueryClass::kKnown;
  if (!packet.is_tcp()) return QueryClass::kDatagram;
  if (packet.is_pure_syn()) return QueryClass::kSyn;
  return young_.Has(packet.key()) ? QueryClass::kYoung : QueryClass::kSegment;
}

// The mirror's decisions stand.
void Decider::DecideBeyondBudget(absl::Span<const QueuedPacket> packets,
                                 absl::Span<Decision> decisions) {
  if (beyond_budget_.empty()) return;
  counters_.over_budget.Add(beyond_budget_.size());
  beyond_steered_.clear();
  for (const size_t i : beyond_budget_) {
    decisions[i].origin = Origin::kOverBudget;
    decisions[i].kill_time_wait = false;
    const Packet& packet = packets[i].packet;
    if (crowded_ && budget_.flooded() && IsToBeShed(packet, decisions[i])) {
      counters_.shed.Add(1);
      decisions[i].verdict = Verdict::kDrop;
      decisions[i].trouble = Trouble::kShed;
      decisions[i].mark = packet.mark;
      continue;
    }
    if (NeedsSteering(packet, decisions[i]) && !LeadsThereByItself(packet, decisions[i])) {
      beyond_steered_.push_back(i);
    }
  }
  Steer(beyond_steered_, packets, decisions, SteerFor::kBeyondBudget);
  RememberGuesses(packets, decisions);
}

// Saves the flow's next datagrams the way to the same guess.
void Decider::RememberGuesses(absl::Span<const QueuedPacket> packets,
                              absl::Span<const Decision> decisions) {
  for (const size_t i : beyond_budget_) {
    const Packet& packet = packets[i].packet;
    const bool hit = decisions[i].verdict == Verdict::kAccept && decisions[i].by_listener();
    if (!hit || packet.is_tcp()) continue;
    cache_.Store(packet.key(), packet.iif, seen_[i], now_ns_, decisions[i]);
  }
}

// A handshake that has begun is not cut off.
bool Decider::IsToBeShed(const Packet& packet, const Decision& decision) const {
  return packet.is_tcp() && decision.verdict == Verdict::kAccept && decision.by_listener() &&
         (packet.is_pure_syn() || !young_.Has(packet.key()));
}

// Whether, by the mirror, the packet's own address and port lead to the wildcard listener chosen:
// nothing is bound to the address itself. An entry costs more than all the rest.
bool Decider::LeadsThereByItself(const Packet& packet, const Decision& decision) const {
  if (decision.lport != packet.dport || !decision.socket->local.IsUnspecified()) return false;
  if (SteeredTo(packet) != 0) return false;  // that entry, maybe an earlier listener's, comes first
  TableLookup lookup(mirror_->table(), *interfaces_);
  const std::optional<Socket> found = packet.is_tcp()
                                          ? lookup.TcpListener(packet, packet.dst, packet.dport)
                                          : lookup.Udp(packet, packet.dst, packet.dport);
  return found && found->cookie == decision.socket->cookie;
}

void Decider::RefreshInterfaces() {
  const uint64_t generation = mirror_->interfaces().generation();
  if (generation == interfaces_generation_) return;
  interfaces_ = mirror_->interfaces().Get();
  interfaces_generation_ = generation;
}

// Where that is unsure, `*decision` is the likeliest, and `*query` is set.
Decider::Source Decider::DecideByMirror(const Packet& packet, uint64_t circumstances,
                                        Decision* decision, QueryClass* query) {
  TableLookup lookup(mirror_->table(), *interfaces_, spread_.get());
  const bool datagram = packet.outcome == ParseOutcome::kOk && !packet.is_tcp();
  const bool connected = datagram && lookup.UdpConnected(packet);
  if (datagram && !connected) {
    *query = QueryClass::kDatagram;
    const Source known = DecideByCache(packet, circumstances, decision);
    if (known != Source::kUnsure) return known;
  }
  *decision = Decide(packet, policy_, lookup);
  if (packet.outcome != ParseOutcome::kOk) return Source::kMirror;  // nothing was looked up
  const bool sure = !packet.is_pure_syn() && decision->reason == Reason::kEstablished &&
                    lookup.certain() && decision->socket->transparent_known() &&
                    !decision->socket->request();
  if (sure) return Source::kMirror;
  if (FollowsItsSyn(packet, *decision, lookup)) return Source::kSyn;
  *query = ClassOf(packet, *decision, datagram ? connected : lookup.found_own());
  return Source::kUnsure;
}

// A segment of no known socket, where the kernel has just named for its SYN the listener that the
// mirror now finds. Whether a connection has come of that, which then is transparent like its
// listener, or none, in which case the segment is the listener's: it is a hit either way.
bool Decider::FollowsItsSyn(const Packet& packet, const Decision& decision,
                            const TableLookup& lookup) const {
  return packet.is_tcp() && !packet.is_pure_syn() && !lookup.found_own() &&
         decision.verdict == Verdict::kAccept && decision.by_listener() &&
         young_.ListenerOf(packet.key(), now_ns_) == decision.socket->cookie;
}

// All that a cached decision rests on besides the flow: sockets at the listener's port, the
// interfaces' addresses.
uint64_t Decider::Circumstances(const Packet& packet) const {
  if (spread_ != nullptr) {  // at any of them, as it may be another's turn then
    uint32_t sum = 0;
    for (size_t i = 0; i < spread_->size(); ++i) sum += mirror_->udp_epochs().Get(spread_->port(i));
    return interfaces_generation_ << 32 | sum;
  }
  const uint16_t lport = policy_.on_port != 0 ? policy_.on_port : packet.dport;
  return interfaces_generation_ << 32 | mirror_->udp_epochs().Get(lport);
}

Decider::Source Decider::DecideByCache(const Packet& packet, uint64_t circumstances,
                                       Decision* decision) {
  const FlowCache::Known known = cache_.Find(packet.key(), packet.iif, circumstances, now_ns_);
  if (known.decision == nullptr) return Source::kUnsure;
  *decision = *known.decision;
  decision->mark = policy_.Remark(packet.mark);
  decision->origin = known.guessed ? Origin::kOverBudget : Origin::kCache;
  if (known.guessed) return Source::kGuess;
  return known.settled ? Source::kCache : Source::kUnsettled;
}

void Decider::DecideByExact(absl::Span<const QueuedPacket> packets,
                            absl::Span<Decision> decisions) {
  asked_.clear();
  ports_.clear();
  circumstances_.clear();
  learned_.clear();
  for (const size_t i : unsure_) {
    asked_.push_back(packets[i].packet);
    // Read before the kernel is asked: a change in between then makes the answer stale, not new.
    circumstances_.push_back(Circumstances(packets[i].packet));
    if (spread_ != nullptr) ports_.push_back(PortToAsk(packets[i].packet, decisions[i]));
  }
  answers_.resize(asked_.size());
  const uint64_t queries = querier_.queries();
  querier_.Ask(asked_, policy_, *interfaces_, absl::MakeSpan(answers_), ports_);
  for (size_t i = 0; i < asked_.size(); ++i) {
    Decision& decision = decisions[unsure_[i]];
    if (!answers_[i].complete) {
      counters_.exact_failed.Add(1);
      decision = Decision{
          .origin = Origin::kExact, .trouble = Trouble::kExactFailed, .mark = asked_[i].mark};
      continue;
    }
    ExactLookup lookup(answers_[i], *interfaces_);
    decision = Decide(asked_[i], policy_, lookup);
    decision.origin = Origin::kExact;
    Learn(answers_[i]);
  }
  if (spread_ != nullptr) AskOtherPorts(packets, decisions);
  counters_.exact_queries.Add(querier_.queries() - queries);
  mirror_->feed().Push(learned_);
}

// A packet for whose connection the mirror had no need of a listener may need one by the kernel.
uint16_t Decider::PortToAsk(const Packet& packet, const Decision& decision) const {
  if (decision.listener_looked_up) return decision.lport;
  TableLookup lookup(mirror_->table(), *interfaces_, spread_.get());
  LaddrSource source;
  return lookup.SpreadPort(packet, ListenerAddress(packet, policy_, lookup, &source));
}

// Of the target's ports that have not been asked about the one whose turn it is: one that has a
// listener by the mirror, else any.
std::optional<size_t> Decider::NextPort(const Packet& packet,
                                        const std::bitset<Spread::kMaxPorts>& tried) const {
  TableLookup lookup(mirror_->table(), *interfaces_);
  LaddrSource source;
  const Address laddr = ListenerAddress(packet, policy_, lookup, &source);
  const auto takes = [&](size_t i) {
    return !tried[i] && lookup.StateAt(packet, laddr, spread_->port(i)) == PortState::kTakes;
  };
  if (const auto next = spread_->Choose(packet, takes)) return next;
  return spread_->Choose(packet, [&](size_t i) { return !tried[i]; });
}

// For packets of unsure_ that the kernel knows no listener for at the port whose turn it was.
void Decider::AskOtherPorts(absl::Span<const QueuedPacket> packets,
                            absl::Span<Decision> decisions) {
  other_.tried.assign(unsure_.size(), {});
  for (size_t round = 1; round < spread_->size(); ++round) {
    other_.at.clear();
    other_.asked.clear();
    other_.ports.clear();
    for (size_t k = 0; k < unsure_.size(); ++k) {
      const Decision& decision = decisions[unsure_[k]];
      const Packet& packet = packets[unsure_[k]].packet;
      if (!decision.listener_looked_up || decision.by_listener()) continue;
      if (round == 1) other_.tried[k].set(*spread_->IndexOf(decision.lport));
      const QueryClass query = !packet.is_tcp()       ? QueryClass::kDatagram
                               : packet.is_pure_syn() ? QueryClass::kSyn
                                                      : QueryClass::kSegment;
      const std::optional<size_t> next = NextPort(packet, other_.tried[k]);
      if (!next || !budget_.Take(query)) continue;
      other_.tried[k].set(*next);
      other_.at.push_back(k);
      other_.asked.push_back(packet);
      other_.ports.push_back(spread_->port(*next));
    }
    if (other_.at.empty()) return;
    other_.answers.resize(other_.at.size());
    querier_.Ask(other_.asked, policy_, *interfaces_, absl::MakeSpan(other_.answers), other_.ports);
    for (size_t n = 0; n < other_.at.size(); ++n) {
      if (!other_.answers[n].complete) continue;
      ExactLookup lookup(other_.answers[n], *interfaces_);
      Decision decision = Decide(other_.asked[n], policy_, lookup);
      // A miss stays one at the port whose turn it was; a connection may have come meanwhile.
      if (decision.listener_looked_up && !decision.by_listener()) continue;
      decision.origin = Origin::kExact;
      decisions[unsure_[other_.at[n]]] = std::move(decision);
    }
  }
}

void Decider::CountPorts(absl::Span<const Decision> decisions) {
  for (const Decision& decision : decisions) {
    if (decision.verdict != Verdict::kAccept || !decision.by_listener()) continue;
    if (const auto i = spread_->IndexOf(decision.lport)) counters_.to_port[*i].Add(1);
  }
}

void Decider::Learn(const ExactAnswer& answer) {
  if (!answer.own || !answer.own->connected()) return;
  if (mirror_->table().FindOne(answer.own->key()) == answer.own) return;
  learned_.push_back(*answer.own);
}

// After Steer(), so that nothing is remembered as a hit whose entry could not stand.
void Decider::Remember(absl::Span<const Decision> decisions) {
  for (size_t i = 0; i < asked_.size(); ++i) {
    const Decision& decision = decisions[unsure_[i]];
    const bool hit = decision.verdict == Verdict::kAccept && decision.by_listener();
    if (!hit) continue;
    if (asked_[i].is_tcp()) {
      if (!asked_[i].is_pure_syn()) continue;
      young_.NoteListener(asked_[i].key(), decision.socket->cookie, now_ns_);
      continue;
    }
    cache_.Store(asked_[i].key(), asked_[i].iif, circumstances_[i], now_ns_, decision);
  }
}

void Decider::EndTimeWaits(absl::Span<const QueuedPacket> packets, absl::Span<Decision> decisions) {
  for (const size_t i : unsure_) {
    if (!decisions[i].kill_time_wait) continue;
    const absl::Status ended =
        querier_.EndTimeWait(packets[i].packet, decisions[i].time_wait_cookie);
    // Gone by itself meanwhile is as good.
    const bool gone = ended.ok() || absl::IsNotFound(ended);
    (gone ? counters_.time_wait_ended : counters_.time_wait_end_failed).Add(1);
  }
}

// Leaves in gone_ the packets whose listener has closed since the kernel named it: another one may
// be there by now, or have been all the time behind it, so the kernel is asked again.
void Decider::Steer(const std::vector<size_t>& which, absl::Span<const QueuedPacket> packets,
                    absl::Span<Decision> decisions, SteerFor what) {
  if (steering_ == nullptr) return;
  steer_at_.clear();
  steer_requests_.clear();
  for (const size_t i : which) {
    const Packet& packet = packets[i].packet;
    if (!NeedsSteering(packet, decisions[i])) {
      // What an earlier packet of the flow has left would lead this one past the kernel's lookup.
      if (decisions[i].listener_looked_up && SteeredTo(packet) != 0) Release(packet);
      continue;
    }
    steer_at_.push_back(i);
    const uint32_t iif = interfaces_->DeliveryIndex(packet.iif);
    // With several ports, one destination has flows of each.
    const bool whole = what == SteerFor::kBeyondBudget && spread_ == nullptr && iif == packet.iif &&
                       !interfaces_->IsLocal(packet.dst) && destinations_.Has(packet, now_ns_);
    steer_requests_.push_back({.flow = packet.key(),
                               .listener_cookie = decisions[i].socket->cookie,
                               .listener_inode = decisions[i].socket->inode,
                               .iif = iif,
                               .whole_destination = whole});
  }
  if (steer_at_.empty()) return;
  steer_results_.assign(steer_at_.size(), SteerResult::kFailed);
  steering_->Steer(steer_requests_, absl::MakeSpan(steer_results_));
  for (size_t i = 0; i < steer_at_.size(); ++i) {
    if (steer_results_[i] == SteerResult::kSteered) {
      counters_.steered.Add(1);
      continue;
    }
    if (steer_results_[i] == SteerResult::kListenerGone && what == SteerFor::kAnswers) {
      gone_.push_back(steer_at_[i]);
    } else {
      counters_.steer_failed.Add(1);
    }
    // Marked without its entry, the packet could reach a socket of the router's own.
    Decision& decision = decisions[steer_at_[i]];
    decision.verdict = Verdict::kDrop;
    decision.trouble = Trouble::kSteerFailed;
    decision.mark = packets[steer_at_[i]].packet.mark;
  }
}

}  // namespace utproxy
