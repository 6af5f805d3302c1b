// SPDX-License-Identifier: GPL-3.0-or-later
#include "base/event_fd.h"

#include <sys/eventfd.h>

#include <cerrno>

#include "base/status.h"

namespace utproxy {

absl::StatusOr<EventFd> EventFd::Create() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, "create eventfd");
  return EventFd(std::move(fd));
}

void EventFd::Raise() const { (void)::eventfd_write(fd_.get(), 1); }

void EventFd::Clear() const {
  eventfd_t ignored = 0;
  (void)::eventfd_read(fd_.get(), &ignored);
}

}  // namespace utproxy
