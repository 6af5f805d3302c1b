// SPDX-License-Identifier: GPL-3.0-or-later
//
// The writer's half of the table. Letters are those of utproxy/socket_table_core.h.
//
// A chain is kept dense: a bucket that has a follower is full, and so is each follower but the
// last, which is not empty and is filled from the front. Only a head without follower may have an
// empty slot before a used one. Chains of k sockets have at most k / 8 followers, so twice
// max_sockets / 8 are enough for two arrays at once, whatever the hashes are.
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "sockets/reservation.h"
#include "utproxy/socket_table_core.h"

namespace utproxy {

using table_internal::Bucket;
using table_internal::EntryOf;
using table_internal::FirstOf;
using table_internal::HashAt;
using table_internal::kProtoWord;
using table_internal::kSlots;
using table_internal::LaneShift;
using table_internal::LaneWord;
using table_internal::LastOf;
using table_internal::Load;
using table_internal::MakeIndex;
using table_internal::Match;
using table_internal::SocketWords;
using table_internal::Store;
using table_internal::TagOf;
using table_internal::UsedOf;

namespace {

// One entry more is needed, see Create.
constexpr size_t kMaxSockets = (size_t{1} << table_internal::kIndexBits) - 1;
// Sockets a bucket at which the array doubles; one in fifty chains then has a follower.
constexpr size_t kGrowLoad = 4;
// Sockets a bucket below which it is halved: neither follows soon on the other.
constexpr size_t kShrinkLoad = 1;
// 256 buckets: a bucket's place tells the hash bits that its slots do not hold.
constexpr uint32_t kMaxShift = 24;

constexpr size_t BucketCount(uint32_t shift) { return size_t{1} << (32 - shift); }

// The smallest array that need not grow for `sockets`.
constexpr uint32_t ShiftFor(size_t sockets) {
  uint32_t shift = kMaxShift;
  while (BucketCount(shift) * kGrowLoad < sockets) --shift;
  return shift;
}

void SetTag(Bucket* bucket, int slot, uint64_t tag) {
  uint64_t& word = LaneWord(*bucket, slot);
  Store(word, (word & ~(uint64_t{0xffff} << LaneShift(slot))) | tag << LaneShift(slot));
}

// Into an empty slot.
void Fill(Bucket* bucket, int slot, uint32_t hash, uint32_t entry) {
  Store(bucket->indices[slot], MakeIndex(hash, entry));  // (A)
  SetTag(bucket, slot, TagOf(hash));                     // (A)
}

void Clear(Bucket* bucket, int slot) { SetTag(bucket, slot, 0); }

}  // namespace

struct SocketTableCore::Writer {
  Reservation heads;
  Reservation followers;
  Reservation entries;
  size_t max_sockets = 0;
  uint64_t stamp = 0;
  uint32_t free_entry = 0;     // index + 1 of the first of a list through the entries' word 0
  uint32_t free_follower = 0;  // link of the first of a list through the followers' links
};

absl::StatusOr<std::unique_ptr<SocketTableCore>> SocketTableCore::Create(size_t max_sockets) {
  if (max_sockets == 0 || max_sockets > kMaxSockets) {
    return absl::InvalidArgumentError(absl::StrCat("socket table: max_sockets ", max_sockets,
                                                   " is not between 1 and ", kMaxSockets));
  }
  auto writer = std::make_unique<Writer>();
  writer->max_sockets = max_sockets;
  const size_t buckets = 2 * BucketCount(ShiftFor(max_sockets));
  ASSIGN_OR_RETURN(writer->heads,
                   Reservation::Create(buckets * sizeof(Bucket), "the socket table's buckets"));
  const size_t followers = 2 * (max_sockets / kSlots) + 1;
  ASSIGN_OR_RETURN(writer->followers,
                   Reservation::Create(followers * sizeof(Bucket), "the socket table's overflow"));
  // One more than sockets, as a replacement is written before the replaced is freed.
  ASSIGN_OR_RETURN(writer->entries, Reservation::Create((max_sockets + 1) * sizeof(Entry),
                                                        "the socket table's entries"));
  return std::unique_ptr<SocketTableCore>(new SocketTableCore(std::move(writer)));
}

SocketTableCore::SocketTableCore(std::unique_ptr<Writer> writer)
    : heads_(reinterpret_cast<Bucket*>(writer->heads.data())),
      followers_(reinterpret_cast<Bucket*>(writer->followers.data())),
      entries_(reinterpret_cast<Entry*>(writer->entries.data())),
      max_sockets_(writer->max_sockets),
      root_shift_(kMaxShift),
      writer_(std::move(writer)) {
  StampAll(kMaxShift);
}

SocketTableCore::~SocketTableCore() = default;

absl::Status SocketTableCore::Upsert(uint32_t hash, const Socket& socket) {
  if (socket.proto != Proto::kTcp && socket.proto != Proto::kUdp) {
    return absl::InvalidArgumentError(absl::StrCat(
        "socket table: protocol ", static_cast<int>(socket.proto), " is neither TCP nor UDP"));
  }
  if (const auto position = Locate(hash, socket.key(), socket.cookie)) {
    uint32_t& index = position->bucket->indices[position->slot];
    const uint32_t old = EntryOf(index);
    // A dump repeats what is known; readers' caches are left alone.
    if (At(old) == socket) return absl::OkStatus();
    Store(index, MakeIndex(hash, NewEntry(socket)));  // (A)
    Touch(position->head);                            // (B)
    FreeEntry(old);
    return absl::OkStatus();
  }
  const size_t size = this->size();
  if (size == max_sockets_) {
    rejected_.store(rejected_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return absl::ResourceExhaustedError(
        absl::StrCat("socket table: all ", max_sockets_, " places are taken"));
  }
  if (size + 1 > kGrowLoad * bucket_count())
    Rebuild(root_shift_.load(std::memory_order_relaxed) - 1);
  Bucket* head = HeadAt(hash, root_shift_.load(std::memory_order_relaxed));
  Append(head, hash, NewEntry(socket));  // (A)
  Touch(head);                           // (B)
  size_.store(size + 1, std::memory_order_relaxed);
  return absl::OkStatus();
}

bool SocketTableCore::Erase(uint32_t hash, const FlowKey& key, uint64_t cookie) {
  if (!EraseInPlace(hash, key, cookie)) return false;
  ShrinkIfSparse();
  return true;
}

bool SocketTableCore::EraseInPlace(uint32_t hash, const FlowKey& key, uint64_t cookie) {
  const auto position = Locate(hash, key, cookie);
  if (!position) return false;
  Remove(*position);
  size_.store(size() - 1, std::memory_order_relaxed);
  return true;
}

std::optional<Socket> SocketTableCore::At(size_t index) const {
  const Entry& entry = entries_[index];
  if (Load(entry.words[kProtoWord]) == 0) return std::nullopt;
  return Copy(entry);
}

std::optional<SocketTableCore::Position> SocketTableCore::Locate(uint32_t hash, const FlowKey& key,
                                                                 uint64_t cookie) const {
  Bucket* head = HeadAt(hash, root_shift_.load(std::memory_order_relaxed));
  for (Bucket* bucket = head;; bucket = &followers_[bucket->link]) {
    for (uint64_t m = Match(*bucket, TagOf(hash)); m != 0; m &= m - 1) {
      Socket socket;
      const int slot = FirstOf(m);
      if (CopyIfKey(entries_[EntryOf(bucket->indices[slot])], key, &socket) &&
          socket.cookie == cookie) {
        return Position{head, bucket, slot};
      }
    }
    if (bucket->link == 0) return std::nullopt;
  }
}

uint32_t SocketTableCore::NewEntry(const Socket& socket) {
  uint32_t index;
  if (writer_->free_entry != 0) {
    index = writer_->free_entry - 1;
    writer_->free_entry = static_cast<uint32_t>(entries_[index].words[0]);
  } else {
    index = static_cast<uint32_t>(slab_end());
    slab_end_.store(index + 1, std::memory_order_relaxed);
  }
  const auto words = std::bit_cast<SocketWords>(socket);
  for (size_t i = 0; i < words.size(); ++i) Store(entries_[index].words[i], words[i]);  // (A) (B)
  return index;
}

// Only after the stamp that follows its removal. A free entry is one whose word with the protocol
// is 0.
void SocketTableCore::FreeEntry(uint32_t entry) {
  Store(entries_[entry].words[kProtoWord], uint64_t{0});           // (B)
  Store(entries_[entry].words[0], uint64_t{writer_->free_entry});  // (B)
  writer_->free_entry = entry + 1;
}

uint32_t SocketTableCore::NewFollower() {
  uint32_t link = writer_->free_follower;
  if (link != 0) {
    writer_->free_follower = static_cast<uint32_t>(followers_[link].link);
  } else {
    link = static_cast<uint32_t>(followers_end_.load(std::memory_order_relaxed));
    followers_end_.store(link + 1, std::memory_order_relaxed);
  }
  Bucket& follower = followers_[link];
  Store(follower.link, uint64_t{0});                              // (B)
  for (uint64_t& tags : follower.tags) Store(tags, uint64_t{0});  // (B)
  followers_used_.store(followers_used_.load(std::memory_order_relaxed) + 1,
                        std::memory_order_relaxed);
  return link;
}

// Only after the stamp that follows its unlinking.
void SocketTableCore::FreeFollower(uint64_t link) {
  Store(followers_[link].link, uint64_t{writer_->free_follower});  // (B)
  writer_->free_follower = static_cast<uint32_t>(link);
  followers_used_.store(followers_used_.load(std::memory_order_relaxed) - 1,
                        std::memory_order_relaxed);
}

// Adds an entry to a chain; what readers see of that is the last store. The caller stamps.
void SocketTableCore::Append(Bucket* head, uint32_t hash, uint32_t entry) {
  Bucket* bucket = head;
  while (bucket->link != 0) bucket = &followers_[bucket->link];
  if (const uint64_t empty = Match(*bucket, 0); empty != 0) {
    Fill(bucket, FirstOf(empty), hash, entry);  // (A)
    return;
  }
  const uint32_t link = NewFollower();
  Fill(&followers_[link], 0, hash, entry);
  Store(bucket->link, uint64_t{link});  // (A)
}

// Removes a slot, fills the gap from the chain's end, and frees what has become unused.
void SocketTableCore::Remove(const Position& position) {
  Bucket* const head = position.head;
  const uint32_t erased = EntryOf(position.bucket->indices[position.slot]);
  Clear(position.bucket, position.slot);
  Touch(head);  // (B)
  FreeEntry(erased);
  if (head->link == 0) return;

  Bucket* before_tail = head;
  while (followers_[before_tail->link].link != 0) before_tail = &followers_[before_tail->link];
  Bucket* const tail = &followers_[before_tail->link];
  if (const uint64_t used = UsedOf(*tail); used != 0) {
    const int last = LastOf(used);
    const bool gap_before = position.bucket != tail || position.slot < last;
    if (gap_before) {
      Fill(position.bucket, position.slot, HashAt(0, *tail, last), EntryOf(tail->indices[last]));
      Touch(head);  // (E)
      Clear(tail, last);
      Touch(head);  // (B)
    }
    if (UsedOf(*tail) != 0) return;
  }
  const uint64_t unlinked = before_tail->link;
  Store(before_tail->link, uint64_t{0});
  Touch(head);  // (B)
  FreeFollower(unlinked);
}

// (B) Gives the chain a stamp that no chain has had.
void SocketTableCore::Touch(Bucket* head) { Store(head->stamp, ++writer_->stamp); }

size_t SocketTableCore::bucket_count() const {
  return BucketCount(root_shift_.load(std::memory_order_relaxed));
}

void SocketTableCore::ShrinkIfSparse() {
  uint32_t shift = root_shift_.load(std::memory_order_relaxed);
  while (shift < kMaxShift && size() < kShrinkLoad * BucketCount(shift)) ++shift;
  if (shift != root_shift_.load(std::memory_order_relaxed)) Rebuild(shift);
}

// (D) Fills the array of `new_shift`, publishes it, and retires the old one. A smaller one leaves
// no entries at the end of the slab either.
void SocketTableCore::Rebuild(uint32_t new_shift) {
  const uint32_t old_shift = root_shift_.load(std::memory_order_relaxed);
  const bool compact = new_shift > old_shift;
  FillFrom(old_shift, new_shift, compact);
  root_shift_.store(new_shift, std::memory_order_release);  // (D)
  for (size_t i = 0; i < BucketCount(old_shift); ++i) Retire(&heads_[BucketCount(old_shift) + i]);
  const size_t old_bytes = BucketCount(old_shift) * sizeof(Bucket);
  writer_->heads.GiveBack(old_bytes, old_bytes);
  if (compact) {
    const size_t end = slab_end();
    slab_end_.store(size(), std::memory_order_relaxed);
    writer_->free_entry = 0;
    writer_->entries.GiveBack(size() * sizeof(Entry), (end - size()) * sizeof(Entry));
  }
  rebuilds_.store(rebuilds_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

// Chains of the old array, in the order of their hashes, fill those of the new, whose stamps are 0
// until all is there. Where `compact`, entries behind the size()-th are copied to free ones
// before; those are just enough.
void SocketTableCore::FillFrom(uint32_t old_shift, uint32_t new_shift, bool compact) {
  size_t next_free = 0;
  const auto place = [&](uint32_t entry) {
    if (!compact || entry < size()) return entry;
    while (entries_[next_free].words[kProtoWord] != 0) ++next_free;
    Entry& to = entries_[next_free];
    for (int i = 0; i < 8; ++i) Store(to.words[i], entries_[entry].words[i]);  // (A)
    return static_cast<uint32_t>(next_free);
  };
  for (uint64_t first_hash = 0; first_hash >> 32 == 0; first_hash += uint64_t{1} << old_shift) {
    const auto neighbour = static_cast<uint32_t>(first_hash);
    for (const Bucket* b = HeadAt(neighbour, old_shift);; b = &followers_[b->link]) {
      for (uint64_t m = UsedOf(*b); m != 0; m &= m - 1) {
        const uint32_t hash = HashAt(neighbour, *b, FirstOf(m));
        Append(HeadAt(hash, new_shift), hash, place(EntryOf(b->indices[FirstOf(m)])));
      }
      if (b->link == 0) break;
    }
  }
  StampAll(new_shift);
}

void SocketTableCore::StampAll(uint32_t shift) {
  for (size_t i = BucketCount(shift); i < 2 * BucketCount(shift); ++i) Touch(&heads_[i]);
}

// (D) Takes a chain out of use, and leaves zeroes for the array's next life.
void SocketTableCore::Retire(Bucket* head) {
  uint64_t link = head->link;
  Store(head->stamp, uint64_t{0});  // (D) (B)
  Store(head->link, uint64_t{0});
  for (uint64_t& tags : head->tags) Store(tags, uint64_t{0});
  while (link != 0) {
    const uint64_t next = followers_[link].link;
    FreeFollower(link);
    link = next;
  }
}

}  // namespace utproxy
