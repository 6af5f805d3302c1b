// SPDX-License-Identifier: GPL-3.0-or-later
//
// Ordering. A record is torn where a reader takes some words of it and the writer others of the
// next lap. The stamp tells, without a fence, which thread sanitizer could not follow:
//
// (A) The writer stores the odd stamp, then each word with release. So who reads a word of lap
//     n+1 with acquire also sees lap n+1's odd stamp, or a later one, from then on.
// (B) The reader loads the stamp, then each word, all with acquire: the second load of the stamp
//     cannot move before them, and by (A) differs where any word was of another lap.
// (C) The even stamp is stored with release: who sees it sees every word of its lap, or later ones,
//     which (B) finds out.
// (D) `end_` is stored with release behind the stamp, so a number below it is there or overwritten.
//
// On x86 all of these are plain moves.
#include "trace/flight_recorder.h"

#include <bit>

namespace utproxy {

FlightRecorder::FlightRecorder(size_t capacity)
    : mask_(std::bit_ceil(capacity < 2 ? size_t{2} : capacity) - 1),
      // Zero bytes are what a constructed Slot is.
      slots_(mask_ + 1, "the flight recorder") {}

void FlightRecorder::Append(const TraceRecord& record) {
  const uint64_t number = next_++;
  Slot& slot = slots_[number & mask_];
  slot.stamp.store(2 * number + 1, std::memory_order_relaxed);  // ordered by (A)
  const auto* bytes = reinterpret_cast<const char*>(&record);
  const size_t words = kHeadWords + (size_t{record.captured} + 7) / 8;
  for (size_t i = 0; i < words; ++i) {
    uint64_t word;
    std::memcpy(&word, bytes + 8 * i, 8);
    slot.words[i].store(word, std::memory_order_release);  // (A)
  }
  slot.stamp.store(2 * number + 2, std::memory_order_release);  // (C)
  end_.store(number + 1, std::memory_order_release);            // (D)
}

FlightRecorder::Result FlightRecorder::Read(uint64_t number, TraceRecord* out) const {
  if (number >= end()) return Result::kNotYet;
  const Slot& slot = slots_[number & mask_];
  const uint64_t there = 2 * number + 2;
  if (slot.stamp.load(std::memory_order_acquire) != there) return Result::kOverwritten;
  std::array<uint64_t, kWords> words;
  for (size_t i = 0; i < kWords; ++i) words[i] = slot.words[i].load(std::memory_order_acquire);
  if (slot.stamp.load(std::memory_order_relaxed) != there) return Result::kOverwritten;  // (B)
  std::memcpy(static_cast<void*>(out), words.data(), sizeof *out);
  return Result::kRead;
}

}  // namespace utproxy
