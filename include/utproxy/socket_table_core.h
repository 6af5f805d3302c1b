// SPDX-License-Identifier: GPL-3.0-or-later
//
// The inside of the socket table: layout, what readers do (here, so that it is inlined), and the
// writer's interface (src/sockets/socket_table_core.cc). Users take utproxy/socket_table.h.
//
// LAYOUT. A power-of-two array of 64-byte buckets of eight slots. A slot is the low 16 bits of the
// flow's 32-bit hash (its tag; 0: the slot is empty), compared eight at a time, and the index of an
// entry beside the next 8 bits. The top bits of the hash choose the bucket, so buckets are in the
// order of hashes, and an array can be rebuilt in another size from its own words, front to back,
// without a look at the entries. What does not fit is in further buckets, linked; bucket and
// followers are a chain, the first is its head. An entry is a Socket, eight words. Buckets,
// followers and entries live in three reservations in which a place never changes its type and is
// never unmapped while the table lives.
//
// ORDERING. All shared words are read with acquire and written with release (plain moves on
// x86-64), no fences; comments name the guarantee they serve.
//  (A) Published whole: the words of an entry, and all of a follower, are stored before the index
//      or link that names them, the index before the tag. Who loads the name sees what it names,
//      or what was stored there later.
//  (B) Stamped before reuse: every change of a chain that readers can see is a single store, after
//      which the chain's head gets a new stamp, before anything else changes and before anything
//      the change made unreachable is written again. Who reads a word of a place reused (or given
//      back to the system) therefore finds another stamp than before.
//  (C) Stamps do not repeat: one counter of 64 bits for all chains. Stamp 0 marks an array that is
//      not live. Same head, same stamp other than 0: nothing was reused meanwhile.
//  (D) Always a live array: a new array is complete and stamped before the root names it; the
//      root names it before the old array's stamps go to 0; nothing changes in between. A reader
//      finds every present socket in either, and who finds stamp 0 finds the new root.
//  (E) Move: within a chain, a socket is stored at its new place before it leaves the old, with a
//      new stamp in between. A reader never misses it, and may see it twice.
// A reader's lookup is: load the head's stamp, read, load the stamp again. Equal and not 0: what
// was read is the chain as it stood at one moment between the two loads (the one change that can
// have been stored and not yet stamped is seen or not). Else: again, which means that the writer
// has completed a change in the meantime. A writer that is stopped anywhere stops no reader.
#ifndef UTPROXY_SOCKET_TABLE_CORE_H_
#define UTPROXY_SOCKET_TABLE_CORE_H_

#include <absl/container/inlined_vector.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "utproxy/flow.h"
#include "utproxy/socket.h"

