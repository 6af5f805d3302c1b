// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/control_server.h"

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
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
#include "daemon/control_socket.h"
#include "daemon/json_line.h"

namespace utproxy {
namespace {

constexpr int64_t kRequestNs = 2 * kNsPerSec;  // for a client's whole request
constexpr int64_t kRoomNs = kNsPerSec;         // how long one waits for another to end
constexpr int64_t kStallNs = 10 * kNsPerSec;   // without a byte taken of the answer

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
  LimitConnect(probe.get(), kNsPerSec);
  if (Connect(probe.get(), address) != ECONNREFUSED) {
    return WithRemedy(absl::AlreadyExistsError(absl::StrCat(
                          "control socket ", path, ": another utproxy is listening there")),
                      "Stop it, or name another path with --control.");
  }
  if (::unlink(path.c_str()) < 0) return ErrnoStatus(errno, absl::StrCat("remove ", path));
  return absl::OkStatus();
}

Json ErrorObject(absl::string_view message) {
  Json json;
  json["error"] = std::string(message);
  return json;
}

enum class Right : uint8_t { kNone, kRead, kAll };

bool HasGroup(int fd, gid_t gid, gid_t group) {
  if (gid == group) return true;
  std::vector<gid_t> groups(64);
  auto length = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  int result = ::getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &length);
  if (result != 0 && errno == ERANGE) {  // `length` is what they need
    groups.resize(length / sizeof(gid_t));
    result = ::getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &length);
  }
  groups.resize(result == 0 ? length / sizeof(gid_t) : 0);
  return std::find(groups.begin(), groups.end(), group) != groups.end();
}

// As the other end was when it connected.
Right RightOf(int fd, const ControlAccess& access) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return Right::kNone;
  if (peer.uid == 0 || peer.uid == access.user) return Right::kAll;
  return HasGroup(fd, peer.gid, access.group) ? Right::kRead : Right::kNone;
}

// The socket file's folder, where it is missing.
void MakeFolder(const std::filesystem::path& folder, const ControlAccess& access) {
  std::error_code ignored;
  if (!std::filesystem::create_directories(folder, ignored)) return;
  (void)!::lchown(folder.c_str(), access.user, access.group);
}

absl::StatusOr<UniqueFd> BindTo(const std::string& path, const sockaddr_un& address) {
  ASSIGN_OR_RETURN(UniqueFd listener, OpenUnix());
  const mode_t old_mask = ::umask(0117);  // 0660
  const int bound =
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error = errno;
  ::umask(old_mask);
  if (bound == 0) return listener;
  return WithRemedy(ErrnoStatus(error, absl::StrCat("bind control socket ", path)),
                    "Name a path that can be written with --control.");
}

bool IsSocketFile(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode);
}

