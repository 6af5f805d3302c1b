// SPDX-License-Identifier: GPL-3.0-or-later
#include "utproxy/flow_hash.h"

#include <sys/random.h>

#include <cerrno>

#include "base/status.h"

namespace utproxy {

absl::StatusOr<FlowHash> FlowHash::Create() {
  Secret secret;
  // At most 256 bytes at a time are never cut short by a signal (getrandom(2)).
  static_assert(sizeof(secret) <= 256);
  if (::getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size())) {
    return ErrnoStatus(errno, "getrandom for the socket table's hash");
  }
  return FlowHash(secret);
}

}  // namespace utproxy
