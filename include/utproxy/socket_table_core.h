// SPDX-License-Identifier: GPL-3.0-or-later
//
// The inside of the socket table: the protocol, what readers do (here, so that it is inlined), and
// the writer's interface (src/sockets/socket_table_writer.cc). Layout: socket_table_layout.h.
// Users take utproxy/socket_table.h. tests/model/ has the protocol as a model that is searched
// exhaustively.
//
// INVARIANTS.
//  (I1) A head whose stamp is not 0 is live: its chain holds every socket of its hashes, in
//       whichever array it is. An array's heads are dead (0) unless the array is the root, or the
//       one that the root is being filled from.
//  (I2) A socket is in one slot of its chain; in two while it is moved or replaced, and then the
//       two are equal in key and cookie.
//  (I3) A bucket's memory, a follower's and an entry's never become something else and are never
//       unmapped while the table lives. Readers may touch them at any time, and so announce
//       nothing; that is the whole of reclamation. What is given back to the system reads as zero.
//
// ORDERING. All shared words are read with acquire and written with release (plain moves on
// x86-64), no fences; comments name the guarantee they serve.
//  (A) Published whole: the words of an entry, and all of a follower, are stored before the tag or
//      link that makes them part of a chain. Who loads the tag or link sees what it stands for, or
//      what was stored there later.
//  (B) Stamped before reuse: every change of a chain that readers can see is a single store, after
//      which the chain's head gets a new stamp, before anything else changes and before anything
//      the change made unreachable is written again. Who reads a word of a place reused (or given
//      back to the system) therefore finds another stamp than before.
//  (C) Stamps do not repeat: one counter of 64 bits for all chains. Stamp 0 marks a head that is
//      not live. Same head, same stamp other than 0: nothing was reused meanwhile.
//  (D) Always a live head: when the table is rebuilt, the array to be left becomes `previous_`
//      before the array to be filled becomes the root. A new head gets its stamp when its chain
//      is complete; an old head loses it only when all new heads of its hashes have theirs;
//      nothing else changes in between. Who finds a dead head under the root looks in the
//      previous array, and who finds it dead there too finds a new root or a live head when he
//      looks again: the writer has gone on.
//  (E) Move: within a chain, a socket is stored at its new place before it leaves the old, with a
//      new stamp in between. A reader never misses it, and may see it twice.
//  (F) Filter: the bit of a socket's tag stands in its head's link before the socket is in a
//      follower. Bits may stand there for nothing until a follower is freed.
// A reader's lookup is: load the head's stamp, read, load the stamp again. Equal and not 0: what
// was read is the chain as it stood at one moment between the two loads (the one change that can
// have been stored and not yet stamped is seen or not). Else: again, which means that the writer
// has completed a change in the meantime. A writer that is stopped anywhere stops no reader.
#ifndef UTPROXY_SOCKET_TABLE_CORE_H_
#define UTPROXY_SOCKET_TABLE_CORE_H_

#include <absl/container/inlined_vector.h>
#include <absl/functional/function_ref.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "utproxy/flow.h"
#include "utproxy/socket.h"
#include "utproxy/socket_table_layout.h"

namespace utproxy {

// Counters of a table. `bytes` is memory in use or kept for reuse, without the reserved address
// space that was never written.
struct SocketTableStats {
  size_t size = 0;
  size_t max_sockets = 0;
  size_t buckets = 0;
  size_t overflow_buckets = 0;
  size_t bytes = 0;
  uint64_t rejected = 0;  // sockets refused as the table, or the memory for it, was full
  uint64_t rebuilds = 0;  // times it grew or shrank
};

// The table behind BasicSocketTable, keyed by the folded hash and the flow. Threads
// and errors as stated there.
class SocketTableCore {
 public:
  using Array = table_internal::Array;
  using Bucket = table_internal::Bucket;
  using Entry = table_internal::Entry;
  using Place = table_internal::Place;
  // The folded hash of a key: what callers pass as `hash` below. Called from any thread.
  using HashFunction = std::function<uint32_t(const FlowKey&)>;

  // `max_sockets` in 1..2^24 - 1.
  static absl::StatusOr<std::unique_ptr<SocketTableCore>> Create(size_t max_sockets,
                                                                 HashFunction hash);
  ~SocketTableCore();
  SocketTableCore(const SocketTableCore&) = delete;
  SocketTableCore& operator=(const SocketTableCore&) = delete;