// The file may lie in a folder of the user that the daemon becomes, who could put a link to any
// other in its place: only a socket is given away, and no link followed.
absl::Status GiveTo(const std::string& path, const ControlAccess& access) {
  const std::string what = absl::StrCat("give control socket ", path, " to group ", access.group);
  const UniqueFd file(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat info {};
  if (!file.valid() || ::fstat(file.get(), &info) != 0) return ErrnoStatus(errno, what);
  if (!S_ISSOCK(info.st_mode)) return ErrnoStatus(ENOTSOCK, what);
  if (::fchownat(file.get(), "", access.user, access.group, AT_EMPTY_PATH) == 0) {
    return absl::OkStatus();
  }
  return WithRemedy(ErrnoStatus(errno, what),
                    "Start it as root, or name a group of its user's (--control-group)");
}

// Of a Unix socket; empty where it has none.
std::string BoundPath(int fd) {
  sockaddr_un address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return "";
  if (address.sun_family != AF_UNIX) return "";
  return std::string(address.sun_path, ::strnlen(address.sun_path, sizeof address.sun_path));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Open(const std::string& path,
                                                                   const ControlAccess& access,
                                                                   UniqueFd inherited) {
  ASSIGN_OR_RETURN(const sockaddr_un address, ControlAddress(path));
  UniqueFd listener = std::move(inherited);
  // Its file may have been taken away with its folder.
  const bool taken = listener.valid() && BoundPath(listener.get()) == path && IsSocketFile(path);
  if (!taken) {
    listener.reset();
    MakeFolder(std::filesystem::path(path).parent_path(), access);
    RETURN_IF_ERROR(RemoveStale(path, address));
    ASSIGN_OR_RETURN(listener, BindTo(path, address));
  }
  if (const absl::Status given = GiveTo(path, access); !given.ok()) {
    if (!taken) (void)::unlink(path.c_str());
    return given;
  }
  if (::listen(listener.get(), 16) < 0) {
    return ErrnoStatus(errno, absl::StrCat("open control socket ", path));
  }
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return ErrnoStatus(errno, "create eventfd");
  return std::unique_ptr<ControlServer>(
      new ControlServer(path, access, std::move(listener), std::move(stop)));
}

void ControlServer::Serve(Handler handler) {
  handler_ = std::move(handler);
  thread_ = std::thread([this] { Loop(); });
}

ControlServer::~ControlServer() {
  (void)::eventfd_write(stop_.get(), 1);
  if (thread_.joinable()) thread_.join();
  for (Client& client : clients_) client.thread.join();
  if (!path_.empty()) (void)::unlink(path_.c_str());
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
    if (room) {
      full_ns_ = 0;
    } else {
      RefuseWhoWaited();
    }
  }
}

// For those that there is no room for.
void ControlServer::RefuseWhoWaited() {
  pollfd waiting{.fd = listener_.get(), .events = POLLIN, .revents = 0};
  while (::poll(&waiting, 1, 0) > 0) {
    if (full_ns_ == 0) full_ns_ = MonotonicNs();
    if (MonotonicNs() - full_ns_ < kRoomNs) return;
    const UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd.valid()) return;
    Refuse(fd.get(), absl::StrCat("it has ", kMaxClients,
                                  " clients already, as many as it serves at a time; end one, such "
                                  "as a 'utproxy trace'"));
  }
  full_ns_ = 0;
}

// An empty socket takes it at once.
void ControlServer::Refuse(int fd, const std::string& why) const {
  (void)WriteAll(fd, stop_.get(), JsonLine(ErrorObject(why)) + "\n", 0);
}

bool ControlServer::RoomFor(bool trusted) const {
  const auto readers = std::count_if(clients_.begin(), clients_.end(),
                                     [](const Client& client) { return !client.trusted; });
  return trusted || static_cast<size_t>(readers) < kMaxReaders;
}

void ControlServer::Accept() {
  UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd.valid()) {
    // The listener stays readable without descriptors to accept with: do not spin on it.
    if (errno == EMFILE || errno == ENFILE) ::usleep(100'000);
    return;
  }
  const Right right = RightOf(fd.get(), access_);
  if (right == Right::kNone) {
    return Refuse(fd.get(), "permission denied: for root, and members of the socket's group");
  }
  const bool trusted = right == Right::kAll;
  if (!RoomFor(trusted)) {
    return Refuse(fd.get(), absl::StrCat("it has ", kMaxReaders,
                                         " clients already that are not root's; end one"));
  }
  Client& client = clients_.emplace_back();
  client.trusted = trusted;
  client.thread = std::thread([this, &client, trusted, fd = fd.release()] {
    ServeClient(fd, trusted);
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
  return WriteAll(client_, stop_, absl::StrCat(JsonLine(json), "\n"), kStallNs);
}

bool ControlServer::Writer::Lines(absl::string_view lines) const {
  return WriteAll(client_, stop_, lines, kNeverNs);
}

// The client is not waited for, only its end: POLLHUP is reported unasked.
bool ControlServer::Writer::Wait(int ms) const {
  std::array<pollfd, 2> fds{
      {{.fd = client_, .events = 0, .revents = 0}, {.fd = stop_, .events = POLLIN, .revents = 0}}};
  return ::poll(fds.data(), fds.size(), ms) <= 0;
}

void ControlServer::ServeClient(int fd, bool trusted) {
  const Writer write(fd, stop_.get(), trusted);
  // Before the request is read, so that it comes however long that takes.
  if (!write({{"begin", true}})) return;
  std::string rest;
  const std::optional<std::string> line =
      ReadLine(fd, stop_.get(), kMaxRequestBytes, MonotonicNs() + kRequestNs, &rest);
  if (!line || line->size() > kMaxRequestBytes) {
    (void)write(ErrorObject("request: one line of at most 4096 bytes is expected"));
    return;
  }
  const Json request = ParseLine(*line);
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

}  // namespace utproxy