namespace utproxy {

// Counters of a table. `bytes` is memory in use or kept for reuse, without the reserved address
// space that was never written.
struct SocketTableStats {
  size_t size = 0;
  size_t max_sockets = 0;
  size_t buckets = 0;
  size_t overflow_buckets = 0;
  size_t bytes = 0;
  uint64_t rejected = 0;  // sockets refused as the table was full
  uint64_t rebuilds = 0;  // times it grew or shrank
};

namespace table_internal {

inline constexpr int kSlots = 8;

// Position p's tag is a 16-bit lane of tags[1] (p even) or tags[0] (p odd), lane p / 2.
struct alignas(64) Bucket {
  uint64_t stamp;  // of a head; 0 in followers
  uint64_t link;   // n: followers_[n] is next; 0: none
  uint64_t tags[2];
  uint32_t indices[kSlots];  // hash bits 16 to 23 << 24 | entry
};
static_assert(sizeof(Bucket) == 64 && alignof(Bucket) == 64);

struct alignas(64) Entry {
  uint64_t words[8];
};
static_assert(sizeof(Entry) == sizeof(Socket) && alignof(Entry) == 64);

static_assert(std::atomic_ref<uint64_t>::is_always_lock_free);
static_assert(std::atomic_ref<uint64_t>::required_alignment == alignof(uint64_t));

static_assert(std::atomic_ref<uint32_t>::is_always_lock_free);
static_assert(std::atomic_ref<uint32_t>::required_alignment == alignof(uint32_t));

template <class Word>
Word Load(const Word& word) {
  return std::atomic_ref<Word>(const_cast<Word&>(word)).load(std::memory_order_acquire);
}
template <class Word>
void Store(Word& word, Word value) {
  std::atomic_ref<Word>(word).store(value, std::memory_order_release);
}

inline constexpr int kIndexBits = 24;
constexpr uint32_t EntryOf(uint32_t index) { return index & ((uint32_t{1} << kIndexBits) - 1); }
constexpr uint32_t MakeIndex(uint32_t hash, uint32_t entry) {
  return (hash << 8 & 0xff000000) | entry;
}

// The 32 bits of a flow's hash that the table goes by: never with a tag of 0.
constexpr uint32_t Fold(uint64_t hash) {
  const auto upper = static_cast<uint32_t>(hash >> 32);
  return upper | ((upper & 0xffff) == 0);
}
constexpr uint64_t TagOf(uint32_t hash) { return hash & 0xffff; }

// Bit 8 p + 7 is set for each position p whose tag is `tag`; 0 asks for the empty ones. Exact.
inline uint64_t Match(const Bucket& bucket, uint64_t tag) {
  constexpr uint64_t kLow = 0x7fff7fff7fff7fff;
  const uint64_t wanted = tag * 0x0001000100010001;
  const uint64_t odd = Load(bucket.tags[0]) ^ wanted;   // (A)
  const uint64_t even = Load(bucket.tags[1]) ^ wanted;  // (A)
  // A lane's top bit stays clear only where the lane is 0; no carry leaves a lane.
  const uint64_t not_odd = ((odd & kLow) + kLow) | odd | kLow;
  const uint64_t not_even = ((even & kLow) + kLow) | even | kLow;
  return ~not_odd | ~not_even >> 8;
}
// Of what Match returns, not 0.
inline int FirstOf(uint64_t matches) { return std::countr_zero(matches) >> 3; }
inline int LastOf(uint64_t matches) { return (63 - std::countl_zero(matches)) >> 3; }
inline uint64_t UsedOf(const Bucket& bucket) { return ~Match(bucket, 0) & 0x8080808080808080; }

constexpr int LaneShift(int slot) { return slot / 2 * 16; }
inline uint64_t& LaneWord(Bucket& bucket, int slot) { return bucket.tags[slot % 2 == 0 ? 1 : 0]; }
// The whole hash of the flow in a slot in use; `neighbour` is a hash that has the same head.
inline uint32_t HashAt(uint32_t neighbour, const Bucket& bucket, int slot) {
  const uint64_t tags = Load(LaneWord(const_cast<Bucket&>(bucket), slot));
  return (neighbour & 0xff000000) | (Load(bucket.indices[slot]) >> kIndexBits << 16) |
         (tags >> LaneShift(slot) & 0xffff);
}

using SocketWords = std::array<uint64_t, 8>;
static_assert(sizeof(SocketWords) == sizeof(Socket));

// The key is a Socket's first 37 bytes, so the two are compared word by word, the fifth in part.
static_assert(offsetof(Socket, local) == offsetof(FlowKey, local) &&
              offsetof(Socket, remote) == offsetof(FlowKey, remote) &&
              offsetof(Socket, local_port) == offsetof(FlowKey, local_port) &&
              offsetof(Socket, remote_port) == offsetof(FlowKey, remote_port) &&
              offsetof(Socket, proto) == offsetof(FlowKey, proto) &&
              offsetof(FlowKey, zero) == 37 && sizeof(FlowKey) == 40);
inline constexpr uint64_t kFifthWordMask =
    std::bit_cast<uint64_t>(std::array<uint8_t, 8>{0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0});
inline constexpr int kProtoWord = offsetof(Socket, proto) / 8;

inline uint64_t WordOf(const FlowKey& key, int i) {
  uint64_t word;
  std::memcpy(&word, reinterpret_cast<const char*>(&key) + size_t{8} * static_cast<size_t>(i), 8);
  return word;
}

}  // namespace table_internal

// The table behind BasicSocketTable, keyed by the folded hash and the flow. Threads
// and errors as stated there.
class SocketTableCore {
 public:
  using Bucket = table_internal::Bucket;
  using Entry = table_internal::Entry;

