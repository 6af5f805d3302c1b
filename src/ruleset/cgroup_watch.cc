// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/cgroup_watch.h"

#include <absl/strings/str_cat.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/status.h"
#include "ruleset/cgroup.h"

namespace utproxy {

absl::StatusOr<std::unique_ptr<CgroupWatch>> CgroupWatch::Start(std::vector<std::string> paths) {
  std::unique_ptr<CgroupWatch> watch(new CgroupWatch(std::move(paths)));
  ASSIGN_OR_RETURN(watch->root_, CgroupRoot());
  watch->inotify_ = UniqueFd(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!watch->inotify_.valid()) return ErrnoStatus(errno, "watch cgroups");
  watch->WatchParents();
  watch->ids_ = watch->Ids();
  return watch;
}

// Each level above: also those levels may come later. What is watched already stays so; where a
// watch can't be had, the caller's own rounds find the change.
void CgroupWatch::WatchParents() {
  for (const std::string& path : paths_) {
    for (size_t end = 0; end != std::string::npos; end = path.find('/', end + 1)) {
      const std::string parent = absl::StrCat(root_, "/", path.substr(0, end));
      (void)::inotify_add_watch(inotify_.get(), parent.c_str(), IN_CREATE | IN_DELETE | IN_ONLYDIR);
    }
  }
}

std::vector<uint64_t> CgroupWatch::Ids() const {
  std::vector<uint64_t> ids;
  for (const std::string& path : paths_) {
    struct stat info {};
    const bool there = ::stat(absl::StrCat(root_, "/", path).c_str(), &info) == 0;
    ids.push_back(there ? info.st_ino : 0);
  }
  return ids;
}

bool CgroupWatch::Changed() {
  alignas(inotify_event) std::array<char, 4096> events;
  while (::read(inotify_.get(), events.data(), events.size()) > 0) {
  }
  WatchParents();  // before the look, so that nothing happens between the two unseen
  std::vector<uint64_t> now = Ids();
  const bool changed = now != ids_;
  ids_ = std::move(now);
  return changed;
}

std::vector<std::string> CgroupWatch::Missing() const {
  std::vector<std::string> missing;
  for (size_t i = 0; i < paths_.size(); ++i) {
    if (ids_[i] == 0) missing.push_back(paths_[i]);
  }
  return missing;
}

}  // namespace utproxy
