// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_STEER_SOCKET_OWNERS_H_
#define UTPROXY_STEER_SOCKET_OWNERS_H_

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <string>

#include "base/fd.h"

namespace utproxy {

// Finds which process holds a socket, through /proc/PID/fd, and duplicates its descriptor with
// pidfd_getfd (Linux 5.6). Owners in other network, mount and pid namespaces are found too, as long
// as they appear in our /proc: sockets of all of them have their inodes in one file system.
//
// Two threads may not use one of these at once.
class SocketOwners {
 public:
  // A new descriptor (close-on-exec) of the socket with this SO_COOKIE; `inode` is how /proc names
  // it. The caller closes it at once: as long as it is open the socket outlives its owner's close.
  //
  // Looks first at the processes that held earlier sockets, as a listener is often reopened by the
  // same one, then at all. Errors: kPermissionDenied where its owner was found, but may not be
  // reached; kNotFound where it was not found. With a remedy where more privilege could help.
  absl::StatusOr<UniqueFd> Take(uint64_t cookie, uint32_t inode);

  // How often all of /proc has been walked.
  uint64_t scans() const { return scans_; }

 private:
  struct Search;

  bool TryRecent(Search& search);
  bool TryAll(Search& search);
  void Remember(pid_t pid);

  std::deque<pid_t> recent_;  // the latest owner first
  uint64_t scans_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_STEER_SOCKET_OWNERS_H_
