// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_BASE_EVENT_FD_H_
#define UTPROXY_BASE_EVENT_FD_H_

#include <absl/status/statusor.h>

#include <utility>

#include "base/fd.h"

namespace utproxy {

// Tells a thread that waits in poll() that there is something to do (eventfd(2)). Any thread may
// call anything; nothing blocks.
class EventFd {
 public:
  static absl::StatusOr<EventFd> Create();

  // Readable from Raise() to Clear(), however often it was raised.
  int fd() const { return fd_.get(); }
  void Raise() const;
  void Clear() const;

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

}  // namespace utproxy

#endif  // UTPROXY_BASE_EVENT_FD_H_
