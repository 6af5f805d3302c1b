// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_QUEUE_COUNTERS_H_
#define UTPROXY_QUEUE_COUNTERS_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "utproxy/decision.h"

namespace utproxy {

// A count that one thread writes and any thread reads: without the locked instruction that several
// writers would need. Relaxed, so that counts read together need not be of one instant.
class Counter {
 public:
  void Add(uint64_t n) { value_.store(value() + n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// Counts by powers of two: bucket i holds values of bit width i, that is 2^(i-1) to 2^i - 1, bucket
// 0 holds zeroes and the last bucket all that is larger.
template <size_t kBuckets>
class Log2Histogram {
 public:
  void Add(uint64_t value, uint64_t n = 1) {
    buckets_[std::min<size_t>(static_cast<size_t>(std::bit_width(value)), kBuckets - 1)].Add(n);
  }
  uint64_t bucket(size_t i) const { return buckets_[i].value(); }
  static constexpr size_t size() { return kBuckets; }
  // The largest value of bucket i.
  static constexpr uint64_t Limit(size_t i) { return (uint64_t{1} << i) - 1; }

 private:
  std::array<Counter, kBuckets> buckets_;
};

// What a worker has done since it was made. Written by its thread only, read by any.
struct alignas(64) WorkerCounters {
  Counter packets;
  Counter bytes;     // of whole packets, from the IP header, whatever part was copied
  Counter accepted;  // by decision; whether the verdict came through is counted below
  Counter dropped;
  Counter marked;         // accepted with a mark other than the one they came with
  Counter marked_before;  // hits that came with the very mark, other than 0, that they were to get
  std::array<Counter, kReasonCount> reasons;

  Counter verdicts_gone;  // ENOENT: the kernel had dropped the packet (a hook was unregistered)
  Counter verdicts_gone_down;  // the same, and the interface that it came in by is down
  Counter verdict_errors;      // verdicts refused for another reason
  Counter
      verdicts_unsent;  // send failed for good: the packets stay queued until the queue is closed
  Counter damaged;      // messages cut short or malformed behind the id: decided as truncated
  Counter malformed;    // messages that could not be read at all
  Counter receive_errors;
  Counter overruns;  // ENOBUFS; what the kernel itself counts is in QueueStats::user_dropped

  Counter batches;
  Counter decide_ns;            // sum over batches
  Log2Histogram<8> batch_size;  // packets a batch, by batches; kBatch is in the last
  Log2Histogram<40>
      decide_ns_packets;  // nanoseconds of a packet's batch in DecideBatch, by packets
};

}  // namespace utproxy

#endif  // UTPROXY_QUEUE_COUNTERS_H_
