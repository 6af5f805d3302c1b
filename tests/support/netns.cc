// SPDX-License-Identifier: GPL-3.0-or-later
#include "support/netns.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/fd.h"

namespace utproxy::testing {

std::string EnterNetns() {
  if (::geteuid() != 0) return "needs root, for a network namespace of its own";
  if (::unshare(CLONE_NEWNET) != 0) {
    return std::string("cannot make a network namespace: ") + std::strerror(errno);
  }
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP;
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
    return std::string("cannot bring lo up: ") + std::strerror(errno);
  }
  return "";
}

}  // namespace utproxy::testing
