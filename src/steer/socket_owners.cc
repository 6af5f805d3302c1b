// SPDX-License-Identifier: GPL-3.0-or-later
#include "steer/socket_owners.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/string_view.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "base/status.h"

namespace utproxy {
namespace {

constexpr size_t kRecentOwners = 8;
// PIDFD_THREAD (Linux 6.9), which names a thread that does not lead its process.
constexpr unsigned kPidfdThread = O_EXCL;

struct CloseDir {
  void operator()(DIR* dir) const { ::closedir(dir); }
};

// The entries of `path` that are numbers; none where it cannot be read.
std::vector<pid_t> NumbersIn(const std::string& path) {
  std::vector<pid_t> numbers;
  const std::unique_ptr<DIR, CloseDir> dir(::opendir(path.c_str()));
  if (dir == nullptr) return numbers;
  while (const dirent* entry = ::readdir(dir.get())) {  // NOLINT(concurrency-mt-unsafe): own DIR
    pid_t number = 0;
    if (absl::SimpleAtoi(entry->d_name, &number) && number >= 0) numbers.push_back(number);
  }
  return numbers;
}

uint64_t CookieOf(int fd) {
  uint64_t cookie = 0;
  socklen_t len = sizeof cookie;
  return ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0 ? cookie : 0;
}

// Whether a thread has a table of open files that is not its leader's: it was cloned without
// CLONE_FILES, has called unshare(CLONE_FILES), or the leader has ended and has none.
bool HasOwnFiles(pid_t leader, pid_t thread) {
  return ::syscall(SYS_kcmp, leader, thread, KCMP_FILES, 0, 0) > 0;
}

}  // namespace

// One search: what is looked for, and what came of it.
struct SocketOwners::Search {
  uint64_t cookie;
  std::string link;  // "socket:[INODE]"
  UniqueFd found;
  absl::Status refusal;     // the last reason why a holder could not be reached
  bool unreadable = false;  // a process did not let itself be looked at

  void NoteError(int error) { unreadable |= error == EACCES || error == EPERM; }

  bool IsLink(int dir_fd, const char* name) {
    char target[64];
    const ssize_t len = ::readlinkat(dir_fd, name, target, sizeof target);
    if (len < 0) NoteError(errno);
    return len > 0 && absl::string_view(target, static_cast<size_t>(len)) == link;
  }

  // Duplicates descriptor `fd` of a process, or of a thread with files of its own. By now it can
  // be another socket's, so only the cookie proves it right.
  bool Duplicate(pid_t pid, int fd, unsigned pidfd_flags) {
    const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, pidfd_flags)));
    if (!pidfd.valid()) {
      refusal = ErrnoStatus(errno, absl::StrCat("pidfd_open process ", pid));
      return false;
    }
    UniqueFd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), fd, 0)));
    if (!copy.valid()) {
      refusal =
          ErrnoStatus(errno, absl::StrCat("pidfd_getfd descriptor ", fd, " of process ", pid));
      return false;
    }
    if (CookieOf(copy.get()) != cookie) return false;
    found = std::move(copy);
    return true;
  }

  // Looks through the descriptors below `fd_dir`, those of `pid`.
  bool TryDescriptors(const std::string& fd_dir, pid_t pid, unsigned pidfd_flags) {
    const std::unique_ptr<DIR, CloseDir> dir(::opendir(fd_dir.c_str()));
    if (dir == nullptr) {
      NoteError(errno);
      return false;
    }
    const int dir_fd = ::dirfd(dir.get());
    while (const dirent* entry = ::readdir(dir.get())) {  // NOLINT(concurrency-mt-unsafe): own DIR
      int fd = -1;
      if (!IsLink(dir_fd, entry->d_name) || !absl::SimpleAtoi(entry->d_name, &fd)) continue;
      if (Duplicate(pid, fd, pidfd_flags)) return true;
    }
    return false;
  }

  bool TryProcess(pid_t pid) { return TryDescriptors(absl::StrCat("/proc/", pid, "/fd"), pid, 0); }

  // The descriptors that are not the leader's. kcmp() spares reading the same table once a thread.
  bool TryThreads(pid_t pid) {
    const std::string tasks = absl::StrCat("/proc/", pid, "/task");
    for (const pid_t tid : NumbersIn(tasks)) {
      if (tid == pid || !HasOwnFiles(pid, tid)) continue;
      if (TryDescriptors(absl::StrCat(tasks, "/", tid, "/fd"), tid, kPidfdThread)) return true;
    }
    return false;
  }
};

bool SocketOwners::TryRecent(Search& search) {
  for (const pid_t pid : std::vector<pid_t>(recent_.begin(), recent_.end())) {
    if (!search.TryProcess(pid)) continue;
    Remember(pid);
    return true;
  }
  return false;
}

bool SocketOwners::TryAll(Search& search) {
  ++scans_;
  const std::vector<pid_t> pids = NumbersIn("/proc");
  for (const pid_t pid : pids) {
    if (!search.TryProcess(pid)) continue;
    Remember(pid);
    return true;
  }
  return std::any_of(pids.begin(), pids.end(), [&](pid_t pid) { return search.TryThreads(pid); });
}

void SocketOwners::Remember(pid_t pid) {
  recent_.erase(std::remove(recent_.begin(), recent_.end(), pid), recent_.end());
  recent_.push_front(pid);
  if (recent_.size() > kRecentOwners) recent_.pop_back();
}

absl::StatusOr<UniqueFd> SocketOwners::Take(uint64_t cookie, uint32_t inode) {
  Search search{.cookie = cookie, .link = absl::StrCat("socket:[", inode, "]")};
  if (inode != 0 && (TryRecent(search) || TryAll(search))) return std::move(search.found);
  const absl::Status status =
      !search.refusal.ok()
          ? search.refusal
          : absl::NotFoundError(absl::StrCat(
                "find the owner of listener socket ", inode, ": no ",
                search.unreadable ? "process that may be read holds it" : "process holds it"));
  if (!search.unreadable && !absl::IsPermissionDenied(status)) return status;
  return WithRemedy(
      status, "run as root or with CAP_SYS_PTRACE, and with kernel.yama.ptrace_scope below 3");
}

}  // namespace utproxy