  // `max_sockets` in 1..2^24 - 1.
  static absl::StatusOr<std::unique_ptr<SocketTableCore>> Create(size_t max_sockets);
  ~SocketTableCore();
  SocketTableCore(const SocketTableCore&) = delete;
  SocketTableCore& operator=(const SocketTableCore&) = delete;

  // The writer's. `hash` is the folded one of the (socket's own) key.
  absl::Status Upsert(uint32_t hash, const Socket& socket);
  bool Erase(uint32_t hash, const FlowKey& key, uint64_t cookie);
  // Erase, leaving the table's size as it is, so that entries stay in their places.
  bool EraseInPlace(uint32_t hash, const FlowKey& key, uint64_t cookie);
  void ShrinkIfSparse();
  // Every place that may hold an entry; nullopt where it holds none.
  size_t slab_end() const { return slab_end_.load(std::memory_order_relaxed); }
  std::optional<Socket> At(size_t index) const;

  // The readers'.
  void FindOne(uint32_t hash, const FlowKey& key, std::optional<Socket>* out) const;
  void FindAll(uint32_t hash, const FlowKey& key, absl::InlinedVector<Socket, 8>* out) const;
  void Snapshot(std::vector<Socket>* out) const;
  SocketTableStats stats() const;
  size_t size() const { return size_.load(std::memory_order_relaxed); }

  // A lookup in three steps, for overlapping the cache misses of many: Begin asks for the bucket,
  // Peek for the entry, Finish does what FindOne does.
  struct Probe {
    const Bucket* head;
    uint64_t stamp;
    uint64_t matches;
    const Entry* entry;  // of the first match
    uint32_t hash;
    bool simple;  // no follower and at most one match
  };
  void Begin(uint32_t hash, Probe* probe) const;
  void Peek(Probe* probe) const;
  void Finish(const Probe& probe, const FlowKey& key, std::optional<Socket>* out) const;

 private:
  struct Writer;
  explicit SocketTableCore(std::unique_ptr<Writer> writer);

  Bucket* HeadAt(uint32_t hash, uint32_t shift) const {
    // The array of 2^n buckets starts at bucket 2^n of its reservation.
    return heads_ + (((uint64_t{1} << 32) | hash) >> shift);
  }
  const Bucket* Head(uint32_t hash) const {
    return HeadAt(hash, root_shift_.load(std::memory_order_acquire));  // (D)
  }
  static Socket Copy(const Entry& entry);
  static bool LoadIfKey(const Entry& entry, const FlowKey& key, uint64_t (&words)[8]);
  static void StoreWords(const uint64_t (&words)[8], Socket* out);
  static bool CopyIfKey(const Entry& entry, const FlowKey& key, Socket* out);
  void FindOneSlow(uint32_t hash, const FlowKey& key, std::optional<Socket>* out) const;
  template <class Visit>
  bool WalkChain(const Bucket& head, uint64_t stamp, Visit visit) const;
  bool SnapshotChain(uint32_t first_hash, uint32_t shift, std::vector<Socket>* out) const;

  // The writer's.
  struct Position {
    Bucket* head;
    Bucket* bucket;
    int slot;
  };
  std::optional<Position> Locate(uint32_t hash, const FlowKey& key, uint64_t cookie) const;
  uint32_t NewEntry(const Socket& socket);
  void FreeEntry(uint32_t entry);
  uint32_t NewFollower();
  void FreeFollower(uint64_t link);
  void Append(Bucket* head, uint32_t hash, uint32_t entry);
  void Remove(const Position& position);
  void Touch(Bucket* head);
  size_t bucket_count() const;
  void Rebuild(uint32_t new_shift);
  void FillFrom(uint32_t old_shift, uint32_t new_shift, bool compact);
  void StampAll(uint32_t shift);
  void Retire(Bucket* head);

  // Written when the table is made or rebuilt, read by every lookup.
  Bucket* heads_;
  Bucket* followers_;  // link n leads to followers_[n]; 0 is none
  Entry* entries_;
  size_t max_sockets_;
  std::atomic<uint32_t> root_shift_;  // (D) 32 less the live array's log2; names the live array
  static_assert(std::atomic<uint32_t>::is_always_lock_free);

