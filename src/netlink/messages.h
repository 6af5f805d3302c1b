// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_NETLINK_MESSAGES_H_
#define UTPROXY_NETLINK_MESSAGES_H_

#include <absl/types/span.h>
#include <linux/netlink.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <optional>

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

// The errno value of an NLMSG_ERROR, 0 of an acknowledgement; nullopt where the message is too
// short for one. Numbers that the kernel has no errors for (MAX_ERRNO) are EPROTO.
inline std::optional<int> ErrorOf(const nlmsghdr& message) {
  nlmsgerr error;
  if (message.nlmsg_len < NLMSG_HDRLEN + sizeof error) return std::nullopt;
  std::memcpy(&error, reinterpret_cast<const char*>(&message) + NLMSG_HDRLEN, sizeof error);
  return error.error <= 0 && error.error >= -4095 ? -error.error : EPROTO;
}

}  // namespace utproxy

#endif  // UTPROXY_NETLINK_MESSAGES_H_
