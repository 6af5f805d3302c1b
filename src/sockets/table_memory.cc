// SPDX-License-Identifier: GPL-3.0-or-later
#include "sockets/table_memory.h"

#include "base/status.h"

namespace utproxy {
namespace {

using table_internal::Array;
using table_internal::Bucket;
using table_internal::Entry;
using table_internal::kSlots;

constexpr size_t kFirstCount = 16;
constexpr size_t kBucketEntries = kSlots * sizeof(Entry);

size_t OffsetIn(const Reservation& reservation, const void* place) {
  return static_cast<size_t>(static_cast<const std::byte*>(place) - reservation.data());
}

}  // namespace

absl::StatusOr<std::unique_ptr<TableMemory>> TableMemory::Create(size_t max_sockets) {
  auto memory = std::make_unique<TableMemory>();
  RETURN_IF_ERROR(memory->Reserve(max_sockets));
  return memory;
}

absl::Status TableMemory::Reserve(size_t max_sockets) {
  struct Offsets {
    size_t count, heads, entries;
  };
  std::vector<Offsets> places;
  size_t heads_end = 0, entries_end = 0;
  for (size_t count = kFirstCount;; count += count / 4) {
    const size_t heads = Reservation::NextOffset(heads_end, count * sizeof(Bucket));
    const size_t entries = Reservation::NextOffset(entries_end, count * kBucketEntries);
    places.push_back({count, heads, entries});
    heads_end = heads + count * sizeof(Bucket);
    entries_end = entries + count * kBucketEntries;
    if (!TooFull(max_sockets, count)) break;
  }
  // A chain of k sockets has at most k / kSlots followers, of which a replacement needs one more.
  const size_t followers = 2 * (max_sockets / kSlots) + 2;
  ASSIGN_OR_RETURN(heads_, Reservation::Create(heads_end, "the socket table's buckets"));
  ASSIGN_OR_RETURN(entries_, Reservation::Create(entries_end, "the socket table's entries"));
  ASSIGN_OR_RETURN(followers_,
                   Reservation::Create(followers * sizeof(Bucket), "the socket table's overflow"));
  ASSIGN_OR_RETURN(follower_entries_,
                   Reservation::Create(followers * kBucketEntries, "the socket table's overflow"));
  for (const Offsets& p : places) {
    arrays_.push_back({.heads = reinterpret_cast<Bucket*>(heads_.data() + p.heads),
                       .entries = reinterpret_cast<Entry*>(entries_.data() + p.entries),
                       .count = p.count});
  }
  RETURN_IF_ERROR(followers_.Open(0, followers * sizeof(Bucket), Reservation::Pages::kSmall));
  RETURN_IF_ERROR(
      follower_entries_.Open(0, followers * kBucketEntries, Reservation::Pages::kSmall));
  return Open(0);
}

size_t TableMemory::FittingArray(size_t sockets) const {
  size_t i = 0;
  while (i + 1 < arrays_.size() && sockets * 5 > arrays_[i].count * 48) ++i;
  return i;
}

absl::Status TableMemory::Open(size_t array) const {
  const Array& a = arrays_[array];
  constexpr auto kPages = Reservation::Pages::kHuge;
  RETURN_IF_ERROR(heads_.Open(OffsetIn(heads_, a.heads), a.count * sizeof(Bucket), kPages));
  return entries_.Open(OffsetIn(entries_, a.entries), a.count * kBucketEntries, kPages);
}

void TableMemory::GiveBack(size_t array, size_t first, size_t last) const {
  const Array& a = arrays_[array];
  heads_.GiveBack(OffsetIn(heads_, a.heads + first), (last - first) * sizeof(Bucket));
  entries_.GiveBack(OffsetIn(entries_, a.entries + first * kSlots),
                    (last - first) * kBucketEntries);
}

void TableMemory::GiveBackFollowers(size_t first, size_t last) const {
  followers_.GiveBack(first * sizeof(Bucket), (last - first) * sizeof(Bucket));
  follower_entries_.GiveBack(first * kBucketEntries, (last - first) * kBucketEntries);
}

Bucket* TableMemory::followers() const { return reinterpret_cast<Bucket*>(followers_.data()); }
Entry* TableMemory::follower_entries() const {
  return reinterpret_cast<Entry*>(follower_entries_.data());
}

}  // namespace utproxy
