// SPDX-License-Identifier: GPL-3.0-or-later
#include "netlink/socket.h"

#include <absl/strings/str_cat.h>
#include <libmnl/libmnl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "base/status.h"
#include "netlink/messages.h"

namespace utproxy {
namespace {

// The kernel fills dump datagrams up to the buffer it sees offered, 32 KiB at the most.
constexpr size_t kReceiveBytes = size_t{64} * 1024;

// Only the kernel, port id 0, is listened to: any local user may send to a netlink socket.
bool FromKernel(const sockaddr_nl& from) { return from.nl_pid == 0; }

}  // namespace

absl::StatusOr<NetlinkSocket> NetlinkSocket::Open(int bus) {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, bus));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open netlink socket, protocol ", bus));
  sockaddr_nl self{};
  self.nl_family = AF_NETLINK;
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&self), sizeof self) < 0) {
    return ErrnoStatus(errno, "bind netlink socket");
  }
  socklen_t len = sizeof self;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&self), &len) < 0) {
    return ErrnoStatus(errno, "name netlink socket");
  }
  const timeval timeout{.tv_sec = 5, .tv_usec = 0};
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) < 0) {
    return ErrnoStatus(errno, "set netlink receive time-out");
  }
  // Extended acknowledgements and strict checking are conveniences that old kernels lack.
  const int on = 1;
  (void)::setsockopt(fd.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
  return NetlinkSocket(std::move(fd), self.nl_pid);
}

absl::StatusOr<NetlinkSocket> NetlinkSocket::Adopt(UniqueFd fd, int bus) {
  int domain = 0, protocol = -1;
  socklen_t size = sizeof domain;
  sockaddr_nl self{};
  socklen_t length = sizeof self;
  const bool ours = ::getsockopt(fd.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 &&
                    ::getsockopt(fd.get(), SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 &&
                    domain == AF_NETLINK && protocol == bus &&
                    ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&self), &length) == 0 &&
                    self.nl_pid != 0;
  if (!ours) return absl::InvalidArgumentError("adopt a netlink socket: it is none of that kind");
  NetlinkSocket socket(std::move(fd), self.nl_pid);
  // Requests are numbered from 1 by whoever opens one.
  socket.sequence_ = static_cast<uint32_t>(MonotonicNs() >> 10) | 0x80000000u;
  return socket;
}

absl::Status NetlinkSocket::JoinGroup(unsigned group) {
  if (::setsockopt(fd_.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0) {
    return ErrnoStatus(errno, absl::StrCat("join netlink group ", group));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> NetlinkSocket::SetReceiveBuffer(int bytes) {
  if (::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0 &&
      ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes) < 0) {
    return ErrnoStatus(errno, absl::StrCat("set netlink receive buffer to ", bytes));
  }
  int granted = 0;
  socklen_t len = sizeof granted;
  if (::getsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &granted, &len) < 0) {
    return ErrnoStatus(errno, "read netlink receive buffer size");
  }
  return granted;
}

absl::Status NetlinkSocket::SetNoEnobufs() {
  const int on = 1;
  if (::setsockopt(fd_.get(), SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof on) < 0) {
    return ErrnoStatus(errno, "set NETLINK_NO_ENOBUFS");
  }
  return absl::OkStatus();
}

absl::Status NetlinkSocket::Send(absl::Span<const char> bytes) {
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  while (::sendto(fd_.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&kernel),
                  sizeof kernel) < 0) {
    if (errno != EINTR) return ErrnoStatus(errno, "send on netlink socket");
  }
  return absl::OkStatus();
}

absl::Status NetlinkSocket::Transact(nlmsghdr* request, absl::string_view what, Handler handler,
                                     bool* dump_interrupted) {
  request->nlmsg_seq = ++sequence_;
  if (absl::Status sent = Send({reinterpret_cast<char*>(request), request->nlmsg_len});
      !sent.ok()) {
    return absl::Status(sent.code(), absl::StrCat(what, ": ", sent.message()));
  }
  const bool multi = (request->nlmsg_flags & (NLM_F_DUMP | NLM_F_ACK)) != 0;
  buffer_.resize(kReceiveBytes);  // the first time
  while (true) {
    sockaddr_nl from{};
    socklen_t from_len = sizeof from;
    const ssize_t n = ::recvfrom(fd_.get(), buffer_.data(), buffer_.size(), MSG_TRUNC,
                                 reinterpret_cast<sockaddr*>(&from), &from_len);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, absl::StrCat(what, ": read answer"));
    if (static_cast<size_t>(n) > buffer_.size()) {
      return absl::InternalError(absl::StrCat(what, ": answer of ", n, " bytes is too long"));
    }
    if (!FromKernel(from)) continue;
    absl::Span<const char> rest(buffer_.data(), static_cast<size_t>(n));
    while (const nlmsghdr* nlh = TakeMessage(&rest)) {
      if (nlh->nlmsg_seq != request->nlmsg_seq) continue;
      if ((nlh->nlmsg_flags & NLM_F_DUMP_INTR) != 0 && dump_interrupted != nullptr) {
        *dump_interrupted = true;
      }
      if (nlh->nlmsg_type == NLMSG_DONE) return absl::OkStatus();
      if (nlh->nlmsg_type == NLMSG_ERROR) {
        const std::optional<int> error = ErrorOf(*nlh);
        if (!error) return absl::InternalError(absl::StrCat(what, ": malformed netlink error"));
        return *error == 0 ? absl::OkStatus() : ErrnoStatus(*error, what);
      }
      handler(*nlh);
      if (!multi) return absl::OkStatus();
    }
  }
}

absl::StatusOr<bool> NetlinkSocket::ReceiveEvents(Handler handler) {
  alignas(nlmsghdr) char buffer[32 * 1024];
  sockaddr_nl from{};
  socklen_t from_len = sizeof from;
  const ssize_t n = ::recvfrom(fd_.get(), buffer, sizeof buffer, MSG_DONTWAIT,
                               reinterpret_cast<sockaddr*>(&from), &from_len);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n < 0 && errno == ENOBUFS) return absl::ResourceExhaustedError("netlink events were lost");
  if (n < 0) return ErrnoStatus(errno, "read netlink events");
  if (!FromKernel(from)) return true;
  absl::Span<const char> rest(buffer, static_cast<size_t>(n));
  while (const nlmsghdr* nlh = TakeMessage(&rest)) {
    if (nlh->nlmsg_type >= NLMSG_MIN_TYPE) handler(*nlh);
  }
  return true;
}

}  // namespace utproxy
