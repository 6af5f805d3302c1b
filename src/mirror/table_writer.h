// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_MIRROR_TABLE_WRITER_H_
#define UTPROXY_MIRROR_TABLE_WRITER_H_

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>
#include <absl/types/span.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "mirror/cookie_set.h"
#include "mirror/interfaces.h"
#include "utproxy/socket_table.h"

namespace utproxy {

// A counter for each of 4,096 classes of UDP local ports, risen by the mirror whenever a socket
// bound to such a port comes, goes or changes: what was decided about a UDP flow holds while the
// counter of the listener's port stands still. Written by the mirror, read by any thread.
class UdpEpochs {
 public:
  uint32_t Get(uint16_t port) const {
    return epochs_[port % kClasses].load(std::memory_order_acquire);
  }
  void Rise(uint16_t port) {
    epochs_[port % kClasses].fetch_add(1, std::memory_order_release);
    changes_.fetch_add(1, std::memory_order_release);
  }
  // Rises with each of them.
  uint64_t Sum() const {
    uint64_t sum = 0;
    for (const auto& epoch : epochs_) sum += epoch.load(std::memory_order_acquire);
    return sum;
  }

  // Rises when a connected socket goes and leaves its flow to one that is bound to its address and
  // port, or to its port alone.
  uint64_t Left() const { return left_.load(std::memory_order_acquire); }
  void RiseLeft() {
    left_.fetch_add(1, std::memory_order_release);
    changes_.fetch_add(1, std::memory_order_release);
  }

  // The same for all TCP listeners together.
  uint64_t Listeners() const { return listeners_.load(std::memory_order_acquire); }
  void RiseListeners() {
    listeners_.fetch_add(1, std::memory_order_release);
    changes_.fetch_add(1, std::memory_order_release);
  }

  // Rises with each of them all.
  uint64_t Changes() const { return changes_.load(std::memory_order_acquire); }

 private:
  static constexpr size_t kClasses = 4096;
  std::array<std::atomic<uint32_t>, kClasses> epochs_{};
  std::atomic<uint64_t> left_{0};
  std::atomic<uint64_t> listeners_{0};
  std::atomic<uint64_t> changes_{0};
};

// Turns what sock_diag tells (dumps, destroy events, exact answers) into the table's contents.
// No I/O, so that it is tested without a kernel. For the mirror's thread only.
class TableWriter {
 public:
  // All must outlive this. Times are CLOCK_MONOTONIC nanoseconds throughout.
  TableWriter(SocketTable* table, UdpEpochs* epochs) : table_(table), epochs_(epochs) {}

  // A whole dump of one family's listeners (TCP) or of all its sockets (UDP), in the kernel's
  // order: what is not in it any more goes.
  void ReplaceBound(Family family, Proto proto, absl::Span<const Socket> dumped);

  // Part of a dump of connections (TCP, any state but LISTEN), or one that a worker asked for.
  // A full socket, request socket or minisocket; for UDP a connected one.
  void Learn(Socket socket, const InterfaceSnapshot& interfaces, int64_t now_ns);

  // Learn for each of many, with their cache misses overlapped: best by the kTogether at a time.
  void LearnAll(absl::Span<const Socket> sockets, const InterfaceSnapshot& interfaces,
                int64_t now_ns);
  static constexpr size_t kTogether = 64;

  // A destroy event: the full socket was freed. A connection may live on as a TIME_WAIT
  // minisocket of the same cookie, so its entry is kept as one until that would end.
  void Destroyed(const Socket& event, int64_t now_ns);

  // A connection that was reset by its own end (close() with SO_LINGER 0, which is a
  // tcp_disconnect) has lost its peer's port, and maybe its own address, before the event tells of
  // it: only the cookie says which it was. Whether there are such events to be matched; and
  // matching them, all with one walk of the table.
  bool has_nameless() const { return !nameless_.empty(); }
  void EndNameless();

  // Connections in the table that a complete dump, given by its cookies, did not show. A dump
  // can miss sockets, so this is a list of suspects.
  std::vector<Socket> Missing(const CookieSet& dumped) const;
  void Forget(const Socket& socket);

  // Drops TIME_WAIT entries whose time is up.
  void Expire(int64_t now_ns);

  uint64_t rejected() const { return rejected_; }

 private:
  struct Id {
    FlowKey key;
    uint64_t cookie;
    friend bool operator==(const Id& a, const Id& b) {
      table_internal::BeforeLoad();  // tests count these like accesses to the table
      return a.cookie == b.cookie && a.key == b.key;
    }
    template <typename H>
    friend H AbslHashValue(H h, const Id& id) {
      // All of it: who chooses the addresses must not choose which sockets collide.
      const auto* key = reinterpret_cast<const unsigned char*>(&id.key);
      return H::combine_contiguous(H::combine(std::move(h), id.cookie), key, sizeof id.key);
    }
  };
  struct BoundSocket {
    Socket socket;
    uint64_t dump = 0;  // the last one that showed it, or 0
  };
  using Bound = absl::flat_hash_map<Id, BoundSocket>;

  Bound& BoundSet(Family family, Proto proto) {
    return bound_[(family == Family::kIpv6 ? 2u : 0u) + (proto == Proto::kUdp ? 1u : 0u)];
  }
  void EraseNotIn(uint64_t dump, Bound* bound);
  void Put(const Socket& socket);
  bool Write(const Socket& socket);  // false: the table is full
  void Erase(const Socket& socket);
  void Rise(const Socket& socket);
  bool LeavesItsFlow(const Socket& socket) const;
  void LearnOfTheLate(const Socket& socket);
  std::optional<Socket> InTable(const FlowKey& key, uint64_t cookie) const;
  bool RecentlyDestroyed(uint64_t cookie) const { return destroyed_.contains(cookie); }

  SocketTable* const table_;
  UdpEpochs* const epochs_;
  std::array<Bound, 4> bound_;  // all of them are in the table, as they are here
  uint64_t dumps_ = 0;          // of ReplaceBound
  // Connections that were destroyed in the last seconds: an exact answer from before, still on
  // its way through the feed, must not bring them back.
  absl::flat_hash_set<uint64_t> destroyed_;
  std::deque<std::pair<int64_t, uint64_t>> destroyed_order_;
  absl::flat_hash_set<uint64_t> nameless_;
  std::deque<std::pair<int64_t, Id>> time_wait_ends_;
  uint64_t rejected_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_MIRROR_TABLE_WRITER_H_
