// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_STEER_FLOW_ENTRIES_H_
#define UTPROXY_STEER_FLOW_ENTRIES_H_

#include <absl/hash/hash.h>
#include <absl/strings/string_view.h>

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>

#include "base/huge_array.h"
#include "utproxy/flow.h"

namespace utproxy {

// The entries of a FlowIndex: a fixed number of places and a hash table to find them by flow, in
// memory of their own. Not malloc's: whoever decides a flow's first packet makes its entry, another
// thread ends it minutes later, and in between entries would stand in the holes of other things,
// in the arena of each thread that ever made one. So this takes as much as the most entries at a
// time did.
//
// The table's buckets come in shards; Find, Insert and Erase of one shard, and the entries and
// lists in it, are for one thread at a time, which the caller sees to. Take and GiveBack are for
// any.
class FlowEntries {
 public:
  using Ref = uint32_t;  // of a place
  static constexpr Ref kNone = 0;
  static constexpr size_t kShards = 64;

  struct Entry {
    FlowKey flow;
    size_t hash = 0;
    uint64_t cookie = 0;  // as it stands in the map; meaningless before the first write
    int64_t last_used_ns = 0;
    Ref previous = kNone, next = kNone;  // in its list
    Ref chained = kNone;                 // the next one in its bucket, or of those that are free
    bool stands = false;
    bool busy = false;
  };

  // In an order. An entry is in one list at the most.
  class List {
   public:
    bool empty() const { return first_ == kNone; }
    Ref front() const { return first_; }
    void PushBack(FlowEntries& entries, Ref ref) {
      entries[ref].previous = last_;
      entries[ref].next = kNone;
      (last_ == kNone ? first_ : entries[last_].next) = ref;
      last_ = ref;
    }
    void Remove(FlowEntries& entries, Ref ref) {
      const Entry& entry = entries[ref];
      (entry.previous == kNone ? first_ : entries[entry.previous].next) = entry.next;
      (entry.next == kNone ? last_ : entries[entry.next].previous) = entry.previous;
    }

   private:
    Ref first_ = kNone, last_ = kNone;
  };

  // Throws std::bad_alloc.
  explicit FlowEntries(uint32_t capacity)
      : capacity_(capacity),
        buckets_per_shard_(std::bit_ceil(size_t{2} * capacity / kShards + 1)),
        places_(size_t{capacity} + 1, "flow entries"),
        buckets_(kShards * buckets_per_shard_, "flow entries' buckets") {}

  static size_t Hash(const FlowKey& flow) {
    return absl::HashOf(absl::string_view(reinterpret_cast<const char*>(&flow), sizeof flow));
  }
  // Buckets go by the hash's low bits, shards by others.
  static size_t ShardOf(size_t hash) { return hash >> 40 & (kShards - 1); }

  Entry& operator[](Ref ref) { return places_[ref]; }
  const Entry& operator[](Ref ref) const { return places_[ref]; }

  // kNone where it has none.
  Ref Find(const FlowKey& flow, size_t hash) const {
    Ref ref = buckets_[BucketOf(hash)];
    while (ref != kNone && !(places_[ref].hash == hash && places_[ref].flow == flow)) {
      ref = places_[ref].chained;
    }
    return ref;
  }
  // From now on its flow, which has no other, finds it.
  void Insert(Ref ref) {
    Entry& entry = places_[ref];
    entry.chained = std::exchange(buckets_[BucketOf(entry.hash)], ref);
  }
  void Erase(Ref ref) {
    Ref* link = &buckets_[BucketOf(places_[ref].hash)];
    while (*link != ref) link = &places_[*link].chained;
    *link = places_[ref].chained;
  }

  // A place with an empty entry; kNone where all are taken. The one that was given back last comes
  // first.
  Ref Take() {
    const std::lock_guard lock(mutex_);
    const Ref ref = free_ != kNone ? free_ : used_ < capacity_ ? ++used_ : kNone;
    if (ref == kNone) return kNone;
    if (ref == free_) free_ = places_[ref].chained;
    places_[ref] = Entry();
    taken_.store(taken() + 1, std::memory_order_relaxed);
    return ref;
  }
  void GiveBack(Ref ref) {
    const std::lock_guard lock(mutex_);
    places_[ref].chained = std::exchange(free_, ref);
    taken_.store(taken() - 1, std::memory_order_relaxed);
  }
  uint32_t taken() const { return taken_.load(std::memory_order_relaxed); }

 private:
  size_t BucketOf(size_t hash) const {
    return ShardOf(hash) * buckets_per_shard_ + (hash & (buckets_per_shard_ - 1));
  }

  const uint32_t capacity_;
  const size_t buckets_per_shard_;  // a power of two
  HugeArray<Entry> places_;         // from 1
  HugeArray<Ref> buckets_;
  std::mutex mutex_;  // of all below; held for moments, under a shard's
  Ref free_ = kNone;
  uint32_t used_ = 0;               // places that have ever been taken
  std::atomic<uint32_t> taken_{0};  // written under mutex_
};

}  // namespace utproxy

#endif  // UTPROXY_STEER_FLOW_ENTRIES_H_
