// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/predecessor.h"

#include <absl/strings/str_cat.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/status.h"
#include "daemon/control_client.h"
#include "daemon/control_socket.h"
#include "daemon/json.h"

namespace utproxy {
namespace {

// Fewer than SCM_MAX_FD, and their names fit any buffer.
constexpr size_t kFdsALine = 64;
constexpr size_t kMaxLine = 65536;

absl::Status NotThere(const std::string& path, absl::string_view why) {
  return WithRemedy(
      absl::NotFoundError(absl::StrCat("take over from the utproxy at ", path, ": ", why)),
      "Without --take-over, run starts where none runs yet");
}

bool SendLine(int fd, const Json& json, absl::Span<const int> fds) {
  std::string line = JsonLine(json) + "\n";
  iovec iov{.iov_base = line.data(), .iov_len = line.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kFdsALine * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  // A line is far shorter than the socket's buffer, which is empty but for such lines.
  return ::sendmsg(fd, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(line.size());
}

// Appends what has come: bytes, and the descriptors that came with them.
bool ReceiveSome(int fd, std::string* bytes, std::vector<UniqueFd>* fds) {
  pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
  if (::poll(&waiting, 1, kBeginNs / kNsPerMs) <= 0) return false;
  std::array<char, 16384> buffer;
  iovec iov{.iov_base = buffer.data(), .iov_len = buffer.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kFdsALine * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t n = ::recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  if (n <= 0 || (message.msg_flags & MSG_CTRUNC) != 0) return false;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    std::vector<int> numbers((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(numbers.data(), CMSG_DATA(header), numbers.size() * sizeof(int));
    for (const int number : numbers) fds->emplace_back(number);
  }
  bytes->append(buffer.data(), static_cast<size_t>(n));
  return bytes->size() <= kMaxLine;
}

}  // namespace

uint64_t NetworkNamespace() {
  struct stat info {};
  return ::stat("/proc/thread-self/ns/net", &info) == 0 ? info.st_ino : 0;
}

bool SendEstate(int fd, int stop, const Belongings& belongings) {
  for (size_t first = 0; first < belongings.size(); first += kFdsALine) {
    const size_t end = std::min(first + kFdsALine, belongings.size());
    Json line;
    std::vector<int> fds;
    for (size_t i = first; i < end; ++i) {
      line["estate"].push_back(belongings[i].first);
      fds.push_back(belongings[i].second);
    }
    line["more"] = end < belongings.size();
    line["network"] = NetworkNamespace();
    pollfd waiting{.fd = stop, .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, 0) > 0 || !SendLine(fd, line, fds)) return false;
  }
  return true;
}

absl::StatusOr<std::unique_ptr<Predecessor>> Predecessor::Connect(const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, ControlAddress(path));
  ASSIGN_OR_RETURN(UniqueFd fd, OpenUnix());
  LimitConnect(fd.get(), kBeginNs);
  if (const int error = utproxy::Connect(fd.get(), address); error != 0) {
    return NotThere(path, error == ENOENT || error == ECONNREFUSED
                              ? "none runs there"
                              : ErrnoStatus(error, "connect").message());
  }
  std::unique_ptr<Predecessor> self(new Predecessor(std::move(fd)));
  if (!SendLine(self->fd_.get(), {{"command", "take_over"}}, {})) {
    return NotThere(path, "it does not listen");
  }
  if (const absl::Status status = self->ReceiveEstate(); !status.ok()) {
    return NotThere(path, status.message());
  }
  return self;
}

absl::Status Predecessor::ReceiveEstate() {
  std::vector<UniqueFd> fds;
  size_t next = 0;
  bool more = true;
  while (more) {
    const size_t end = rest_.find('\n');
    if (end == std::string::npos) {
      if (ReceiveSome(fd_.get(), &rest_, &fds)) continue;
      return absl::UnavailableError("it gave no answer; was that an older version?");
    }
    const Json line = Json::parse(rest_.substr(0, end), nullptr, /*allow_exceptions=*/false);
    rest_.erase(0, end + 1);
    if (!line.is_object()) return absl::InternalError("it sent what is no answer");
    if (line.contains("error")) return absl::FailedPreconditionError(line["error"].dump());
    if (!line.contains("estate")) continue;  // {"begin": true}
    if (line.value("network", uint64_t{0}) != NetworkNamespace()) {
      return absl::FailedPreconditionError("it runs in another network namespace");
    }
    for (const Json& name : line["estate"]) {
      if (next == fds.size()) return absl::InternalError("it sent fewer descriptors than it said");
      estate_.Add(name.get<std::string>(), std::move(fds[next++]));
    }
    more = line.value("more", false);
  }
  return absl::OkStatus();
}

absl::Status Predecessor::SayAndHear(const char* word, const char* answer) {
  const absl::Status gone = absl::UnavailableError(
      absl::StrCat("take over: the running utproxy did not say \"", answer, "\", and goes on"));
  if (!SendLine(fd_.get(), {{word, true}}, {})) return gone;
  const std::optional<std::string> line =
      ReadLine(fd_.get(), -1, kMaxLine, MonotonicNs() + 2 * kPauseNs, &rest_);
  if (!line) return gone;
  const Json json = Json::parse(*line, nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.contains(answer) ? absl::OkStatus() : gone;
}

absl::Status Predecessor::Pause() { return SayAndHear("go", "paused"); }
absl::Status Predecessor::Finish() { return SayAndHear("done", "end"); }

}  // namespace utproxy
