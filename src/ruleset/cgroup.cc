// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/cgroup.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <sys/stat.h>

#include <cerrno>
#include <fstream>
#include <iterator>

#include "base/status.h"

namespace utproxy {

std::string FindCgroupRoot(absl::string_view mountinfo) {
  for (const absl::string_view line : absl::StrSplit(mountinfo, '\n')) {
    // "ID PARENT DEV ROOT MOUNTPOINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS"
    const std::pair<absl::string_view, absl::string_view> halves =
        absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (!absl::StartsWith(halves.second, "cgroup2 ")) continue;
    const std::vector<absl::string_view> fields = absl::StrSplit(halves.first, ' ');
    if (fields.size() > 4) return std::string(fields[4]);
  }
  return "";
}

absl::StatusOr<std::string> CgroupRoot() {
  std::ifstream file("/proc/self/mountinfo");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::string root = FindCgroupRoot(text);
  if (!root.empty()) return root;
  return WithRemedy(absl::FailedPreconditionError("exclude a cgroup: no cgroup v2 is mounted"),
                    "mount it (mount -t cgroup2 none /sys/fs/cgroup), or exclude by mark or user");
}

absl::StatusOr<uint64_t> CgroupId(absl::string_view path) {
  ASSIGN_OR_RETURN(const std::string root, CgroupRoot());
  struct stat info {};
  const std::string full = absl::StrCat(root, "/", path);
  if (::stat(full.c_str(), &info) < 0) {
    return WithRemedy(ErrnoStatus(errno, absl::StrCat("exclude cgroup '", path, "': ", full)),
                      "start the service first, or give the path from `systemctl show -p "
                      "ControlGroup UNIT`");
  }
  return info.st_ino;
}

}  // namespace utproxy
