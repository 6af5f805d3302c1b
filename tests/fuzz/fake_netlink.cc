// SPDX-License-Identifier: GPL-3.0-or-later
#include "fake_netlink.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace utproxy {
namespace {

absl::Span<const uint8_t> g_input;
uint32_t g_sequence = 0;
bool (*g_keep)(const nlmsghdr&) = nullptr;

// The next datagram, as much of it as there is.
absl::Span<const uint8_t> NextDatagram() {
  if (g_input.size() < 2) return {};
  const size_t claimed = g_input[0] + size_t{256} * g_input[1];
  const absl::Span<const uint8_t> datagram = g_input.subspan(2, claimed);
  g_input.remove_prefix(2 + datagram.size());
  return datagram;
}

void NumberMessages(char* bytes, size_t size) {
  for (size_t at = 0; at < size && size - at >= sizeof(nlmsghdr);) {
    nlmsghdr header;
    std::memcpy(&header, bytes + at, sizeof header);
    if (header.nlmsg_seq < 64) header.nlmsg_seq += g_sequence;
    std::memcpy(bytes + at, &header, sizeof header);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > size - at) return;
    if (g_keep != nullptr && !g_keep(*reinterpret_cast<const nlmsghdr*>(bytes + at))) {
      header.nlmsg_seq = g_sequence - 1;
      std::memcpy(bytes + at, &header, sizeof header);
    }
    at += NLMSG_ALIGN(size_t{header.nlmsg_len});
  }
}

}  // namespace

void AnswerNetlinkWith(absl::Span<const uint8_t> input, bool (*keep)(const nlmsghdr&)) {
  g_input = input;
  g_keep = keep;
}

}  // namespace utproxy

extern "C" {

// The linker's names.
// NOLINTBEGIN
int __wrap_socket(int, int, int) { return ::open("/dev/null", O_RDWR | O_CLOEXEC); }

int __wrap_bind(int, const sockaddr*, socklen_t) { return 0; }

int __wrap_setsockopt(int, int, int, const void*, socklen_t) { return 0; }

int __wrap_getsockname(int, sockaddr* address, socklen_t* length) {
  sockaddr_nl self{};
  self.nl_family = AF_NETLINK;
  self.nl_pid = 4711;
  std::memcpy(address, &self, std::min<size_t>(sizeof self, *length));
  return 0;
}

ssize_t __wrap_sendto(int, const void* bytes, size_t size, int, const sockaddr*, socklen_t) {
  nlmsghdr header{};
  if (size >= sizeof header) std::memcpy(&header, bytes, sizeof header);
  utproxy::g_sequence = header.nlmsg_seq;
  return static_cast<ssize_t>(size);
}

ssize_t __wrap_recvfrom(int, void* buffer, size_t size, int flags, sockaddr* from,
                        socklen_t* from_length) {
  const absl::Span<const uint8_t> datagram = utproxy::NextDatagram();
  if (datagram.empty()) {
    errno = EAGAIN;
    return -1;
  }
  const sockaddr_nl kernel{.nl_family = AF_NETLINK, .nl_pad = 0, .nl_pid = 0, .nl_groups = 0};
  std::memcpy(from, &kernel, std::min<size_t>(sizeof kernel, *from_length));
  const size_t copied = std::min(size, datagram.size());
  std::memcpy(buffer, datagram.data(), copied);
  utproxy::NumberMessages(static_cast<char*>(buffer), copied);
  return static_cast<ssize_t>((flags & MSG_TRUNC) != 0 ? datagram.size() : copied);
}
// NOLINTEND

}  // extern "C"