  // The writer's. `hash` is the folded one of the (socket's own) key.
  absl::Status Upsert(uint32_t hash, const Socket& socket);
  bool Erase(uint32_t hash, const FlowKey& key, uint64_t cookie);
  // Calls visit once for each socket; where that returns true, the socket is erased.
  void VisitAll(absl::FunctionRef<bool(const Socket&)> visit);
  void ShrinkIfSparse();
  void Reserve(size_t sockets);

  // The readers'.
  std::optional<Socket> FindOne(uint32_t hash, const FlowKey& key) const;
  void FindAll(uint32_t hash, const FlowKey& key, absl::InlinedVector<Socket, 8>* out) const;
  void Snapshot(std::vector<Socket>* out) const;
  SocketTableStats stats() const;
  size_t size() const { return size_.load(std::memory_order_relaxed); }

  // It fits into a core's own caches, so that there are no misses to be overlapped.
  bool small() const { return root_.load(std::memory_order_acquire)->count <= 512; }
  // A lookup in three steps, for overlapping the cache misses of many: Begin asks for the head,
  // Peek for the entry, Finish does what FindOne does.
  struct Probe {
    const Bucket* head;
    const Entry* entries;
    uint64_t stamp;
    uint64_t link;
    uint32_t matches;
    uint32_t hash;
  };
  void Begin(uint32_t hash, Probe* probe) const;
  void Peek(Probe* probe) const;
  std::optional<Socket> Finish(const Probe& probe, const FlowKey& key) const;
  // Instead of Peek, where nothing matches: asks for the entry that an upsert would write. One that
  // matches is left to its readers, as most often it turns out to be the same.
  void PeekToWrite(Probe* probe) const;

 private:
  struct Writer;
  SocketTableCore(std::unique_ptr<Writer> writer, size_t max_sockets, HashFunction hash);

  enum class Answer { kFound, kNone, kUnknown };
  void Start(uint32_t hash, Probe* probe) const;
  static void ReadHead(Probe* probe);
  Answer TryFinish(const Probe& probe, const FlowKey& key, table_internal::Image* image) const;
  std::optional<Socket> FindOneSlow(uint32_t hash, const FlowKey& key) const;
  template <class Visit>
  bool WalkChain(const Place& head, uint64_t stamp, Visit visit) const;
  template <class Try>
  void InLiveArray(uint32_t hash, Try attempt) const;
  template <class Restart, class Visit>
  void VisitMatches(uint32_t hash, const FlowKey& key, Restart restart, Visit visit) const;
  bool SnapshotChain(const Place& head, uint64_t stamp, uint64_t first_hash,
                     std::vector<Socket>* out) const;
  // The bucket after one with a `link` that names one.
  Place Follower(uint64_t link) const {
    const uint64_t number = table_internal::NumberOf(link);
    return {followers_ + number, follower_entries_ + number * table_internal::kSlots};
  }

  // The writer's.
  struct Position {
    Place place;
    int slot;
  };
  const Array& root() const { return *root_.load(std::memory_order_relaxed); }
  Place HeadOf(uint32_t hash) const { return root().At(root().IndexOf(hash)); }
  std::optional<Position> Locate(const Place& head, uint32_t hash, const FlowKey& key,
                                 uint64_t cookie) const;
  Place NewFollower();
  void FreeFollower(const Place& follower);
  uint64_t LinkTo(const Place& follower) const {
    return static_cast<uint64_t>(follower.bucket - followers_);
  }
  uint64_t FilterOf(const Bucket& head) const;
  void AddToFilter(const Place& head, uint8_t tag);
  void Append(const Place& head, uint8_t tag, const Socket& socket);
  void Remove(const Place& head, const Position& position);
  void CloseGap(const Place& head, const Position& gap);
  bool EraseInPlace(uint32_t hash, const FlowKey& key, uint64_t cookie);
  void Touch(const Place& head);
  absl::Status Insert(uint32_t hash, const Socket& socket);
  absl::Status Reject(absl::Status why);
  absl::Status Rebuild(size_t new_array);
  void MoveChain(const Place& head, const Array& to);
  void Retire(const Place& head);
  void SetSize(size_t size) { size_.store(size, std::memory_order_relaxed); }

