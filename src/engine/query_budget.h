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
// of those a second; a UDP flow takes one datagram a second at most.
struct QueryRates {
  int64_t known = 5000;
  int64_t syn = 8000;
  int64_t young = 32000;
  int64_t segment = 8000;
  int64_t datagram = 10000;
  // At once, of each class that has any: some 10 ms of work, a part of what a queue holds.
  int64_t burst = 2048;
};

// How many packets one worker may still ask the kernel about. One thread.
class QueryBudget {
 public:
  explicit QueryBudget(const QueryRates& rates)
      : buckets_{Bucket(rates.known, rates.burst), Bucket(rates.syn, rates.burst),
                 Bucket(rates.young, rates.burst), Bucket(rates.segment, rates.burst),
                 Bucket(rates.datagram, rates.burst)} {}

  void Refill(int64_t now_ns) {
    for (TokenBucket& bucket : buckets_) bucket.Refill(now_ns);
  }
  bool Take(QueryClass query) { return buckets_[static_cast<int>(query)].Take(); }

 private:
  static TokenBucket Bucket(int64_t per_second, int64_t burst) {
    return {per_second, per_second == 0 ? 0 : burst};
  }

  TokenBucket buckets_[5];
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_QUERY_BUDGET_H_
