// SPDX-License-Identifier: GPL-3.0-or-later
//
// The writer's half of the table: what its callers see, and growing and shrinking. Letters are
// those of utproxy/socket_table_core.h.
#include "sockets/socket_table_writer.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace utproxy {

using table_internal::Array;
using table_internal::Copy;
using table_internal::FirstOf;
using table_internal::kSlots;
using table_internal::NumberOf;
using table_internal::Place;
using table_internal::Store;
using table_internal::TagOf;
using table_internal::UsedOf;

namespace {

constexpr size_t kMaxSockets = (size_t{1} << 24) - 1;

}  // namespace

absl::StatusOr<std::unique_ptr<SocketTableCore>> SocketTableCore::Create(size_t max_sockets,
                                                                         HashFunction hash) {
  if (max_sockets == 0 || max_sockets > kMaxSockets) {
    return absl::InvalidArgumentError(absl::StrCat("socket table: max_sockets ", max_sockets,
                                                   " is not between 1 and ", kMaxSockets));
  }
  auto writer = std::make_unique<Writer>();
  ASSIGN_OR_RETURN(writer->memory, TableMemory::Create(max_sockets));
  return std::unique_ptr<SocketTableCore>(
      new SocketTableCore(std::move(writer), max_sockets, std::move(hash)));
}

SocketTableCore::SocketTableCore(std::unique_ptr<Writer> writer, size_t max_sockets,
                                 HashFunction hash)
    : followers_(writer->memory->followers()),
      follower_entries_(writer->memory->follower_entries()),
      max_sockets_(max_sockets),
      hash_(std::move(hash)),
      writer_(std::move(writer)) {
  const Array& array = writer_->memory->array(0);
  for (size_t i = 0; i < array.count; ++i) Touch(array.At(i));
  Store(root_, &array);
}

SocketTableCore::~SocketTableCore() = default;

absl::Status SocketTableCore::Upsert(uint32_t hash, const Socket& socket) {
  if (socket.proto != Proto::kTcp && socket.proto != Proto::kUdp) {
    return absl::InvalidArgumentError(absl::StrCat(
        "socket table: protocol ", static_cast<int>(socket.proto), " is neither TCP nor UDP"));
  }
  const Place head = HeadOf(hash);
  if (const auto old = Locate(head, hash, socket.key(), socket.cookie)) {
    // A dump repeats what is known; readers' caches are left alone.
    if (Copy(old->place.entries[old->slot]) == socket) return absl::OkStatus();
    Append(head, TagOf(hash), socket);  // (A)
    Touch(head);                        // (E)
    Remove(head, *old);
    return absl::OkStatus();
  }
  return Insert(hash, socket);
}

absl::Status SocketTableCore::Insert(uint32_t hash, const Socket& socket) {
  const size_t next = size() + 1;
  if (next > max_sockets_) {
    return Reject(absl::ResourceExhaustedError(
        absl::StrCat("socket table: all ", max_sockets_, " places are taken")));
  }
  if (TableMemory::TooFull(next, root().count)) {
    if (absl::Status status = Rebuild(writer_->current + 1); !status.ok()) return Reject(status);
  }
  const Place head = HeadOf(hash);
  Append(head, TagOf(hash), socket);  // (A)
  Touch(head);                        // (B)
  SetSize(next);
  return absl::OkStatus();
}

