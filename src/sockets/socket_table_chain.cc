// SPDX-License-Identifier: GPL-3.0-or-later
//
// How the table's writer changes a chain. Letters are those of utproxy/socket_table_core.h.
//
// A chain is kept dense: a bucket that has a follower is full, and so is each follower but the
// last, which is not empty and is filled from the front. Only a head without follower may have an
// empty slot before a used one. Nothing stands for what was erased, so nothing has to be swept.
#include <set>

#include "sockets/socket_table_writer.h"

namespace utproxy {

using table_internal::Bucket;
using table_internal::Copy;
using table_internal::Entry;
using table_internal::FilterBit;
using table_internal::FirstOf;
using table_internal::FollowersMayHave;
using table_internal::IsOf;
using table_internal::LastOf;
using table_internal::Match;
using table_internal::NumberOf;
using table_internal::Place;
using table_internal::SocketWords;
using table_internal::Store;
using table_internal::TagOf;
using table_internal::UsedOf;

namespace {

constexpr int kCookieWord = offsetof(Socket, cookie) / 8;
static_assert(offsetof(Socket, cookie) % 8 == 0);

uint8_t TagAt(const Bucket& bucket, int slot) {
  return static_cast<uint8_t>(bucket.tags[slot / 8] >> slot % 8 * 8);
}
void SetTag(Bucket* bucket, int slot, uint64_t tag) {
  uint64_t& word = bucket->tags[slot / 8];
  const int shift = slot % 8 * 8;
  Store(word, (word & ~(uint64_t{0xff} << shift)) | tag << shift);
}

// Into an empty slot. Visible where the bucket is.
void Fill(const Place& place, int slot, uint64_t tag, const Socket& socket) {
  const auto words = std::bit_cast<SocketWords>(socket);
  Entry& entry = place.entries[slot];
  for (size_t i = 0; i < words.size(); ++i) Store(entry.words[i], words[i]);  // (A) (B)
  SetTag(place.bucket, slot, tag);                                            // (A)
}

}  // namespace

std::optional<SocketTableCore::Position> SocketTableCore::Locate(const Place& head, uint32_t hash,
                                                                 const FlowKey& key,
                                                                 uint64_t cookie) const {
  for (Place place = head;; place = Follower(place.bucket->link)) {
    for (uint32_t m = Match(*place.bucket, TagOf(hash)); m != 0; m &= m - 1) {
      const Entry& entry = place.entries[FirstOf(m)];
      if (IsOf(entry, key) && entry.words[kCookieWord] == cookie) {
        return Position{place, FirstOf(m)};
      }
    }
    if (NumberOf(place.bucket->link) == 0) return std::nullopt;
  }
}

// Empty, and the last of its chain.
SocketTableCore::Place SocketTableCore::NewFollower() {
  std::set<uint64_t>& free = writer_->free_followers;
  const uint64_t number = free.empty() ? writer_->next_follower : *free.begin();
  if (!free.empty()) {
    free.erase(free.begin());
  } else if (++writer_->next_follower > followers_end_.load(std::memory_order_relaxed)) {
    followers_end_.store(writer_->next_follower, std::memory_order_relaxed);
  }
  Store(followers_[number].link, 0);                              // (B)
  for (uint64_t& tags : followers_[number].tags) Store(tags, 0);  // (B)
  followers_used_.store(followers_used_.load(std::memory_order_relaxed) + 1,
                        std::memory_order_relaxed);
  return Follower(number);
}

// Only after the stamp that follows its unlinking.
void SocketTableCore::FreeFollower(const Place& follower) {
  std::set<uint64_t>& free = writer_->free_followers;
  free.insert(LinkTo(follower));
  while (!free.empty() && *free.rbegin() + 1 == writer_->next_follower) {
    free.erase(--free.end());
    --writer_->next_follower;
  }
  followers_used_.store(followers_used_.load(std::memory_order_relaxed) - 1,
                        std::memory_order_relaxed);
}

// The upper half of the link of a head that has followers.
uint64_t SocketTableCore::FilterOf(const Bucket& head) const {
  uint64_t filter = 0;
  for (uint64_t link = head.link; NumberOf(link) != 0; link = Follower(link).bucket->link) {
    const Bucket& bucket = *Follower(link).bucket;
    for (uint32_t m = UsedOf(bucket); m != 0; m &= m - 1) {
      filter |= FilterBit(TagAt(bucket, FirstOf(m)));
    }
  }
  return filter;
}

// Adds a socket to a chain. The caller stamps.
void SocketTableCore::Append(const Place& head, uint8_t tag, const Socket& socket) {
  Place tail = head;
  while (NumberOf(tail.bucket->link) != 0) tail = Follower(tail.bucket->link);
  const uint32_t empty = Match(*tail.bucket, 0);
  if (empty != 0) {
    if (tail.bucket != head.bucket) AddToFilter(head, tag);
    Fill(tail, FirstOf(empty), tag, socket);  // (A)
    return;
  }
  const Place added = NewFollower();
  Fill(added, 0, tag, socket);
  if (tail.bucket == head.bucket) {
    Store(head.bucket->link, LinkTo(added) | FilterBit(tag));  // (A) (F)
  } else {
    AddToFilter(head, tag);
    Store(tail.bucket->link, LinkTo(added));  // (A)
  }
}

// (F) Of a head that has followers.
void SocketTableCore::AddToFilter(const Place& head, uint8_t tag) {
  if (FollowersMayHave(head.bucket->link, tag)) return;
  Store(head.bucket->link, head.bucket->link | FilterBit(tag));
  // A head that is not live yet stays so.
  if (head.bucket->stamp != 0) Touch(head);
}

// Empties a slot, fills the gap from the chain's end, and frees what has become unused.
void SocketTableCore::Remove(const Place& head, const Position& position) {
  SetTag(position.place.bucket, position.slot, 0);
  Touch(head);  // (B)
  if (NumberOf(head.bucket->link) != 0) CloseGap(head, position);
}

void SocketTableCore::CloseGap(const Place& head, const Position& gap) {
  Place before = head;
  Place tail = Follower(head.bucket->link);
  while (NumberOf(tail.bucket->link) != 0) {
    before = tail;
    tail = Follower(tail.bucket->link);
  }
  if (const uint32_t used = UsedOf(*tail.bucket); used != 0) {
    const int last = LastOf(used);
    if (gap.place.bucket != tail.bucket || gap.slot < last) {
      Fill(gap.place, gap.slot, TagAt(*tail.bucket, last), Copy(tail.entries[last]));  // (A)
      Touch(head);                                                                     // (E)
      SetTag(tail.bucket, last, 0);
      Touch(head);  // (B)
    }
    if (UsedOf(*tail.bucket) != 0) return;
  }
  Store(before.bucket->link, 0);
  Touch(head);  // (B)
  FreeFollower(tail);
  if (before.bucket != head.bucket) {
    Store(head.bucket->link, NumberOf(head.bucket->link) | FilterOf(*head.bucket));  // (F)
    Touch(head);                                                                     // (B)
  }
}

// (B) Gives the chain a stamp that no chain has had.
void SocketTableCore::Touch(const Place& head) { Store(head.bucket->stamp, ++writer_->stamp); }

}  // namespace utproxy
