// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TRACE_FLIGHT_RECORDER_H_
#define UTPROXY_TRACE_FLIGHT_RECORDER_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/huge_array.h"
#include "trace/record.h"

namespace utproxy {

// The last decisions of one worker: a ring of fixed size that is always written and never waited
// for. One thread calls Append, any number of others Read and end; nobody holds up anybody.
//
// Records are numbered from 0 in the order of Append. Whoever falls more than capacity() behind
// finds records overwritten, and knows how many from their numbers: read plus overwritten is
// always all.
class FlightRecorder {
 public:
  // `capacity`, in records, is rounded up to a power of two. Memory that has not been written yet
  // is not in use.
  explicit FlightRecorder(size_t capacity = kDefaultCapacity);
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  // The writer's. No allocation, no lock, no system call.
  void Append(const TraceRecord& record);

  enum class Result : uint8_t { kRead, kOverwritten, kNotYet };
  // Copies record `number`. Only with kRead does `*out` hold anything of meaning.
  Result Read(uint64_t number, TraceRecord* out) const;

  // The number that the next record will have.
  uint64_t end() const { return end_.load(std::memory_order_acquire); }
  // The oldest number that may still be there.
  uint64_t begin() const {
    const uint64_t e = end();
    return e > capacity() ? e - capacity() : 0;
  }
  size_t capacity() const { return mask_ + 1; }

  // 80 ms of 100,000 packets a second in 2.5 MiB.
  static constexpr size_t kDefaultCapacity = 8192;

 private:
  static constexpr size_t kWords = sizeof(TraceRecord) / 8;
  static constexpr size_t kHeadWords = offsetof(TraceRecord, bytes) / 8;
  static_assert(sizeof(TraceRecord) % 8 == 0 && offsetof(TraceRecord, bytes) % 8 == 0);

  // stamp: 0 never written; 2n + 1 while record n is being written; 2n + 2 once it is there.
  struct Slot {
    std::atomic<uint64_t> stamp{0};
    std::array<std::atomic<uint64_t>, kWords> words{};
  };
  static_assert(std::atomic<uint64_t>::is_always_lock_free);
  static_assert(sizeof(Slot) == 320, "whole cache lines");

  const size_t mask_;
  HugeArray<Slot> slots_;
  uint64_t next_ = 0;  // the writer's copy of end_
  alignas(64) std::atomic<uint64_t> end_{0};
};

}  // namespace utproxy

#endif  // UTPROXY_TRACE_FLIGHT_RECORDER_H_
