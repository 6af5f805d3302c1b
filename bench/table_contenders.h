// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the socket table is compared with. Each holds the sockets it is made with, and has
//   uint64_t Find(keys): looks up a block of keys one by one (or batched), returns the sum of the
//     cookies found. Any thread.
//   void Replace(socket): a change of a socket that is there. One thread; only where kWritable.
#ifndef UTPROXY_BENCH_TABLE_CONTENDERS_H_
#define UTPROXY_BENCH_TABLE_CONTENDERS_H_

#include <absl/container/flat_hash_map.h>
#include <absl/synchronization/mutex.h>
#include <absl/types/span.h>

#include <array>
#include <bit>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>

#include "table_keys.h"
#include "utproxy/socket_table.h"

#ifdef UTPROXY_HAVE_URCU
#include <urcu-qsbr.h>
#include <urcu/rculfhash.h>
#endif
#ifdef UTPROXY_HAVE_TBB
#include <oneapi/tbb/concurrent_hash_map.h>
#endif

namespace utproxy {

inline constexpr size_t kBlock = 64;  // lookups a call, as a queue's batch has packets
using Keys = absl::Span<const FlowKey>;
using Sockets = absl::Span<const Socket>;

class Table {
 public:
  static constexpr bool kWritable = true;
  explicit Table(Sockets sockets) : table_(*SocketTable::Create({})) {
    for (const Socket& s : sockets) Replace(s);
  }
  uint64_t Find(Keys keys) const {
    uint64_t sum = 0;
    for (const FlowKey& key : keys) {
      if (const std::optional<Socket> s = table_->FindOne(key)) sum += s->cookie;
    }
    return sum;
  }
  void Replace(const Socket& socket) {
    if (!table_->Upsert(socket).ok()) std::abort();
  }

 protected:
  std::unique_ptr<SocketTable> table_;
};

class TableBatched : public Table {
 public:
  using Table::Table;
  uint64_t Find(Keys keys) const {
    uint64_t sum = 0;
    table_->FindBatch(keys,
                      [&](size_t, const std::optional<Socket>& s) { sum += s ? s->cookie : 0; });
    return sum;
  }
};

template <class Hash>
class FlatHashMap {
 public:
  static constexpr bool kWritable = false;
  explicit FlatHashMap(Sockets sockets) {
    for (const Socket& s : sockets) map_.emplace(s.key(), s);
  }
  uint64_t Find(Keys keys) const {
    uint64_t sum = 0;
    for (const FlowKey& key : keys) {
      if (const auto found = map_.find(key); found != map_.end()) sum += found->second.cookie;
    }
    return sum;
  }

 protected:
  absl::flat_hash_map<FlowKey, Socket, Hash, KeyEqual> map_;
};

// The map above with a lock that each lookup takes.
template <class Lock, class ReaderGuard, class WriterGuard>
class LockedMap : public FlatHashMap<AbseilHash> {
 public:
  static constexpr bool kWritable = true;
  using FlatHashMap::FlatHashMap;
  uint64_t Find(Keys keys) {
    uint64_t sum = 0;
    for (const FlowKey& key : keys) {
      const ReaderGuard guard(Pointer());
      if (const auto found = map_.find(key); found != map_.end()) sum += found->second.cookie;
    }
    return sum;
  }
  void Replace(const Socket& socket) {
    const WriterGuard guard(Pointer());
    map_.insert_or_assign(socket.key(), socket);
  }

 private:
  decltype(auto) Pointer() {
    if constexpr (std::is_same_v<Lock, absl::Mutex>) {
      return &lock_;
    } else {
      return (lock_);
    }
  }
  Lock lock_;
};
using MutexMap = LockedMap<absl::Mutex, absl::ReaderMutexLock, absl::WriterMutexLock>;
using SharedMutexMap = LockedMap<std::shared_mutex, std::shared_lock<std::shared_mutex>,
                                 std::unique_lock<std::shared_mutex>>;

#ifdef UTPROXY_HAVE_TBB
class TbbMap {
 public:
  static constexpr bool kWritable = true;
  explicit TbbMap(Sockets sockets) {
    for (const Socket& s : sockets) Replace(s);
  }
  uint64_t Find(Keys keys) const {
    uint64_t sum = 0;
    for (const FlowKey& key : keys) {
      Map::const_accessor found;
      if (map_.find(found, key)) sum += found->second.cookie;
    }
    return sum;
  }
  void Replace(const Socket& socket) {
    Map::accessor place;
    map_.insert(place, socket.key());
    place->second = socket;
  }

 private:
  struct Compare {
    KeyedHash keyed;
    size_t hash(const FlowKey& key) const { return keyed(key); }
    bool equal(const FlowKey& a, const FlowKey& b) const { return KeyEqual()(a, b); }
  };
  using Map = oneapi::tbb::concurrent_hash_map<FlowKey, Socket, Compare>;
  Map map_;
};
#endif

#ifdef UTPROXY_HAVE_URCU
// A reader is in a read-side section, and quiescent after it, once a block.
class CdsLfht {
 public:
  static constexpr bool kWritable = true;
  explicit CdsLfht(Sockets sockets) {
    RegisterThread();
    ht_ = cds_lfht_new(std::bit_ceil(sockets.size()), 1, 0, 0, nullptr);
    for (const Socket& s : sockets) Replace(s);
  }
  uint64_t Find(Keys keys) const {
    RegisterThread();
    uint64_t sum = 0;
    rcu_read_lock();
    for (const FlowKey& key : keys) {
      cds_lfht_iter iter;
      cds_lfht_lookup(ht_, hash_(key), &Matches, &key, &iter);
      if (const cds_lfht_node* node = cds_lfht_iter_get_node(&iter)) sum += NodeOf(node)->cookie();
    }
    rcu_read_unlock();
    rcu_quiescent_state();
    return sum;
  }
  void Replace(const Socket& socket) {
    RegisterThread();
    const FlowKey key = socket.key();
    auto* node = new Node{.link = {}, .free = {}, .socket = socket};
    cds_lfht_node_init(&node->link);
    rcu_read_lock();
    cds_lfht_node* old = cds_lfht_add_replace(ht_, hash_(key), &Matches, &key, &node->link);
    if (old != nullptr) call_rcu(&const_cast<Node*>(NodeOf(old))->free, &Free);
    rcu_read_unlock();
    rcu_quiescent_state();
  }

 private:
  struct Node {
    cds_lfht_node link;  // first, so that the two have one address
    rcu_head free;
    Socket socket;
    uint64_t cookie() const { return socket.cookie; }
  };
  struct Registered {
    Registered() { rcu_register_thread(); }
    ~Registered() { rcu_unregister_thread(); }
  };
  static void RegisterThread() { thread_local const Registered registered; }
  static const Node* NodeOf(const cds_lfht_node* link) {
    return reinterpret_cast<const Node*>(link);
  }
  static int Matches(cds_lfht_node* node, const void* key) {
    return KeyEqual()(NodeOf(node)->socket.key(), *static_cast<const FlowKey*>(key));
  }
  static void Free(rcu_head* head) {
    delete reinterpret_cast<Node*>(reinterpret_cast<char*>(head) - offsetof(Node, free));
  }
  KeyedHash hash_;
  cds_lfht* ht_;
};
#endif

}  // namespace utproxy

#endif  // UTPROXY_BENCH_TABLE_CONTENDERS_H_
