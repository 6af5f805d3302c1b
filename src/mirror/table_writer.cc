// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/table_writer.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "mirror/inherit.h"

namespace utproxy {
namespace {

// TCP_TIMEWAIT_LEN is 60 s. The kernel's timer slack is an eighth of that at the most; who
// outlives it here costs one exact query.
constexpr int64_t kTimeWaitNs = 68 * kNsPerSec;
// Longer than an exact answer can be on its way through the feed.
constexpr int64_t kDestroyedMemoryNs = 5 * kNsPerSec;

}  // namespace

void TableWriter::Put(const Socket& socket) {
  if (InTable(socket.key(), socket.cookie) != socket) Write(socket);
}

bool TableWriter::Write(const Socket& socket) {
  const bool stored = table_->Upsert(socket).ok();
  if (!stored) ++rejected_;
  Rise(socket);
  return stored;
}

void TableWriter::Rise(const Socket& socket) {
  if (socket.proto == Proto::kUdp) epochs_->Rise(socket.local_port);
  if (socket.listening()) epochs_->RiseListeners();
}

void TableWriter::Erase(const Socket& socket) {
  if (!table_->Erase(socket.key(), socket.cookie)) return;
  Rise(socket);
  if (LeavesItsFlow(socket)) epochs_->RiseLeft();
}

bool TableWriter::LeavesItsFlow(const Socket& socket) const {
  if (socket.proto != Proto::kUdp || !socket.connected()) return false;
  FlowKey key = socket.key();
  key.remote = Address();
  key.remote_port = 0;
  if (table_->FindOne(key)) return true;
  key.local = Address();
  return table_->FindOne(key).has_value();
}

std::optional<Socket> TableWriter::InTable(const FlowKey& key, uint64_t cookie) const {
  absl::InlinedVector<Socket, 8> found;
  table_->FindAll(key, &found);
  for (const Socket& socket : found) {
    if (socket.cookie == cookie) return socket;
  }
  return std::nullopt;
}

// Mostly nothing has changed: that takes a look at each, and no memory but for their order.
void TableWriter::ReplaceBound(Family family, Proto proto, absl::Span<const Socket> dumped) {
  Bound& bound = BoundSet(family, proto);
  const uint64_t dump = ++dumps_;
  absl::flat_hash_map<Id, uint32_t> places;  // sockets seen of each address and port
  std::vector<Socket> changed;
  for (Socket socket : dumped) {
    const bool listed = proto == Proto::kUdp || socket.listening();
    if (!listed || socket.cookie == 0) continue;
    socket.order = places[Id{socket.key(), 0}]++;
    // What the table holds of them is what was dumped before: looking there would cost each of the
    // sockets of one address and port a walk past all others.
    const auto known = bound.find(Id{socket.key(), socket.cookie});
    const bool is_known = known != bound.end();
    // Of one that is shown twice the last word counts.
    const bool again = is_known && std::exchange(known->second.dump, dump) == dump;
    if (!is_known || again || known->second.socket != socket) changed.push_back(socket);
  }
  EraseNotIn(dump, &bound);
  for (const Socket& socket : changed) {
    const Id id{socket.key(), socket.cookie};
    if (Write(socket)) {
      bound[id] = {.socket = socket, .dump = dump};
    } else {
      bound.erase(id);  // to be tried again
    }
  }
}

void TableWriter::EraseNotIn(uint64_t dump, Bound* bound) {
  constexpr size_t kSmall = 1024;
  for (auto it = bound->begin(); it != bound->end();) {
    const auto here = it++;
    if (here->second.dump == dump) continue;
    Erase(here->second.socket);
    bound->erase(here);
  }
  if (bound->capacity() > kSmall && bound->size() < bound->capacity() / 8) bound->rehash(0);
}

void TableWriter::Learn(Socket socket, const InterfaceSnapshot& interfaces, int64_t now_ns) {
  if (socket.cookie == 0 || !socket.connected() || socket.remote_port == 0) return;
  if (RecentlyDestroyed(socket.cookie) && !socket.time_wait()) return LearnOfTheLate(socket);
  InheritTransparency(table_, interfaces, std::nullopt, &socket);
  if (socket.proto == Proto::kUdp) {
    BoundSet(socket.family(), Proto::kUdp)[Id{socket.key(), socket.cookie}] = {.socket = socket};
  }
  // What a sweep shows is mostly known, or (the first one) mostly new.
  const std::optional<Socket> first = table_->FindOne(socket.key());
  if (first == socket) return;
  absl::InlinedVector<Socket, 8> found;
  if (first) table_->FindAll(socket.key(), &found);
  bool changed = true, time_wait = false;
  for (const Socket& other : found) {
    if (other.cookie == socket.cookie) {
      changed = other != socket;
      time_wait = other.time_wait();
    } else if (other.ifindex == socket.ifindex) {
      // One tuple has one connection (but for sockets bound to different devices): what the table
      // knows of earlier ones, mostly their TIME_WAIT, is over.
      Forget(other);
    }
  }
  if (!changed) return;
  if (socket.time_wait() && !time_wait) {
    time_wait_ends_.emplace_back(now_ns + kTimeWaitNs, Id{socket.key(), socket.cookie});
  }
  const bool stored = Write(socket);
  if (!stored && socket.proto == Proto::kUdp) {
    BoundSet(socket.family(), Proto::kUdp).erase(Id{socket.key(), socket.cookie});
  }
}

// An answer can reach the table after the event that it preceded, and be the last word on the
// transparency that a TIME_WAIT has inherited: IP_TRANSPARENT may have been switched just before.
void TableWriter::LearnOfTheLate(const Socket& socket) {
  std::optional<Socket> left = InTable(socket.key(), socket.cookie);
  if (!left || !left->time_wait() || !socket.transparent_known()) return;
  constexpr uint16_t kBits = Socket::kTransparent | Socket::kTransparentKnown;
  left->flags = static_cast<uint16_t>((left->flags & ~kBits) | (socket.flags & kBits));
  Put(*left);
}

void TableWriter::LearnAll(absl::Span<const Socket> sockets, const InterfaceSnapshot& interfaces,
                           int64_t now_ns) {
  std::array<FlowKey, kTogether> keys;
  for (; !sockets.empty(); sockets.remove_prefix(std::min(sockets.size(), kTogether))) {
    const absl::Span<const Socket> some = sockets.subspan(0, kTogether);
    for (size_t i = 0; i < some.size(); ++i) keys[i] = some[i].key();
    table_->PrefetchToWrite(absl::MakeSpan(keys.data(), some.size()));
    for (const Socket& socket : some) Learn(socket, interfaces, now_ns);
  }
}

void TableWriter::Destroyed(const Socket& event, int64_t now_ns) {
  if (event.cookie == 0) return;
  if (destroyed_.insert(event.cookie).second) destroyed_order_.emplace_back(now_ns, event.cookie);
  const Id id{event.key(), event.cookie};
  std::optional<Socket> known = InTable(id.key, id.cookie);
  if (!known) {
    if (event.proto == Proto::kTcp && event.remote_port == 0) nameless_.insert(event.cookie);
    return;
  }
  if (event.proto == Proto::kUdp || known->listening()) {
    BoundSet(known->family(), known->proto).erase(id);
    Erase(*known);
    return;
  }
  known->state = SockState::kTimeWait;
  known->flags |= Socket::kMinisock;
  known->inode = 0;
  time_wait_ends_.emplace_back(now_ns + kTimeWaitNs, id);
  Put(*known);
}

// A reset leaves no TIME_WAIT.
void TableWriter::EndNameless() {
  std::vector<Socket> ended;
  table_->ForEach([&](const Socket& socket) {
    if (socket.proto == Proto::kTcp && nameless_.contains(socket.cookie)) ended.push_back(socket);
  });
  for (const Socket& socket : ended) Forget(socket);
  nameless_.clear();
}

std::vector<Socket> TableWriter::Missing(const CookieSet& dumped) const {
  std::vector<Socket> missing;
  table_->ForEach([&](const Socket& socket) {
    const bool connection = socket.proto == Proto::kTcp && !socket.listening();
    if (connection && !dumped.Contains(socket.cookie)) missing.push_back(socket);
  });
  return missing;
}

void TableWriter::Forget(const Socket& socket) {
  BoundSet(socket.family(), socket.proto).erase(Id{socket.key(), socket.cookie});
  Erase(socket);
}

void TableWriter::Expire(int64_t now_ns) {
  while (!destroyed_order_.empty() &&
         destroyed_order_.front().first + kDestroyedMemoryNs < now_ns) {
    destroyed_.erase(destroyed_order_.front().second);
    destroyed_order_.pop_front();
  }
  while (!time_wait_ends_.empty() && time_wait_ends_.front().first < now_ns) {
    const Id& id = time_wait_ends_.front().second;
    const std::optional<Socket> known = InTable(id.key, id.cookie);
    if (known && known->time_wait()) Erase(*known);
    time_wait_ends_.pop_front();
  }
}

}  // namespace utproxy
