// SPDX-License-Identifier: GPL-3.0-or-later
//
// The socket table: a mirror of the kernel's sockets with one writer and many readers.
//
// WHO, WHEN. Upsert, UpsertAll, Reserve, Erase, EraseIf and
// ForEach: one thread at a time, the writer.
// Everything else: any thread, at any time, also while the writer is at work, in parallel with no
// limit; such calls take no lock, write no shared memory, and are delayed by nothing but a change,
// completed meanwhile, of the few sockets that share their bucket. Readers announce themselves
// nowhere. The table must outlive all calls; what calls return are copies that belong to the
// caller.
//
// WHAT A READER SEES. Each lookup answers as of one moment during the call: a socket that is in
// the table throughout is found, whole, also while the table grows or shrinks; one whose Erase
// returned before (and the reader knows of it by some synchronisation) is not; one replaced by
// Upsert is seen as before or as after.
//
// KEYS. A socket is stored under its own key(). Several sockets may share a key (listeners of one
// address and port, one flow bound to several devices); among them the cookie is the identity.
//
// MEMORY. Address space is reserved for max_sockets when the table is made; memory is used as
// sockets come and given back when most have gone: 95 to 125 bytes a socket while a large table
// grows, at most 160 when it has shrunk, all included. While it is being resized, some megabytes
// more, as the old array is given back in pieces. Where max_sockets are stored or the system
// refuses memory for more, Upsert says so, the socket is not stored, and all others stay.
#ifndef UTPROXY_SOCKET_TABLE_H_
#define UTPROXY_SOCKET_TABLE_H_

#include <absl/container/inlined_vector.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "utproxy/flow.h"
#include "utproxy/flow_hash.h"
#include "utproxy/socket.h"
#include "utproxy/socket_table_core.h"

namespace utproxy {

// `Hasher`: uint64_t operator()(const FlowKey&) const, callable from any thread, of whose value
// the upper half is used. Must be hard to foretell for whoever chooses addresses and ports.
template <class Hasher>
class BasicSocketTable {
 public:
  struct Options {
    size_t max_sockets = size_t{1} << 22;  // 1..2^24 - 1
  };

  // Fails where the options are out of range or the address space cannot be reserved. The hasher
  // is copied.
  static absl::StatusOr<std::unique_ptr<BasicSocketTable>> Create(const Options& options,
                                                                  const Hasher& hasher) {
    absl::StatusOr<std::unique_ptr<SocketTableCore>> core = SocketTableCore::Create(
        options.max_sockets,
        [hasher](const FlowKey& key) { return table_internal::Fold(hasher(key)); });
    if (!core.ok()) return core.status();
    return std::unique_ptr<BasicSocketTable>(new BasicSocketTable(hasher, *std::move(core)));
  }
  // The same, for hashers that draw their own secret.
  static absl::StatusOr<std::unique_ptr<BasicSocketTable>> Create(
      const Options& options) requires requires {
    Hasher::Create();
  }
  {
    absl::StatusOr<Hasher> hasher = Hasher::Create();
    if (!hasher.ok()) return hasher.status();
    return Create(options, *hasher);
  }

  // Adds `socket`, or replaces the one of the same key and cookie. RESOURCE_EXHAUSTED where the
  // table is full, which is counted; INVALID_ARGUMENT for a protocol other than TCP and UDP.
  // Writing what is already there changes nothing and disturbs no reader.
  absl::Status Upsert(const Socket& socket) { return core_->Upsert(Hash(socket.key()), socket); }

  // False where there is no such socket.
  bool Erase(const FlowKey& key, uint64_t cookie) { return core_->Erase(Hash(key), key, cookie); }

  // Upsert for each, in order; much faster than one by one where the table exceeds the caches.
  // Returns the first failure, but tries them all.
  absl::Status UpsertAll(absl::Span<const Socket> sockets) {
    absl::Status status;
    for (size_t first = 0; first < sockets.size(); first += kOverlap) {
      status.Update(UpsertOverlapped(sockets.subspan(first, kOverlap)));
    }
    return status;
  }

  // Makes room for `sockets` in one step, where as many are about to come, and keeps it until
  // called again (with 0: as far as it is used). A hint: where memory is refused, nothing changes.
  void Reserve(size_t sockets) { core_->Reserve(sockets); }

  // Calls fn(const Socket&) for each socket, in no particular order. `fn` must not change the
  // table.
  template <class Fn>
  void ForEach(Fn fn) const {
    core_->VisitAll([&](const Socket& socket) {
      fn(socket);
      return false;
    });
  }

