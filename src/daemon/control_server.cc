// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/control_server.h"

#include <absl/strings/str_cat.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace utproxy {
namespace {

constexpr int64_t kRequestNs = 2 * kNsPerSec;  // for a client's whole request
constexpr int64_t kStallNs = 10 * kNsPerSec;   // without a byte taken of the answer
// A request that takes the daemon a while (a large table) must not fail for the asker.
constexpr int64_t kAnswerNs = 30 * kNsPerSec;
constexpr int64_t kPatienceNs = int64_t{86400} * 365 * kNsPerSec;  // of streams
constexpr size_t kMaxAnswerLine = size_t{1} << 20;

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
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

// A socket file left by a daemon that was killed refuses connections.
absl::Status RemoveStale(const std::string& path, const sockaddr_un& address) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) < 0) return absl::OkStatus();
  if (!S_ISSOCK(info.st_mode)) {
    return WithRemedy(
        absl::AlreadyExistsError(absl::StrCat("control socket ", path, ": not a socket")),
        "Name another path with --control.");
  }
  ASSIGN_OR_RETURN(const UniqueFd probe, OpenUnix());
  const timeval timeout{.tv_sec = 1, .tv_usec = 0};  // its backlog may be full
  (void)::setsockopt(probe.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  if (Connect(probe.get(), address) != ECONNREFUSED) {
    return WithRemedy(absl::AlreadyExistsError(absl::StrCat(
                          "control socket ", path, ": another utproxy is listening there")),
                      "Stop it, or name another path with --control.");
  }
  if (::unlink(path.c_str()) < 0) return ErrnoStatus(errno, absl::StrCat("remove ", path));
  return absl::OkStatus();
}

