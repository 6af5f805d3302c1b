// SPDX-License-Identifier: GPL-3.0-or-later
#include "steer/listener_sockets.h"

#include <absl/strings/str_cat.h>
#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.h"
#include "base/status.h"

namespace utproxy {
namespace {
// What is known of a listener is forgotten when it is this old: both times in it have passed.
constexpr int64_t kForgetNs = 60 * kNsPerSec;
}  // namespace

bool ListenerSockets::InMap(uint64_t cookie) const {
  uint64_t held = 0;
  return bpf_map_lookup_elem(map_fd_, &cookie, &held) == 0 && held == cookie;
}

bool ListenerSockets::SeenLately(uint64_t cookie, int64_t now_ns) const {
  const std::lock_guard lock(known_mutex_);
  const auto it = known_.find(cookie);
  return it != known_.end() && it->second.seen_ns > now_ns - kRecheckNs;
}

bool ListenerSockets::UnreachableNow(uint64_t cookie, int64_t now_ns) {
  const std::lock_guard lock(known_mutex_);
  const auto it = known_.find(cookie);
  if (it == known_.end() || it->second.unreachable_until_ns <= now_ns) return false;
  cached_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void ListenerSockets::NoteSeen(uint64_t cookie, int64_t now_ns) {
  const std::lock_guard lock(known_mutex_);
  known_[cookie] = {.seen_ns = now_ns};
}

void ListenerSockets::NoteUnreachable(uint64_t cookie, const absl::Status& status,
                                      int64_t until_ns) {
  const std::lock_guard lock(known_mutex_);
  known_[cookie] = {.unreachable_until_ns = until_ns};
  last_error_ = status;
}

ListenerSockets::Held ListenerSockets::Ensure(uint64_t cookie, uint32_t inode, Proto proto,
                                              bool recheck, int64_t now_ns) {
  if (!recheck && SeenLately(cookie, now_ns)) return Held::kHeld;
  if (InMap(cookie)) {
    NoteSeen(cookie, now_ns);
    return Held::kHeld;
  }
  if (UnreachableNow(cookie, now_ns)) return Held::kUnreachable;

  const std::lock_guard searching(search_mutex_);
  // Another thread may have searched for the same socket while this one waited.
  const int64_t start_ns = MonotonicNs();
  if (InMap(cookie)) {
    NoteSeen(cookie, start_ns);
    return Held::kHeld;
  }
  if (UnreachableNow(cookie, start_ns)) return Held::kUnreachable;
  const absl::Status status = Insert(cookie, inode, proto);
  const int64_t end_ns = MonotonicNs();
  scans_.store(owners_.scans(), std::memory_order_relaxed);
  if (status.ok()) {
    inserted_.fetch_add(1, std::memory_order_relaxed);
    NoteSeen(cookie, end_ns);
    return Held::kHeld;
  }
  const bool gone = absl::IsNotFound(status);
  unreachable_.fetch_add(1, std::memory_order_relaxed);
  NoteUnreachable(cookie, status,
                  gone && finder_ ? 0 : end_ns + std::max(kRetryNs, 10 * (end_ns - start_ns)));
  return gone ? Held::kGone : Held::kUnreachable;
}

absl::Status ListenerSockets::Insert(uint64_t cookie, uint32_t inode, Proto proto) {
  return finder_ ? finder_->Enter(cookie, proto) : InsertFromOwner(cookie, inode);
}

absl::Status ListenerSockets::InsertFromOwner(uint64_t cookie, uint32_t inode) {
  ASSIGN_OR_RETURN(const UniqueFd socket, owners_.Take(cookie, inode));
  const uint64_t fd = static_cast<uint64_t>(socket.get());
  if (bpf_map_update_elem(map_fd_, &cookie, &fd, BPF_ANY) != 0) {
    return ErrnoStatus(errno, absl::StrCat("enter listener socket ", inode, " for steering"));
  }
  return absl::OkStatus();
}

void ListenerSockets::Expire(int64_t now_ns) {
  const std::lock_guard lock(known_mutex_);
  absl::erase_if(known_, [&](const auto& entry) {
    return std::max(entry.second.seen_ns, entry.second.unreachable_until_ns) <= now_ns - kForgetNs;
  });
}

ListenerSockets::Stats ListenerSockets::stats() const {
  Stats stats{.inserted = inserted_.load(std::memory_order_relaxed),
              .unreachable = unreachable_.load(std::memory_order_relaxed),
              .cached = cached_.load(std::memory_order_relaxed),
              .scans = scans_.load(std::memory_order_relaxed)};
  // Sockets leave by themselves, and when the one just counted does the walk starts anew; the bound
  // is for that.
  uint64_t key = 0, next = 0;
  for (const void* after = nullptr;
       stats.held < 65536 && bpf_map_get_next_key(map_fd_, after, &next) == 0; after = &key) {
    key = next;
    ++stats.held;
  }
  return stats;
}

absl::Status ListenerSockets::last_error() const {
  const std::lock_guard lock(known_mutex_);
  return last_error_;
}

}  // namespace utproxy
