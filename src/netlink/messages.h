// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_NETLINK_MESSAGES_H_
#define UTPROXY_NETLINK_MESSAGES_H_

#include <absl/types/span.h>
#include <linux/netlink.h>

#include <algorithm>
#include <cstddef>

namespace utproxy {

// Returns the netlink message at the front of a datagram and removes it from there; null at the
// end, or where the rest is no whole message. `bytes` starts at a multiple of four (NLMSG_ALIGNTO).
// libmnl's mnl_nlmsg_ok() (1.0.4) takes a length of 2 GiB and more for a negative number, and so
// for one that fits.
inline const nlmsghdr* TakeMessage(absl::Span<const char>* bytes) {
  const auto* message = reinterpret_cast<const nlmsghdr*>(bytes->data());
  if (bytes->size() < sizeof *message || message->nlmsg_len < sizeof *message ||
      message->nlmsg_len > bytes->size()) {
    return nullptr;
  }
  bytes->remove_prefix(std::min<size_t>(NLMSG_ALIGN(message->nlmsg_len), bytes->size()));
  return message;
}

}  // namespace utproxy

#endif  // UTPROXY_NETLINK_MESSAGES_H_
