// SPDX-License-Identifier: GPL-3.0-or-later
//
// What readers do beyond the common lookup. Letters are those of utproxy/socket_table_core.h.
#include <algorithm>

#include "utproxy/socket_table_core.h"

namespace utproxy {

using table_internal::EntryOf;
using table_internal::FirstOf;
using table_internal::HashAt;
using table_internal::Load;
using table_internal::Match;
using table_internal::TagOf;
using table_internal::UsedOf;

namespace {

bool Before(const Socket& a, const Socket& b) {
  return a.order != b.order ? a.order < b.order : a.cookie < b.cookie;
}

bool SameSocket(const Socket& a, const Socket& b) { return a.cookie == b.cookie; }

}  // namespace

// Calls visit(bucket) for the chain's buckets; false where the chain changed on the way, so that
// what was visited means nothing. The stamp is checked around each link, as one read from a
// follower that was reused could lead round for ever.
template <class Visit>
bool SocketTableCore::WalkChain(const Bucket& head, uint64_t stamp, Visit visit) const {
  const Bucket* bucket = &head;
  for (;;) {
    visit(*bucket);
    const uint64_t link = Load(bucket->link);     // (A) (B)
    if (Load(head.stamp) != stamp) return false;  // (C) second load
    if (link == 0) return true;
    bucket = &followers_[link];
  }
}

void SocketTableCore::FindOneSlow(uint32_t hash, const FlowKey& key,
                                  std::optional<Socket>* out) const {
  for (bool valid = false; !valid;) {
    out->reset();
    const Bucket* head = Head(hash);
    const uint64_t stamp = Load(head->stamp);  // (C) first load
    if (stamp == 0) continue;                  // (D)
    valid = WalkChain(*head, stamp, [&](const Bucket& bucket) {
      for (uint64_t m = Match(bucket, TagOf(hash)); m != 0; m &= m - 1) {
        Socket socket;
        const uint32_t entry = EntryOf(Load(bucket.indices[FirstOf(m)]));  // (A)
        if (!CopyIfKey(entries_[entry], key, &socket)) continue;
        if (!out->has_value() || Before(socket, **out)) *out = socket;
      }
    });
  }
}

void SocketTableCore::FindAll(uint32_t hash, const FlowKey& key,
                              absl::InlinedVector<Socket, 8>* out) const {
  for (bool valid = false; !valid;) {
    out->clear();
    const Bucket* head = Head(hash);
    const uint64_t stamp = Load(head->stamp);  // (C) first load
    if (stamp == 0) continue;                  // (D)
    valid = WalkChain(*head, stamp, [&](const Bucket& bucket) {
      for (uint64_t m = Match(bucket, TagOf(hash)); m != 0; m &= m - 1) {
        Socket socket;
        const uint32_t entry = EntryOf(Load(bucket.indices[FirstOf(m)]));  // (A)
        if (CopyIfKey(entries_[entry], key, &socket)) out->push_back(socket);
      }
    });
  }
  if (out->size() < 2) return;
  std::sort(out->begin(), out->end(), Before);
  out->erase(std::unique(out->begin(), out->end(), SameSocket), out->end());  // (E)
}

// Adds the sockets, from `first_hash` on, of the chain that it belongs to in the array of `shift`;
// false, and nothing added, where that chain changed on the way.
bool SocketTableCore::SnapshotChain(uint32_t first_hash, uint32_t shift,
                                    std::vector<Socket>* out) const {
  const Bucket& head = *HeadAt(first_hash, shift);
  const uint64_t stamp = Load(head.stamp);  // (C) first load
  if (stamp == 0) return false;             // (D)
  absl::InlinedVector<uint32_t, 16> entries;
  WalkChain(head, stamp, [&](const Bucket& bucket) {
    for (uint64_t m = UsedOf(bucket); m != 0; m &= m - 1) {
      if (HashAt(first_hash, bucket, FirstOf(m)) < first_hash) continue;
      entries.push_back(EntryOf(Load(bucket.indices[FirstOf(m)])));  // (A)
    }
  });
  std::sort(entries.begin(), entries.end());
  entries.erase(std::unique(entries.begin(), entries.end()), entries.end());  // (E)
  const size_t before = out->size();
  for (const uint32_t entry : entries) out->push_back(Copy(entries_[entry]));
  if (Load(head.stamp) == stamp) return true;  // (C) second load
  out->resize(before);
  return false;
}

// Buckets are in the order of hashes whatever the array's size, so a copy that was overtaken by a
// rebuild goes on in the new array from the first hash it has not seen.
void SocketTableCore::Snapshot(std::vector<Socket>* out) const {
  out->clear();
  out->reserve(size());
  for (uint64_t first_hash = 0; first_hash >> 32 == 0;) {
    const uint32_t shift = root_shift_.load(std::memory_order_acquire);  // (D)
    if (!SnapshotChain(static_cast<uint32_t>(first_hash), shift, out)) continue;
    first_hash = ((first_hash >> shift) + 1) << shift;
  }
}

SocketTableStats SocketTableCore::stats() const {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  SocketTableStats s;
  s.size = size_.load(kRelaxed);
  s.max_sockets = max_sockets_;
  s.buckets = size_t{1} << (32 - root_shift_.load(kRelaxed));
  s.overflow_buckets = followers_used_.load(kRelaxed);
  s.bytes = sizeof(*this) + s.buckets * sizeof(Bucket) + slab_end() * sizeof(Entry) +
            followers_end_.load(kRelaxed) * sizeof(Bucket);
  s.rejected = rejected_.load(kRelaxed);
  s.rebuilds = rebuilds_.load(kRelaxed);
  return s;
}

}  // namespace utproxy