  // Written with every change; kept off the readers' line. Relaxed: figures, not guarantees.
  alignas(64) std::atomic<size_t> size_{0};
  std::atomic<size_t> slab_end_{0};
  std::atomic<size_t> followers_used_{0};
  std::atomic<size_t> followers_end_{1};
  std::atomic<uint64_t> rejected_{0};
  std::atomic<uint64_t> rebuilds_{0};
  std::unique_ptr<Writer> writer_;
};

// Below: what a lookup runs through.

// Copies the entry's words where it is one of `key`; else false, and `words` are undefined.
[[gnu::always_inline]] inline bool SocketTableCore::LoadIfKey(const Entry& entry,
                                                              const FlowKey& key,
                                                              uint64_t (&words)[8]) {
  // Unrolled, as -O2 alone would keep `words` in memory instead of registers.
  uint64_t difference = 0;
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i) {
    words[i] = table_internal::Load(entry.words[i]);  // (A) (B)
    const uint64_t differs = words[i] ^ table_internal::WordOf(key, i);
    difference |= i == 4 ? differs & table_internal::kFifthWordMask : differs;
  }
  if (difference != 0) return false;
#pragma GCC unroll 3
  for (int i = 5; i < 8; ++i) words[i] = table_internal::Load(entry.words[i]);  // (A) (B)
  return true;
}

// Word by word: a reader of one field next would have to wait for a wider store.
[[gnu::always_inline]] inline void SocketTableCore::StoreWords(const uint64_t (&words)[8],
                                                               Socket* out) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    std::memcpy(reinterpret_cast<char*>(out) + size_t{8} * static_cast<size_t>(i), &words[i], 8);
  }
}

inline bool SocketTableCore::CopyIfKey(const Entry& entry, const FlowKey& key, Socket* out) {
  uint64_t words[8];
  if (!LoadIfKey(entry, key, words)) return false;
  StoreWords(words, out);
  return true;
}

inline Socket SocketTableCore::Copy(const Entry& entry) {
  table_internal::SocketWords words;
  for (size_t i = 0; i < words.size(); ++i) words[i] = table_internal::Load(entry.words[i]);
  return std::bit_cast<Socket>(words);
}

[[gnu::always_inline]] inline void SocketTableCore::Begin(uint32_t hash, Probe* probe) const {
  probe->hash = hash;
  probe->head = Head(hash);
  __builtin_prefetch(probe->head);
}

[[gnu::always_inline]] inline void SocketTableCore::Peek(Probe* probe) const {
  using table_internal::Load;
  const Bucket& head = *probe->head;
  probe->stamp = Load(head.stamp);  // (C) first load
  const uint64_t matches = table_internal::Match(head, table_internal::TagOf(probe->hash));
  probe->matches = matches;
  probe->simple = ((matches & (matches - 1)) | Load(head.link)) == 0;  // (B)
  // Where nothing matches, a harmless address to ask for.
  const int slot = table_internal::FirstOf(matches | uint64_t{1} << 63);
  probe->entry = &entries_[table_internal::EntryOf(Load(head.indices[slot]))];  // (A)
  __builtin_prefetch(probe->entry);
}

[[gnu::always_inline]] inline void SocketTableCore::Finish(const Probe& probe, const FlowKey& key,
                                                           std::optional<Socket>* out) const {
  if (probe.simple && probe.stamp != 0) [[likely]] {
    uint64_t words[8];
    const bool found = probe.matches != 0 && LoadIfKey(*probe.entry, key, words);
    if (table_internal::Load(probe.head->stamp) == probe.stamp) [[likely]] {  // (C) second load
      if (found) {
        StoreWords(words, &out->emplace());
      } else {
        out->reset();
      }
      return;
    }
  }
  FindOneSlow(probe.hash, key, out);
}

[[gnu::always_inline]] inline void SocketTableCore::FindOne(uint32_t hash, const FlowKey& key,
                                                            std::optional<Socket>* out) const {
  Probe probe;
  probe.hash = hash;
  probe.head = Head(hash);
  Peek(&probe);
  Finish(probe, key, out);
}

}  // namespace utproxy

#endif  // UTPROXY_SOCKET_TABLE_CORE_H_