absl::Status SocketTableCore::Reject(absl::Status why) {
  rejected_.store(rejected_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  return why;
}

bool SocketTableCore::Erase(uint32_t hash, const FlowKey& key, uint64_t cookie) {
  if (!EraseInPlace(hash, key, cookie)) return false;
  ShrinkIfSparse();
  return true;
}

bool SocketTableCore::EraseInPlace(uint32_t hash, const FlowKey& key, uint64_t cookie) {
  const Place head = HeadOf(hash);
  const auto position = Locate(head, hash, key, cookie);
  if (!position) return false;
  Remove(head, *position);
  SetSize(size() - 1);
  return true;
}

// What is to be erased of a chain is only looked at before the chain is changed, as that moves
// other sockets.
void SocketTableCore::VisitAll(absl::FunctionRef<bool(const Socket&)> visit) {
  absl::InlinedVector<Socket, kSlots> condemned;
  const Array& array = root();
  for (size_t i = 0; i < array.count; ++i) {
    condemned.clear();
    for (Place place = array.At(i);; place = Follower(place.bucket->link)) {
      for (uint32_t m = UsedOf(*place.bucket); m != 0; m &= m - 1) {
        const Socket socket = Copy(place.entries[FirstOf(m)]);
        if (visit(socket)) condemned.push_back(socket);
      }
      if (NumberOf(place.bucket->link) == 0) break;
    }
    for (const Socket& s : condemned) EraseInPlace(hash_(s.key()), s.key(), s.cookie);
  }
}

void SocketTableCore::ShrinkIfSparse() {
  const size_t sockets = std::max(size(), writer_->reserved);
  if (!TableMemory::TooSparse(sockets, root().count)) return;
  const size_t fitting = writer_->memory->FittingArray(sockets);
  // Where the system refuses, the table stays as it is, which is merely larger than it should be.
  if (fitting < writer_->current) (void)Rebuild(fitting);
}

void SocketTableCore::Reserve(size_t sockets) {
  writer_->reserved = std::min(sockets, max_sockets_);
  const size_t fitting = writer_->memory->FittingArray(writer_->reserved);
  if (fitting > writer_->current) {
    (void)Rebuild(fitting);
  } else {
    ShrinkIfSparse();
  }
}

// (D) Fills another array chain by chain, in the order of hashes, and lets go of the old one as
// its chains become needless.
absl::Status SocketTableCore::Rebuild(size_t next) {
  const size_t current = writer_->current;
  const Array& from = writer_->memory->array(current);
  const Array& to = writer_->memory->array(next);
  RETURN_IF_ERROR(writer_->memory->Open(next));
  constexpr size_t kPiece = 16384;  // buckets given back at a time: 16 MB
  size_t live = 0, dead = 0, given = 0;
  Store(previous_, &from);  // (D)
  Store(root_, &to);        // (D)
  for (size_t i = 0; i < from.count; ++i) {
    MoveChain(from.At(i), to);
    const uint64_t moved = from.FirstHash(i + 1);
    for (; live < to.count && to.FirstHash(live + 1) <= moved; ++live) Touch(to.At(live));  // (D)
    const uint64_t covered = to.FirstHash(live);
    for (; dead <= i && from.FirstHash(dead + 1) <= covered; ++dead) Retire(from.At(dead));
    if (dead - given < kPiece && dead < from.count) continue;
    writer_->memory->GiveBack(current, given, dead);
    given = dead;
  }
  Store<const Array>(previous_, nullptr);  // (D)
  const size_t end = followers_end_.load(std::memory_order_relaxed);
  writer_->memory->GiveBackFollowers(writer_->next_follower, end);
  followers_end_.store(writer_->next_follower, std::memory_order_relaxed);
  writer_->current = next;
  rebuilds_.store(rebuilds_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  return absl::OkStatus();
}

// Copies a chain's sockets to heads that are not live yet.
void SocketTableCore::MoveChain(const Place& head, const Array& to) {
  for (Place place = head;; place = Follower(place.bucket->link)) {
    for (uint32_t m = UsedOf(*place.bucket); m != 0; m &= m - 1) {
      const Socket socket = Copy(place.entries[FirstOf(m)]);
      const uint32_t hash = hash_(socket.key());
      Append(to.At(to.IndexOf(hash)), TagOf(hash), socket);
    }
    if (NumberOf(place.bucket->link) == 0) return;
  }
}

// (D) Takes a chain out of use, and leaves zeroes for its head's next life.
void SocketTableCore::Retire(const Place& head) {
  uint64_t link = head.bucket->link;
  Store(head.bucket->stamp, 0);  // (D) (B)
  Store(head.bucket->link, 0);
  for (uint64_t& tags : head.bucket->tags) Store(tags, 0);
  while (NumberOf(link) != 0) {
    const Place follower = Follower(link);
    link = follower.bucket->link;
    FreeFollower(follower);
  }
}

}  // namespace utproxy
