// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_STEER_FLOW_INDEX_H_
#define UTPROXY_STEER_FLOW_INDEX_H_

#include <absl/container/inlined_vector.h>
#include <absl/types/span.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "steer/flow_entries.h"
#include "steer/flow_map.h"
#include "utproxy/flow.h"

namespace utproxy {

// Knows every entry of a FlowMap, when it was last used, and when it has to go. The map is written
// by this class only; who asks it reads the index and makes no system call.
//
// Any thread may call any function at any time.
//
// How index and map agree (the letters are referred to in flow_index.cc):
// A. An entry in the index that is not busy stands in the map with the same cookie. A key that is
//    not in the index is not in the map.
// B. Only the thread that made an entry busy writes or erases its key in the map, and it alone ends
//    the busy state, after the map has been changed. Thus no lock is held over a system call.
// C. A thread waits for an entry that another has made busy only while it has none busy itself.
// D. An entry has one of max_flows places from before it is written until after it is erased, so
// that
//    the map, of max_flows entries, always has room.
class FlowIndex {
 public:
  struct Options {
    uint32_t max_flows = 0;
    int64_t tcp_lifetime_ns = 0;  // since the last use
    int64_t udp_lifetime_ns = 0;  // since the last use
    // Of entries for whole destinations, likewise.
    int64_t whole_tcp_lifetime_ns = 0;
    int64_t whole_udp_lifetime_ns = 0;
    // An entry used within this time is never evicted: its packet may not have been delivered yet.
    int64_t evict_idle_ns = 0;
  };
  struct Target {
    FlowKey flow;
    uint64_t cookie = 0;
  };
  enum class PutResult : uint8_t {
    kStands,  // the entry is in the map
    kFull,    // no room, and nothing was idle for long enough to be evicted
    kFailed,  // the map refused it; an entry for another cookie may still stand
  };
  struct Stats {
    uint64_t entries = 0;
    uint64_t inserted = 0;   // entries written for a flow that had none
    uint64_t rewritten = 0;  // entries given another cookie
    uint64_t refreshed = 0;  // uses of an entry that stood already
    uint64_t expired = 0;
    uint64_t evicted = 0;
    uint64_t removed = 0;  // by Remove()
    uint64_t full = 0;     // kFull
    uint64_t failed = 0;   // kFailed
    uint64_t erase_failed = 0;
  };

  // `map` is borrowed, must outlive this, and be empty but for what is adopted.
  FlowIndex(FlowMap* map, const Options& options)
      : map_(map), options_(options), entries_(options.max_flows) {}

  // Takes in an entry that stands in the map from before; used at `now_ns`. Before anybody calls
  // anything else.
  void Adopt(const Target& target, int64_t now_ns);

  // Where the entry stands with this cookie, notes its use and returns true. No system call.
  bool Refresh(const FlowKey& flow, uint64_t cookie, int64_t now_ns);

  // Makes an entry stand for each target; results[i] is for targets[i]. A flow may be named more
  // than once: the last one's cookie stands. Evicts the least recently used entries where full.
  void Put(absl::Span<const Target> targets, absl::Span<PutResult> results, int64_t now_ns);

  // Erases what has outlived its time. About once a second, by one thread.
  void Expire(int64_t now_ns);

  // Erases the flow's entry, where it has one.
  void Remove(const FlowKey& flow, int64_t now_ns);

  // The cookie that the flow's entry stands with; 0 where there is none.
  uint64_t CookieOf(const FlowKey& flow) const;
  bool Contains(const FlowKey& flow) const { return CookieOf(flow) != 0; }

  // Rises when an entry goes before its time: by Remove(), or evicted.
  uint64_t gone_early() const {
    return removed_.load(std::memory_order_acquire) + evicted_.load(std::memory_order_acquire);
  }

  Stats stats() const;

 private:
  using Entry = FlowEntries::Entry;
  using EntryRef = FlowEntries::Ref;
  using EntryList = FlowEntries::List;
  static constexpr EntryRef kNone = FlowEntries::kNone;

  struct alignas(64) Shard {
    mutable std::mutex mutex;  // guards all of it, its entries and its part of their hash table
    std::condition_variable busy_ended;
    EntryList tcp;        // not busy, least recently used first
    EntryList udp;        // likewise
    EntryList whole_tcp;  // likewise: entries for whole destinations
    EntryList whole_udp;
    EntryList busy;  // in no order
    EntryList& idle(const Entry& entry) {
      const bool is_tcp = entry.flow.proto == Proto::kTcp;
      if (IsWholeDestination(entry.flow)) return is_tcp ? whole_tcp : whole_udp;
      return is_tcp ? tcp : udp;
    }
  };

  // A busy entry of the calling thread. `target`: which of a batch it is for.
  struct Claim {
    Shard* shard;
    EntryRef entry;
    uint32_t target;
  };
  using Claims = absl::InlinedVector<Claim, 32>;
  using Indexes = absl::InlinedVector<uint32_t, 32>;
  enum class ClaimResult : uint8_t { kClaimed, kStands, kBusy, kNoRoom };
  struct Head;

  Shard& ShardOf(size_t hash) const;
  // Not busy and with this cookie: notes the use.
  bool Refresh(Shard& shard, EntryRef entry, uint64_t cookie, int64_t now_ns);
  void MakeBusy(Shard& shard, EntryRef entry);
  void EndBusy(Shard& shard, EntryRef entry);
  void Drop(Shard& shard, EntryRef entry);
  ClaimResult ClaimToWrite(const Target& target, int64_t now_ns, Claim* claim);
  void Write(absl::Span<const Target> targets, const Claims& claims, absl::Span<PutResult> results,
             int64_t now_ns);
  void SettleWrite(const Claim& claim, bool written, uint64_t cookie, int64_t now_ns);
  void WaitWhileBusy(const FlowKey& flow);
  size_t Evict(size_t wanted, int64_t now_ns);
  void ExpireList(Shard& shard, EntryList& list, int64_t used_before_ns, int64_t now_ns);
  size_t Erase(const Claims& claims, int64_t now_ns);
  void SettleErase(const Claim& claim, bool erased, int64_t now_ns);

  FlowMap* const map_;
  const Options options_;
  FlowEntries entries_;
  mutable std::array<Shard, FlowEntries::kShards> shards_;
  std::atomic<uint64_t> inserted_{0}, rewritten_{0}, refreshed_{0}, expired_{0}, evicted_{0},
      removed_{0};
  std::atomic<uint64_t> full_{0}, failed_{0}, erase_failed_{0};
};

}  // namespace utproxy

#endif  // UTPROXY_STEER_FLOW_INDEX_H_
