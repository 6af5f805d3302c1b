// SPDX-License-Identifier: GPL-3.0-or-later
#include "steer/flow_index.h"

#include <algorithm>
#include <queue>
#include <vector>

namespace utproxy {
namespace {

// How many entries are erased between two looks at a shard's list.
constexpr size_t kEraseBatch = 128;
// How often a target may find the room made for it taken by another thread.
constexpr int kRoomAttempts = 3;

void Count(std::atomic<uint64_t>& counter, uint64_t n = 1) {
  counter.fetch_add(n, std::memory_order_relaxed);
}

}  // namespace

FlowIndex::Shard& FlowIndex::ShardOf(size_t hash) const {
  return shards_[FlowEntries::ShardOf(hash)];
}

void FlowIndex::MakeBusy(Shard& shard, EntryRef ref) {
  Entry& entry = entries_[ref];
  shard.idle(entry).Remove(entries_, ref);
  shard.busy.PushBack(entries_, ref);
  entry.busy = true;
}

void FlowIndex::EndBusy(Shard& shard, EntryRef ref) {
  Entry& entry = entries_[ref];
  shard.busy.Remove(entries_, ref);
  shard.idle(entry).PushBack(entries_, ref);
  entry.busy = false;
}

// A busy one.
void FlowIndex::Drop(Shard& shard, EntryRef ref) {
  entries_.Erase(ref);
  shard.busy.Remove(entries_, ref);
  entries_.GiveBack(ref);
}

bool FlowIndex::Refresh(Shard& shard, EntryRef ref, uint64_t cookie, int64_t now_ns) {
  Entry& entry = entries_[ref];
  if (entry.busy || entry.cookie != cookie) return false;
  // A thread that took the time earlier than another must not make the entry older.
  entry.last_used_ns = std::max(entry.last_used_ns, now_ns);
  EntryList& list = shard.idle(entry);
  list.Remove(entries_, ref);
  list.PushBack(entries_, ref);
  return true;
}

void FlowIndex::Adopt(const Target& target, int64_t now_ns) {
  const size_t hash = FlowEntries::Hash(target.flow);
  Shard& shard = ShardOf(hash);
  const std::lock_guard lock(shard.mutex);
  const EntryRef ref = entries_.Take();
  if (ref == kNone) return;
  Entry& entry = entries_[ref];
  entry.flow = target.flow;
  entry.hash = hash;
  entry.cookie = target.cookie;
  entry.last_used_ns = now_ns;
  entry.stands = true;
  entries_.Insert(ref);
  shard.idle(entry).PushBack(entries_, ref);
}

bool FlowIndex::Refresh(const FlowKey& flow, uint64_t cookie, int64_t now_ns) {
  const size_t hash = FlowEntries::Hash(flow);
  Shard& shard = ShardOf(hash);
  const std::lock_guard lock(shard.mutex);
  const EntryRef ref = entries_.Find(flow, hash);
  if (ref == kNone || !Refresh(shard, ref, cookie, now_ns)) return false;
  Count(refreshed_);
  return true;
}

uint64_t FlowIndex::CookieOf(const FlowKey& flow) const {
  const size_t hash = FlowEntries::Hash(flow);
  const Shard& shard = ShardOf(hash);
  const std::lock_guard lock(shard.mutex);
  const EntryRef ref = entries_.Find(flow, hash);
  return ref != kNone && !entries_[ref].busy ? entries_[ref].cookie : 0;
}

FlowIndex::ClaimResult FlowIndex::ClaimToWrite(const Target& target, int64_t now_ns, Claim* claim) {
  const size_t hash = FlowEntries::Hash(target.flow);
  Shard& shard = ShardOf(hash);
  const std::lock_guard lock(shard.mutex);
  const EntryRef known = entries_.Find(target.flow, hash);
  claim->shard = &shard;
  if (known != kNone) {
    if (entries_[known].busy) return ClaimResult::kBusy;
    if (Refresh(shard, known, target.cookie, now_ns)) {
      Count(refreshed_);
      return ClaimResult::kStands;
    }
    MakeBusy(shard, known);
    claim->entry = known;
    return ClaimResult::kClaimed;
  }
  claim->entry = entries_.Take();
  if (claim->entry == kNone) return ClaimResult::kNoRoom;
  Entry& entry = entries_[claim->entry];
  entry.flow = target.flow;
  entry.hash = hash;
  entry.busy = true;
  entries_.Insert(claim->entry);
  shard.busy.PushBack(entries_, claim->entry);
  return ClaimResult::kClaimed;
}

void FlowIndex::Put(absl::Span<const Target> targets, absl::Span<PutResult> results,
                    int64_t now_ns) {
  Indexes pending(targets.size());
  for (uint32_t i = 0; i < pending.size(); ++i) pending[i] = i;
  for (int attempts_left = kRoomAttempts; !pending.empty();) {
    Claims claims;
    Indexes busy, no_room;
    for (const uint32_t i : pending) {
      Claim claim{.target = i};
      switch (ClaimToWrite(targets[i], now_ns, &claim)) {
        case ClaimResult::kClaimed:
          claims.push_back(claim);
          break;
        case ClaimResult::kStands:
          results[i] = PutResult::kStands;
          break;
        case ClaimResult::kBusy:
          busy.push_back(i);
          break;
        case ClaimResult::kNoRoom:
          no_room.push_back(i);
          break;
      }
    }
    Write(targets, claims, results, now_ns);
    if (!no_room.empty() && (attempts_left-- == 0 || Evict(no_room.size(), now_ns) == 0)) {
      for (const uint32_t i : no_room) results[i] = PutResult::kFull;
      Count(full_, no_room.size());
      no_room.clear();
    }
    // Busy by another thread, or by this one a moment ago for a flow named twice (C).
    if (claims.empty() && no_room.empty() && !busy.empty()) WaitWhileBusy(targets[busy[0]].flow);
    pending = std::move(busy);
    pending.insert(pending.end(), no_room.begin(), no_room.end());
    std::sort(pending.begin(), pending.end());
  }
}

void FlowIndex::Write(absl::Span<const Target> targets, const Claims& claims,
                      absl::Span<PutResult> results, int64_t now_ns) {
  absl::InlinedVector<FlowKey, 32> keys;
  absl::InlinedVector<uint64_t, 32> cookies;
  for (const Claim& claim : claims) {
    keys.push_back(targets[claim.target].flow);
    cookies.push_back(targets[claim.target].cookie);
  }
  for (size_t done = 0; done < claims.size();) {
    const size_t written = map_->Write(absl::MakeConstSpan(keys).subspan(done),
                                       absl::MakeConstSpan(cookies).subspan(done));
    for (const size_t end = done + written; done < end; ++done) {
      SettleWrite(claims[done], true, cookies[done], now_ns);
      results[claims[done].target] = PutResult::kStands;
    }
    if (done == claims.size()) break;
    SettleWrite(claims[done], false, 0, now_ns);
    results[claims[done].target] = PutResult::kFailed;
    Count(failed_);
    ++done;
  }
}

// Ends the busy state as the map has it now (A, B): written, or as it was before.
void FlowIndex::SettleWrite(const Claim& claim, bool written, uint64_t cookie, int64_t now_ns) {
  Shard& shard = *claim.shard;
  const std::lock_guard lock(shard.mutex);
  Entry& entry = entries_[claim.entry];
  if (written) {
    Count(entry.stands ? rewritten_ : inserted_);
    entry.stands = true;
    entry.cookie = cookie;
    entry.last_used_ns = std::max(entry.last_used_ns, now_ns);
  }
  if (entry.stands) {
    EndBusy(shard, claim.entry);
  } else {
    Drop(shard, claim.entry);
  }
  shard.busy_ended.notify_all();
}

void FlowIndex::WaitWhileBusy(const FlowKey& flow) {
  const size_t hash = FlowEntries::Hash(flow);
  Shard& shard = ShardOf(hash);
  std::unique_lock lock(shard.mutex);
  shard.busy_ended.wait(lock, [&] {
    const EntryRef ref = entries_.Find(flow, hash);
    return ref == kNone || !entries_[ref].busy;
  });
}

// The least recently used entry of one of a shard's lists.
struct FlowIndex::Head {
  int64_t last_used_ns;
  Shard* shard;
  EntryList* list;
  bool operator>(const Head& other) const { return last_used_ns > other.last_used_ns; }
};

// Evicts `wanted` entries, or a few more so that the walk over all shards is not made for each,
// least recently used first over all shards. Returns how many have gone.
size_t FlowIndex::Evict(size_t wanted, int64_t now_ns) {
  std::priority_queue<Head, std::vector<Head>, std::greater<>> heads;
  for (Shard& shard : shards_) {
    const std::lock_guard lock(shard.mutex);
    for (EntryList* list : {&shard.tcp, &shard.udp, &shard.whole_tcp, &shard.whole_udp}) {
      if (!list->empty()) heads.push({entries_[list->front()].last_used_ns, &shard, list});
    }
  }
  wanted = std::max<size_t>(wanted, options_.max_flows / 4096);
  Claims claims;
  while (claims.size() < wanted && !heads.empty()) {
    const Head head = heads.top();
    heads.pop();
    if (now_ns - head.last_used_ns < options_.evict_idle_ns) break;
    const std::lock_guard lock(head.shard->mutex);
    EntryList& list = *head.list;
    // Where the entry has been used or erased meanwhile, the next takes its place in the order.
    if (!list.empty() && entries_[list.front()].last_used_ns == head.last_used_ns) {
      const EntryRef entry = list.front();
      MakeBusy(*head.shard, entry);
      claims.push_back({.shard = head.shard, .entry = entry, .target = 0});
    }
    if (!list.empty()) heads.push({entries_[list.front()].last_used_ns, head.shard, &list});
  }
  const size_t evicted = Erase(claims, now_ns);
  Count(evicted_, evicted);
  return evicted;
}

void FlowIndex::Remove(const FlowKey& flow, int64_t now_ns) {
  const size_t hash = FlowEntries::Hash(flow);
  Shard& shard = ShardOf(hash);
  Claims claims;
  while (claims.empty()) {
    std::unique_lock lock(shard.mutex);
    const EntryRef entry = entries_.Find(flow, hash);
    if (entry == kNone) return;
    if (entries_[entry].busy) {
      lock.unlock();
      WaitWhileBusy(flow);
      continue;
    }
    MakeBusy(shard, entry);
    claims.push_back({.shard = &shard, .entry = entry, .target = 0});
  }
  Count(removed_, Erase(claims, now_ns));
}

void FlowIndex::Expire(int64_t now_ns) {
  for (Shard& shard : shards_) {
    ExpireList(shard, shard.tcp, now_ns - options_.tcp_lifetime_ns, now_ns);
    ExpireList(shard, shard.udp, now_ns - options_.udp_lifetime_ns, now_ns);
    ExpireList(shard, shard.whole_tcp, now_ns - options_.whole_tcp_lifetime_ns, now_ns);
    ExpireList(shard, shard.whole_udp, now_ns - options_.whole_udp_lifetime_ns, now_ns);
  }
}

void FlowIndex::ExpireList(Shard& shard, EntryList& list, int64_t used_before_ns, int64_t now_ns) {
  Claims claims;
  do {
    claims.clear();
    {
      const std::lock_guard lock(shard.mutex);
      while (!list.empty() && claims.size() < kEraseBatch &&
             entries_[list.front()].last_used_ns <= used_before_ns) {
        const EntryRef entry = list.front();
        MakeBusy(shard, entry);
        claims.push_back({.shard = &shard, .entry = entry, .target = 0});
      }
    }
    Count(expired_, Erase(claims, now_ns));
  } while (claims.size() == kEraseBatch);
}

// Returns how many have gone.
size_t FlowIndex::Erase(const Claims& claims, int64_t now_ns) {
  absl::InlinedVector<FlowKey, 32> keys;
  for (const Claim& claim : claims) keys.push_back(entries_[claim.entry].flow);
  size_t gone = 0;
  for (size_t done = 0; done < claims.size();) {
    const size_t erased = map_->Erase(absl::MakeConstSpan(keys).subspan(done));
    gone += erased;
    for (const size_t end = done + erased; done < end; ++done) {
      SettleErase(claims[done], true, now_ns);
    }
    if (done == claims.size()) break;
    SettleErase(claims[done++], false, now_ns);
    Count(erase_failed_);
  }
  return gone;
}

// An entry that could not be erased still stands (A). It counts as used now, lest it be tried
// again at once, and for ever.
void FlowIndex::SettleErase(const Claim& claim, bool erased, int64_t now_ns) {
  Shard& shard = *claim.shard;
  const std::lock_guard lock(shard.mutex);
  if (erased) {
    Drop(shard, claim.entry);
  } else {
    Entry& entry = entries_[claim.entry];
    entry.last_used_ns = std::max(entry.last_used_ns, now_ns);
    EndBusy(shard, claim.entry);
  }
  shard.busy_ended.notify_all();
}

FlowIndex::Stats FlowIndex::stats() const {
  const auto read = [](const auto& counter) { return counter.load(std::memory_order_relaxed); };
  return {.entries = entries_.taken(),
          .inserted = read(inserted_),
          .rewritten = read(rewritten_),
          .refreshed = read(refreshed_),
          .expired = read(expired_),
          .evicted = read(evicted_),
          .removed = read(removed_),
          .full = read(full_),
          .failed = read(failed_),
          .erase_failed = read(erase_failed_)};
}

}  // namespace utproxy
