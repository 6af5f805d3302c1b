// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ENGINE_QUERY_BUDGET_H_
#define UTPROXY_ENGINE_QUERY_BUDGET_H_

#include <cstdint>

#include "engine/token_bucket.h"

namespace utproxy {

// Why the kernel has to be asked about a packet. Each has tokens of its own, so that a flood of one
// sort leaves the others theirs.
enum class QueryClass : uint8_t {
  // A socket of the packet's own addresses and ports is in the mirror: a TIME_WAIT, a request
  // socket, one that is not known to be transparent. Random sources cannot aim at it.
  kKnown,
  kSyn,       // a SYN of no known socket
  kYoung,     // another segment, of no known socket, but of a flow whose SYN was seen a moment ago
  kSegment,   // any other segment of no known socket: a stray one
  kDatagram,  // a datagram of no known connected socket
};

// Packets a second about which one worker asks the kernel. A connection of 1 KB that is over before
// the mirror has learned of it takes one SYN and five segments, so these are enough for some 6,000
// of those a second; a UDP flow takes one datagram in ten seconds at most.
struct QueryRates {
  int64_t known = 5000;
  int64_t syn = 8000;
  int64_t young = 32000;
  int64_t segment = 8000;
  int64_t datagram = 5000;
  // At once, of each class that has any: some 10 ms of work, a part of what a queue holds. New UDP
  // flows come many at a time, and need not wait for an answer each.
  int64_t burst = 2048;
  int64_t datagram_burst = 512;
};

// How many packets one worker may still ask the kernel about. One thread.
//
// Where more than four times as many come as a class has tokens for, it is flooded: most of them go
// unasked anyway, so each question then takes eight tokens, until only half as many come as it has
// tokens for. Told by tenths of a second.
class QueryBudget {
 public:
  explicit QueryBudget(const QueryRates& rates)
      : classes_{Class(rates.known, rates.burst), Class(rates.syn, rates.burst),
                 Class(rates.young, rates.burst), Class(rates.segment, rates.burst),
                 Class(rates.datagram, rates.datagram_burst)} {}

  void Refill(int64_t now_ns) {
    for (Class& c : classes_) c.bucket.Refill(now_ns);
    if (now_ns - judged_at_ns_ < kJudgeNs) return;
    judged_at_ns_ = now_ns;
    flooded_ = false;
    for (Class& c : classes_) flooded_ |= c.Judge();
  }
  bool Take(QueryClass query) { return classes_[static_cast<int>(query)].Take(); }
  // Whether any class is.
  bool flooded() const { return flooded_; }
  // What a question costs while its class is flooded.
  static constexpr int64_t kFloodedCost = 8;
  // Where tokens are short, so many questions are saved up for one batch, and share its two
  // messages to the kernel, which cost more than what they ask.
  static constexpr int64_t kTogether = 32;

 private:
  static constexpr int64_t kJudgeNs = kNsPerSec / 10;

  struct Class {
    Class(int64_t per_second, int64_t burst)
        : bucket(per_second, per_second == 0 ? 0 : burst, kTogether) {}
    bool Take() {
      const bool given = bucket.Take(flooded ? kFloodedCost : 1);
      ++(given ? asked : unasked);
      return given;
    }
    bool Judge() {
      flooded = unasked > 3 * asked;
      asked = unasked = 0;
      return flooded;
    }

    TokenBucket bucket;
    int64_t asked = 0;
    int64_t unasked = 0;
    bool flooded = false;
  };

  Class classes_[5];
  int64_t judged_at_ns_ = 0;
  bool flooded_ = false;
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_QUERY_BUDGET_H_
