// SPDX-License-Identifier: GPL-3.0-or-later
#include "queue/downed_interfaces.h"

#include <net/if.h>
#include <sys/ioctl.h>

#include <cerrno>

#include "base/clock.h"

namespace utproxy {

bool DownedInterfaces::Has(uint32_t ifindex) {
  if (ifindex == 0) return false;
  const int64_t now_ns = MonotonicNs();
  if (ifindex != asked_ || now_ns - asked_ns_ > kFreshNs) {
    down_ = Ask(ifindex);
    asked_ = ifindex;
    asked_ns_ = now_ns;
  }
  return down_;
}

// By ioctl, which waits for nobody: rtnetlink would wait for whoever takes the interface down.
bool DownedInterfaces::Ask(uint32_t ifindex) const {
  ifreq request{};
  request.ifr_ifindex = static_cast<int>(ifindex);
  if (::ioctl(socket_, SIOCGIFNAME, &request) < 0) return errno == ENODEV;
  if (::ioctl(socket_, SIOCGIFFLAGS, &request) < 0) return errno == ENODEV;
  return (request.ifr_flags & IFF_UP) == 0;
}

}  // namespace utproxy
