// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_CHURN_JUDGE_H_
#define UTPROXY_TESTS_CHURN_JUDGE_H_

#include <cstdint>
#include <deque>
#include <random>
#include <string>

#include "churn/model.h"
#include "churn/timeline.h"

namespace utproxy::churn {

// Compares what became of each packet with what the kernel could have made of it between its being
// sent and its verdict. One thread. Times are CLOCK_MONOTONIC, in ns.
//
// A packet's verdict is known to be given once it is seen at the INPUT hook. Of one that is not
// seen there it is known once a marker, a packet that always hits, is seen that reached the router
// after it: the queue keeps the order.
class Judge {
 public:
  struct Report {
    uint64_t sent = 0;         // without markers
    uint64_t judged = 0;       //
    uint64_t not_arrived = 0;  // lost before the router's rules
    uint64_t missed = 0;       // of those judged: dropped, as allowed or not
    uint64_t ambiguous = 0;    // more than one outcome was allowed
    uint64_t apart = 0;        // allowed only if the two lookups found different states
    uint64_t raced = 0;        // decided rightly, and the sockets changed before the delivery
    uint64_t freed = 0;        // TCP, dropped as a listener was freed while it was looked up
    uint64_t wrong_drop = 0;
    uint64_t wrong_hit = 0;     // a drop alone was allowed
    uint64_t wrong_socket = 0;  // a hit was allowed, on another socket
    uint64_t falsified = 0;     // outcomes changed by the self-test
    uint64_t found = 0;         // of these, found to be wrong
    uint64_t window_ns = 0;     // sum over judged packets, from sending to seeing
    uint64_t wrong() const { return wrong_drop + wrong_hit + wrong_socket; }
  };

  // `late_ns`: what was right so long before the packet was sent is right too. `self_test`: the
  // share of outcomes that are changed before they are judged, 0 to 1.
  Judge(int64_t late_ns, double self_test) : late_ns_(late_ns), self_test_(self_test) {}

  // Notes a packet before it is sent, and returns its number. `timeline` null: a marker.
  uint32_t Sending(const Probe& probe, Timeline* timeline, int64_t now_ns);
  // The packet just noted was not sent.
  void NotSent() { packets_.pop_back(); }
  void Arrived(uint32_t id);
  void Delivered(uint32_t id, uint32_t mark, int64_t now_ns);

  // Packets that are not judged yet.
  size_t outstanding() const { return packets_.size(); }
  // When the oldest of them was sent; `otherwise` where there is none.
  int64_t OldestNs(int64_t otherwise) const {
    return packets_.empty() ? otherwise : packets_.front().sent_ns;
  }
  const Report& report() const { return report_; }

 private:
  struct Sent {
    Probe probe;
    Timeline* timeline = nullptr;
    int64_t sent_ns = 0;
    int64_t seen_ns = 0;  // 0: not yet
    bool arrived = false;
    Outcome outcome = kMiss;
  };
  Sent* Find(uint32_t id);
  void SettleBefore(uint32_t marker, int64_t now_ns);
  void JudgeOne(uint32_t id, Sent* packet);
  void Falsify(Outcome* outcome);
  bool IsRace(const Sent& packet, const Timeline::Allowed& allowed) const;
  void Count(uint32_t id, const Sent& packet, const Timeline::Allowed& allowed);
  void Print(uint32_t id, const Sent& packet, const Timeline::Allowed& allowed, const char* what);

  const int64_t late_ns_;
  const double self_test_;
  std::mt19937_64 random_{1};
  std::deque<Sent> packets_;  // in the order of sending
  uint32_t first_id_ = 1;     // of packets_.front()
  bool falsified_ = false;    // the packet being judged
  int printed_ = 0;
  Report report_;
};

}  // namespace utproxy::churn

#endif  // UTPROXY_TESTS_CHURN_JUDGE_H_
