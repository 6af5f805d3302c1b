// SPDX-License-Identifier: GPL-3.0-or-later
//
// What readers do beyond the common lookup. Letters are those of utproxy/socket_table_core.h.
#include <algorithm>
#include <array>
#include <cstring>

#include "utproxy/socket_table_core.h"

namespace utproxy {

using table_internal::Copy;
using table_internal::Entry;
using table_internal::FirstOf;
using table_internal::IsOf;
using table_internal::Load;
using table_internal::Match;
using table_internal::TagOf;
using table_internal::Unchanged;
using table_internal::UsedOf;

namespace {

// Of two with one cookie, an old and a new state of one socket, each lookup has to take the same
// one; so the rest of their contents decides.
bool Before(const Socket& a, const Socket& b) {
  if (a.order != b.order) return a.order < b.order;
  if (a.cookie != b.cookie) return a.cookie < b.cookie;
  return std::memcmp(&a, &b, sizeof(a)) < 0;
}

// Leaves one of each key and cookie. (E)
template <class Sockets>
void KeepOneOfEach(Sockets* sockets, typename Sockets::iterator first) {
  const auto identity = [](const Socket& s) { return std::pair(s.cookie, s.key()); };
  const auto less = [&](const Socket& a, const Socket& b) {
    if (a.cookie != b.cookie) return a.cookie < b.cookie;
    const FlowKey ka = a.key(), kb = b.key();
    const int keys = std::memcmp(&ka, &kb, sizeof(ka));
    return keys != 0 ? keys < 0 : Before(a, b);
  };
  std::sort(first, sockets->end(), less);
  const auto same = [&](const Socket& a, const Socket& b) { return identity(a) == identity(b); };
  sockets->erase(std::unique(first, sockets->end(), same), sockets->end());
}

}  // namespace

// Calls visit(place) for the chain's buckets; false where the chain changed on the way, so that
// what was visited means nothing. The stamp is checked around each link, as one read from a
// follower that was reused could lead round for ever.
template <class Visit>
bool SocketTableCore::WalkChain(const Place& head, uint64_t stamp, Visit visit) const {
  for (Place place = head;;) {
    visit(place);
    const uint64_t link = Load(place.bucket->link);  // (A) (B)
    if (!Unchanged(*head.bucket, stamp)) return false;
    if (table_internal::NumberOf(link) == 0) return true;
    place = Follower(link);
  }
}

// Calls attempt(array, head, stamp) with a live head of `hash` until it returns true.
template <class Try>
void SocketTableCore::InLiveArray(uint32_t hash, Try attempt) const {
  for (;;) {
    for (const std::atomic<const Array*>* named : {&root_, &previous_}) {
      const Array* const array = Load(*named);  // (D)
      if (array == nullptr) continue;
      const Place head = array->At(array->IndexOf(hash));
      const uint64_t stamp = Load(head.bucket->stamp);  // (C) first load
      if (stamp != 0 && attempt(*array, head, stamp)) return;
    }
  }
}

// Calls restart() and then visit(socket) for each of the key, until they were all there together.
template <class Restart, class Visit>
void SocketTableCore::VisitMatches(uint32_t hash, const FlowKey& key, Restart restart,
                                   Visit visit) const {
  InLiveArray(hash, [&](const Array&, const Place& head, uint64_t stamp) {
    restart();
    return WalkChain(head, stamp, [&](const Place& place) {
      for (uint32_t m = Match(*place.bucket, TagOf(hash)); m != 0; m &= m - 1) {
        const Entry& entry = place.entries[FirstOf(m)];
        if (IsOf(entry, key)) visit(Copy(entry));
      }
    });
  });
}

std::optional<Socket> SocketTableCore::FindOneSlow(uint32_t hash, const FlowKey& key) const {
  std::optional<Socket> first;
  const auto keep_first = [&](const Socket& socket) {
    if (!first || Before(socket, *first)) first = socket;
  };
  VisitMatches(
      hash, key, [&] { first.reset(); }, keep_first);
  return first;
}

void SocketTableCore::FindAll(uint32_t hash, const FlowKey& key,
                              absl::InlinedVector<Socket, 8>* out) const {
  VisitMatches(
      hash, key, [out] { out->clear(); }, [out](const Socket& s) { out->push_back(s); });
  if (out->size() < 2) return;
  KeepOneOfEach(out, out->begin());
  std::sort(out->begin(), out->end(), Before);
}

// Adds the chain's sockets of hashes from `first_hash` on; false, and nothing added, where it
// changed on the way.
bool SocketTableCore::SnapshotChain(const Place& head, uint64_t stamp, uint64_t first_hash,
                                    std::vector<Socket>* out) const {
  const size_t before = out->size();
  const bool valid = WalkChain(head, stamp, [&](const Place& place) {
    for (uint32_t m = UsedOf(*place.bucket); m != 0; m &= m - 1) {
      out->push_back(Copy(place.entries[FirstOf(m)]));
    }
  });
  const auto first = out->begin() + static_cast<ptrdiff_t>(before);
  if (!valid) {
    out->erase(first, out->end());
    return false;
  }
  const auto seen = [&](const Socket& s) { return hash_(s.key()) < first_hash; };
  if (first_hash != 0) out->erase(std::remove_if(first, out->end(), seen), out->end());
  KeepOneOfEach(out, first);
  return true;
}

// Buckets are in the order of hashes whatever the array, so a copy that was overtaken by a rebuild
// goes on in the new array from the first hash it has not seen.
void SocketTableCore::Snapshot(std::vector<Socket>* out) const {
  out->clear();
  out->reserve(size());
  for (uint64_t first_hash = 0; first_hash >> 32 == 0;) {
    const auto hash = static_cast<uint32_t>(first_hash);
    InLiveArray(hash, [&](const Array& array, const Place& head, uint64_t stamp) {
      const uint64_t index = array.IndexOf(hash);
      const bool from_start = array.FirstHash(index) == first_hash;
      if (!SnapshotChain(head, stamp, from_start ? 0 : first_hash, out)) return false;
      first_hash = array.FirstHash(index + 1);
      return true;
    });
  }
}

SocketTableStats SocketTableCore::stats() const {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  constexpr size_t kBucketBytes = sizeof(Bucket) + table_internal::kSlots * sizeof(Entry);
  SocketTableStats s;
  s.size = size_.load(kRelaxed);
  s.max_sockets = max_sockets_;
  s.buckets = root_.load(std::memory_order_acquire)->count;
  s.overflow_buckets = followers_used_.load(kRelaxed);
  s.bytes = sizeof(*this) + (s.buckets + followers_end_.load(kRelaxed)) * kBucketBytes;
  s.rejected = rejected_.load(kRelaxed);
  s.rebuilds = rebuilds_.load(kRelaxed);
  return s;
}

}  // namespace utproxy
