// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/feed.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>

#include "base/status.h"

namespace utproxy {

absl::StatusOr<std::unique_ptr<Feed>> Feed::Create(size_t capacity) {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return ErrnoStatus(errno, "create eventfd");
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
  if (was_empty) (void)::eventfd_write(event_.get(), 1);
}

void Feed::Take(std::vector<Socket>* out) {
  eventfd_t ignored = 0;
  (void)::eventfd_read(event_.get(), &ignored);
  out->clear();
  const std::lock_guard lock(mutex_);
  out->swap(sockets_);
}

uint64_t Feed::dropped() const {
  const std::lock_guard lock(mutex_);
  return dropped_;
}

}  // namespace utproxy
