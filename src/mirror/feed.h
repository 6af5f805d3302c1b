// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_MIRROR_FEED_H_
#define UTPROXY_MIRROR_FEED_H_

#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/event_fd.h"
#include "utproxy/socket.h"

namespace utproxy {

// Hands what workers learned by exact queries to the mirror's thread, the table's only writer.
// Bounded: what does not fit is forgotten and counted, which costs another exact query later and
// nothing else. Push() from any thread, Take() from the mirror's.
class Feed {
 public:
  static absl::StatusOr<std::unique_ptr<Feed>> Create(size_t capacity);

  void Push(absl::Span<const Socket> sockets);
  // Makes fd() readable though there is nothing. Any thread.
  void Wake() const { event_.Raise(); }
  // Empties the feed into `out`.
  void Take(std::vector<Socket>* out);

  // Readable while there is something to take.
  int fd() const { return event_.fd(); }
  uint64_t dropped() const;

 private:
  Feed(EventFd event, size_t capacity) : event_(std::move(event)), capacity_(capacity) {}

  EventFd event_;
  const size_t capacity_;
  mutable std::mutex mutex_;
  std::vector<Socket> sockets_;
  uint64_t dropped_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_MIRROR_FEED_H_