  // Written when the table is made or rebuilt, read by every lookup.
  std::atomic<const Array*> root_{nullptr};      // (D)
  std::atomic<const Array*> previous_{nullptr};  // (D) null but during a rebuild
  static_assert(std::atomic<const Array*>::is_always_lock_free);
  Bucket* followers_;  // 0 is none
  Entry* follower_entries_;
  const size_t max_sockets_;
  const HashFunction hash_;

  // Written with every change; kept off the readers' line. Relaxed: figures, not guarantees.
  alignas(64) std::atomic<size_t> size_{0};
  std::atomic<size_t> followers_used_{0};
  std::atomic<size_t> followers_end_{1};
  std::atomic<uint64_t> rejected_{0};
  std::atomic<uint64_t> rebuilds_{0};
  std::unique_ptr<Writer> writer_;
};

// Below: what a lookup runs through.

[[gnu::always_inline]] inline void SocketTableCore::Start(uint32_t hash, Probe* probe) const {
  const Array& array = *table_internal::Load(root_);  // (D)
  const Place place = array.At(array.IndexOf(hash));
  probe->hash = hash;
  probe->head = place.bucket;
  probe->entries = place.entries;
}

[[gnu::always_inline]] inline void SocketTableCore::Begin(uint32_t hash, Probe* probe) const {
  Start(hash, probe);
  __builtin_prefetch(probe->head);
}

[[gnu::always_inline]] inline void SocketTableCore::ReadHead(Probe* probe) {
  const Bucket& head = *probe->head;
  probe->stamp = table_internal::Load(head.stamp);  // (C) first load
  probe->link = table_internal::Load(head.link);    // (B)
  probe->matches = table_internal::Match(head, table_internal::TagOf(probe->hash));
}

[[gnu::always_inline]] inline void SocketTableCore::Peek(Probe* probe) const {
  ReadHead(probe);
  // Where nothing matches, something that is in the cache already.
  const void* const wanted =
      probe->matches != 0
          ? static_cast<const void*>(&probe->entries[table_internal::FirstOf(probe->matches)])
          : probe->head;
  __builtin_prefetch(wanted);
}

inline void SocketTableCore::PeekToWrite(Probe* probe) const {
  ReadHead(probe);
  const uint32_t empty = table_internal::Match(*probe->head, 0);
  if (probe->matches != 0) {
    __builtin_prefetch(&probe->entries[table_internal::FirstOf(probe->matches)]);
  } else if (empty != 0) {
    __builtin_prefetch(&probe->entries[table_internal::FirstOf(empty)], 1);
  }
}

[[gnu::always_inline]] inline SocketTableCore::Answer SocketTableCore::TryFinish(
    const Probe& probe, const FlowKey& key, table_internal::Image* image) const {
  using table_internal::FirstOf;
  const bool followed =
      table_internal::FollowersMayHave(probe.link, table_internal::TagOf(probe.hash));
  if (followed || probe.stamp == 0) [[unlikely]]
    return Answer::kUnknown;
  uint32_t matches = probe.matches;
  while (matches != 0 && !table_internal::IsOf(probe.entries[FirstOf(matches)], key)) {
    matches &= matches - 1;
  }
  // What matches further may be further sockets of the key.
  if ((matches & (matches - 1)) != 0) [[unlikely]]
    return Answer::kUnknown;
  const Answer answer = matches != 0 ? Answer::kFound : Answer::kNone;
  if (matches != 0) *image = table_internal::ReadAll(probe.entries[FirstOf(matches)]);
  return table_internal::Unchanged(*probe.head, probe.stamp) ? answer : Answer::kUnknown;
}

[[gnu::always_inline]] inline std::optional<Socket> SocketTableCore::Finish(
    const Probe& probe, const FlowKey& key) const {
  table_internal::Image image;
  // An optional that is made here and filled elsewhere would be cleared first, all of it.
  switch (TryFinish(probe, key, &image)) {
    case Answer::kFound:
      return table_internal::SocketOf(image);
    case Answer::kNone:
      return std::nullopt;
    default:
      return FindOneSlow(probe.hash, key);
  }
}

[[gnu::always_inline]] inline std::optional<Socket> SocketTableCore::FindOne(
    uint32_t hash, const FlowKey& key) const {
  Probe probe;
  Start(hash, &probe);
  ReadHead(&probe);
  return Finish(probe, key);
}

}  // namespace utproxy

#endif  // UTPROXY_SOCKET_TABLE_CORE_H_
