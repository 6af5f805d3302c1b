// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/socket_owner.h"

#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/strip.h>

#include <filesystem>
#include <fstream>

namespace utproxy {
namespace {

namespace fs = std::filesystem;

// "socket:[12345]" → 12345; 0 for any other link.
uint32_t SocketInode(const fs::path& link) {
  std::error_code error;
  const std::string target = fs::read_symlink(link, error).string();
  absl::string_view text = target;
  uint32_t inode = 0;
  if (error || !absl::ConsumePrefix(&text, "socket:[") || !absl::ConsumeSuffix(&text, "]") ||
      !absl::SimpleAtoi(text, &inode)) {
    return 0;
  }
  return inode;
}

std::string CommOf(const fs::path& process) {
  std::string comm;
  std::ifstream file(process / "comm");
  std::getline(file, comm);
  return comm;
}

// The line of cgroup v2, "0::/path"; the root is no group.
std::string CgroupOf(const fs::path& process) {
  std::ifstream file(process / "cgroup");
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, "0::") && line != "0::/") return line.substr(3);
  }
  return "";
}

}  // namespace

OwnersByInode ReadSocketOwners() {
  OwnersByInode owners;
  std::error_code ignored;
  for (fs::directory_iterator it("/proc", ignored), end; it != end; it.increment(ignored)) {
    int pid = 0;
    if (!absl::SimpleAtoi(it->path().filename().string(), &pid)) continue;
    std::error_code unreadable;
    fs::directory_iterator fd(it->path() / "fd", unreadable);
    for (; !unreadable && fd != fs::directory_iterator(); fd.increment(unreadable)) {
      const uint32_t inode = SocketInode(fd->path());
      if (inode == 0 || owners.contains(inode)) continue;
      SocketOwner owner{
          .pid = pid, .fd = -1, .comm = CommOf(it->path()), .cgroup = CgroupOf(it->path())};
      (void)absl::SimpleAtoi(fd->path().filename().string(), &owner.fd);
      owners[inode] = std::move(owner);
    }
  }
  return owners;
}

}  // namespace utproxy
