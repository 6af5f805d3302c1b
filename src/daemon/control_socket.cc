// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/control_socket.h"

#include <absl/strings/str_cat.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/status.h"

namespace utproxy {
namespace {

// Waits until `fd` is ready for `events`; false at the deadline, or where `stop` (may be -1) became
// readable.
bool WaitFor(int fd, short events, int stop, int64_t deadline_ns) {
  while (true) {
    // Past the deadline what is ready is seen all the same: this process may have been stopped.
    const int64_t left_ms = std::max<int64_t>((deadline_ns - MonotonicNs()) / kNsPerMs, -1);
    std::array<pollfd, 2> fds{
        {{.fd = fd, .events = events, .revents = 0}, {.fd = stop, .events = POLLIN, .revents = 0}}};
    const int n =
        ::poll(fds.data(), fds.size(), static_cast<int>(std::min<int64_t>(left_ms, 60'000)) + 1);
    if (n < 0 && errno != EINTR) return false;
    if (fds[1].revents != 0) return false;
    if (fds[0].revents != 0) return true;
    if (left_ms < 0) return false;
  }
}

}  // namespace

absl::StatusOr<sockaddr_un> ControlAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(absl::StrCat("control socket '", path,
                                                   "': path must have 1 to ",
                                                   sizeof address.sun_path - 1, " characters"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> OpenUnix() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "open Unix socket");
  return fd;
}

int Connect(int fd, const sockaddr_un& address) {
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0 ? errno : 0;
}

void LimitConnect(int fd, int64_t ns) {
  const timeval timeout{.tv_sec = ns / kNsPerSec, .tv_usec = 0};
  (void)::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
}

bool WriteAll(int fd, int stop, absl::string_view bytes, int64_t stall_ns) {
  while (!bytes.empty()) {
    if (!WaitFor(fd, POLLOUT, stop, MonotonicNs() + stall_ns)) return false;
    const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

std::optional<std::string> ReadLine(int fd, int stop, size_t max, int64_t deadline_ns,
                                    std::string* rest) {
  size_t searched = 0;
  while (true) {
    if (const size_t end = rest->find('\n', searched); end != std::string::npos) {
      std::string line = rest->substr(0, end);
      rest->erase(0, end + 1);
      return line;
    }
    searched = rest->size();
    if (searched > max || !WaitFor(fd, POLLIN, stop, deadline_ns)) return std::nullopt;
    char buffer[16384];
    const ssize_t n = ::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return std::nullopt;
    rest->append(buffer, static_cast<size_t>(n));
  }
}

}  // namespace utproxy