  // Erases each socket for which predicate(const Socket&) holds; returns how many those were.
  // `predicate` must not change the table.
  template <class Predicate>
  size_t EraseIf(Predicate predicate) {
    const size_t before = size();
    core_->VisitAll(predicate);
    core_->ShrinkIfSparse();
    return before - size();
  }

  // The socket of this key; of several the one with the lowest order.
  [[gnu::always_inline]] std::optional<Socket> FindOne(const FlowKey& key) const {
    return core_->FindOne(Hash(key), key);
  }

  // Replaces *out by all sockets of this key, by order and, where equal, cookie. They were in the
  // table together.
  void FindAll(const FlowKey& key, absl::InlinedVector<Socket, 8>* out) const {
    core_->FindAll(Hash(key), key, out);
  }

  // Calls found(i, FindOne(keys[i])) for each i in order, each as of a moment of its own. Much
  // faster than one by one where the table exceeds the caches.
  template <class Found>
  [[gnu::always_inline]] void FindBatch(absl::Span<const FlowKey> keys, Found found) const {
    if (core_->small()) {
      for (size_t i = 0; i < keys.size(); ++i) found(i, FindOne(keys[i]));
      return;
    }
    for (size_t first = 0; first < keys.size(); first += kOverlap) {
      const absl::Span<const FlowKey> some = keys.subspan(first, kOverlap);
      std::array<SocketTableCore::Probe, kOverlap> probes;
      for (size_t i = 0; i < some.size(); ++i) core_->Begin(Hash(some[i]), &probes[i]);
      for (size_t i = 0; i < some.size(); ++i) core_->Peek(&probes[i]);
      for (size_t i = 0; i < some.size(); ++i) {
        found(first + i, core_->Finish(probes[i], some[i]));
      }
    }
  }

  // Gets what the table holds of these keys on its way into the cache, for lookups that follow
  // soon.
  void Prefetch(absl::Span<const FlowKey> keys) const {
    if (core_->small()) return;
    for (size_t first = 0; first < keys.size(); first += kOverlap) {
      const absl::Span<const FlowKey> some = keys.subspan(first, kOverlap);
      std::array<SocketTableCore::Probe, kOverlap> probes;
      for (size_t i = 0; i < some.size(); ++i) core_->Begin(Hash(some[i]), &probes[i]);
      for (size_t i = 0; i < some.size(); ++i) core_->Peek(&probes[i]);
    }
  }

  // The same, and the room for those it does not hold: for calls about them by the writer.
  void PrefetchToWrite(absl::Span<const FlowKey> keys) const {
    for (size_t first = 0; first < keys.size(); first += kOverlap) {
      const absl::Span<const FlowKey> some = keys.subspan(first, kOverlap);
      std::array<SocketTableCore::Probe, kOverlap> probes;
      for (size_t i = 0; i < some.size(); ++i) core_->Begin(Hash(some[i]), &probes[i]);
      for (size_t i = 0; i < some.size(); ++i) core_->PeekToWrite(&probes[i]);
    }
  }

  // Replaces *out by a copy of the table. A socket that is in the table throughout the call is in
  // it exactly once, one that comes, goes or changes meanwhile as it was at some moment of the
  // call or not at all.
  void Snapshot(std::vector<Socket>* out) const { core_->Snapshot(out); }

  size_t size() const { return core_->size(); }
  SocketTableStats stats() const { return core_->stats(); }

 private:
  // Lookups in flight at a time: more than a core can have cache misses under way, few enough
  // for their state to stay in the first-level cache.
  static constexpr size_t kOverlap = 32;

  BasicSocketTable(const Hasher& hasher, std::unique_ptr<SocketTableCore> core)
      : hasher_(hasher), core_(std::move(core)) {}

  uint32_t Hash(const FlowKey& key) const { return table_internal::Fold(hasher_(key)); }

  absl::Status UpsertOverlapped(absl::Span<const Socket> sockets) {
    std::array<SocketTableCore::Probe, kOverlap> probes;
    for (size_t i = 0; i < sockets.size(); ++i) core_->Begin(Hash(sockets[i].key()), &probes[i]);
    for (size_t i = 0; i < sockets.size(); ++i) core_->PeekToWrite(&probes[i]);
    absl::Status status;
    for (size_t i = 0; i < sockets.size(); ++i) {
      status.Update(core_->Upsert(probes[i].hash, sockets[i]));
    }
    return status;
  }

  const Hasher hasher_;
  const std::unique_ptr<SocketTableCore> core_;
};

using SocketTable = BasicSocketTable<FlowHash>;

}  // namespace utproxy

#endif  // UTPROXY_SOCKET_TABLE_H_
