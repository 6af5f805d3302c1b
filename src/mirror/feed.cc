// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/feed.h"

#include <algorithm>

#include "base/status.h"

namespace utproxy {

absl::StatusOr<std::unique_ptr<Feed>> Feed::Create(size_t capacity) {
  ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  return std::unique_ptr<Feed>(new Feed(std::move(event), capacity));
}

void Feed::Push(absl::Span<const Socket> sockets) {
  if (sockets.empty()) return;
  bool was_empty = false;
  {
    const std::lock_guard lock(mutex_);
    was_empty = sockets_.empty();
    const size_t fits = std::min(sockets.size(), capacity_ - sockets_.size());
    sockets_.insert(sockets_.end(), sockets.begin(), sockets.begin() + static_cast<long>(fits));
    dropped_ += sockets.size() - fits;
  }
  if (was_empty) event_.Raise();
}

void Feed::Take(std::vector<Socket>* out) {
  event_.Clear();
  out->clear();
  const std::lock_guard lock(mutex_);
  out->swap(sockets_);
}

uint64_t Feed::dropped() const {
  const std::lock_guard lock(mutex_);
  return dropped_;
}

}  // namespace utproxy