// Waits until `fd` is ready for `events`; false at the deadline, or where `stop` (may be -1) became
// readable.
bool WaitFor(int fd, short events, int stop, int64_t deadline_ns) {
  while (true) {
    const int64_t left_ms = (deadline_ns - MonotonicNs()) / kNsPerMs;
    if (left_ms < 0) return false;
    std::array<pollfd, 2> fds{
        {{.fd = fd, .events = events, .revents = 0}, {.fd = stop, .events = POLLIN, .revents = 0}}};
    const int n =
        ::poll(fds.data(), fds.size(), static_cast<int>(std::min<int64_t>(left_ms, 60'000)) + 1);
    if (n < 0 && errno != EINTR) return false;
    if (fds[1].revents != 0) return false;
    if (fds[0].revents != 0) return true;
  }
}

// False where the peer has gone or reads nothing for `stall_ns`.
bool WriteAll(int fd, int stop, absl::string_view bytes, int64_t stall_ns = kStallNs) {
  while (!bytes.empty()) {
    if (!WaitFor(fd, POLLOUT, stop, MonotonicNs() + stall_ns)) return false;
    const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

// Reads up to and without the first newline. nullopt at the end of the stream, at the deadline, or
// where the line is longer than `max`. What follows the newline stays in `rest`.
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

Json ErrorObject(absl::string_view message) {
  Json json;
  json["error"] = std::string(message);
  return json;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Open(const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  RETURN_IF_ERROR(RemoveStale(path, address));
  ASSIGN_OR_RETURN(UniqueFd listener, OpenUnix());
  // Made 0600, widened after: at no moment is it open to all.
  const mode_t old_mask = ::umask(0177);
  const int bound =
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error = errno;
  ::umask(old_mask);
  if (bound < 0) {
    return WithRemedy(ErrnoStatus(error, absl::StrCat("bind control socket ", path)),
                      "Name a path that can be written with --control.");
  }
  if (::chmod(path.c_str(), 0660) < 0 || ::listen(listener.get(), 16) < 0) {
    return ErrnoStatus(errno, absl::StrCat("open control socket ", path));
  }
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return ErrnoStatus(errno, "create eventfd");
  return std::unique_ptr<ControlServer>(
      new ControlServer(path, std::move(listener), std::move(stop)));
}

void ControlServer::Serve(Handler handler) {
  handler_ = std::move(handler);
  thread_ = std::thread([this] { Loop(); });
}

ControlServer::~ControlServer() {
  (void)::eventfd_write(stop_.get(), 1);
  if (thread_.joinable()) thread_.join();
  for (Client& client : clients_) client.thread.join();
  (void)::unlink(path_.c_str());
}

void ControlServer::Loop() {
  ::prctl(PR_SET_NAME, "utproxy-ctl");
  while (true) {
    ReapClients();
    const bool room = clients_.size() < kMaxClients;
    std::array<pollfd, 2> fds{
        {{.fd = stop_.get(), .events = POLLIN, .revents = 0},
         {.fd = room ? listener_.get() : -1, .events = POLLIN, .revents = 0}}};
    // Ended clients are looked for now and then where there is no room for more.
    if (::poll(fds.data(), fds.size(), room ? -1 : 50) < 0 && errno != EINTR) return;
    if (fds[0].revents != 0) return;
    if (fds[1].revents != 0) Accept();
  }
}

void ControlServer::Accept() {
  UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd.valid()) {
    // The listener stays readable without descriptors to accept with: do not spin on it.
    if (errno == EMFILE || errno == ENFILE) ::usleep(100'000);
    return;
  }
  Client& client = clients_.emplace_back();
  client.thread = std::thread([this, &client, fd = fd.release()] {
    ServeClient(fd);
    ::close(fd);
    client.done.store(true, std::memory_order_release);
  });
}

void ControlServer::ReapClients() {
  for (auto it = clients_.begin(); it != clients_.end();) {
    if (!it->done.load(std::memory_order_acquire)) {
      ++it;
      continue;
    }
    it->thread.join();
    it = clients_.erase(it);
  }
}

bool ControlServer::Writer::operator()(const Json& json) const {
  return WriteAll(client_, stop_, absl::StrCat(JsonLine(json), "\n"));
}

bool ControlServer::Writer::Lines(absl::string_view lines) const {
  return WriteAll(client_, stop_, lines, kPatienceNs);
}

// The client is not waited for, only its end: POLLHUP is reported unasked.
bool ControlServer::Writer::Wait(int ms) const {
  std::array<pollfd, 2> fds{
      {{.fd = client_, .events = 0, .revents = 0}, {.fd = stop_, .events = POLLIN, .revents = 0}}};
  return ::poll(fds.data(), fds.size(), ms) <= 0;
}

void ControlServer::ServeClient(int fd) {
  const Writer write(fd, stop_.get());
  std::string rest;
  const std::optional<std::string> line =
      ReadLine(fd, stop_.get(), kMaxRequestBytes, MonotonicNs() + kRequestNs, &rest);
  if (!line || line->size() > kMaxRequestBytes) {
    (void)write(ErrorObject("request: one line of at most 4096 bytes is expected"));
    return;
  }
  const Json request = Json::parse(*line, nullptr, /*allow_exceptions=*/false);
  if (!request.is_object() || !request.contains("command") || !request["command"].is_string()) {
    (void)write(ErrorObject("request: not a JSON object with a \"command\""));
    return;
  }
  const absl::Status status = handler_(request, write);
  if (status.ok()) {
    (void)write({{"end", true}});
  } else {
    (void)write(ErrorObject({status.message().data(), status.message().size()}));
  }
}

namespace {

// Hands each line of the answer to `handler`, until it returns false or the end has come.
absl::Status Ask(const std::string& path, const Json& request, int64_t patience_ns,
                 const std::function<bool(Json)>& handler, const std::function<void()>& pause) {
  const std::string what = absl::StrCat("ask the daemon at ", path);
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenUnix());
  if (const int error = Connect(fd.get(), address); error != 0) {
    return WithRemedy(ErrnoStatus(error, what),
                      "Start it with 'utproxy run', or name its socket with --control.");
  }
  if (!WriteAll(fd.get(), -1, absl::StrCat(JsonLine(request), "\n"))) {
    return absl::UnavailableError(absl::StrCat(what, ": it does not read"));
  }
  std::string rest;
  while (true) {
    if (rest.find('\n') == std::string::npos) pause();
    const std::optional<std::string> line =
        ReadLine(fd.get(), -1, kMaxAnswerLine, MonotonicNs() + patience_ns, &rest);
    if (!line) return absl::DataLossError(absl::StrCat(what, ": the answer was cut short"));
    Json answer = Json::parse(*line, nullptr, /*allow_exceptions=*/false);
    if (!answer.is_object()) return absl::DataLossError(absl::StrCat(what, ": malformed answer"));
    if (answer.contains("error") && answer["error"].is_string()) {
      return absl::FailedPreconditionError(
          absl::StrCat(what, ": ", answer["error"].get<std::string>()));
    }
    if (answer.contains("end") || !handler(std::move(answer))) return absl::OkStatus();
  }
}

}  // namespace

absl::Status AskDaemon(const std::string& path, const Json& request,
                       const std::function<void(const Json&)>& handler) {
  std::vector<Json> answers;
  RETURN_IF_ERROR(Ask(
      path, request, kAnswerNs,
      [&](Json answer) {
        answers.push_back(std::move(answer));
        return true;
      },
      [] {}));
  for (const Json& each : answers) handler(each);
  return absl::OkStatus();
}

absl::Status StreamFromDaemon(const std::string& path, const Json& request,
                              const std::function<bool(const Json&)>& handler,
                              const std::function<void()>& pause) {
  return Ask(
      path, request, kPatienceNs, [&](Json answer) { return handler(answer); }, pause);
}

}  // namespace utproxy
