// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_CGROUP_WATCH_H_
#define UTPROXY_RULESET_CGROUP_WATCH_H_

#include <absl/status/statusor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"

namespace utproxy {

// Tells when cgroups come and go. A service manager makes a service's cgroup anew with each start,
// and nft's rule, which goes by its id, is blind to the new one: the proxy would be handed its own
// packets. For one thread.
class CgroupWatch {
 public:
  // `paths` are relative to the root of the cgroup v2 tree; none need exist.
  static absl::StatusOr<std::unique_ptr<CgroupWatch>> Start(std::vector<std::string> paths);

  // Readable when Changed() is worth a call; it may have come to nothing (inotify(7)).
  int fd() const { return inotify_.get(); }

  // Whether any of them has another id than at the last call, or at the start. Never blocks.
  bool Changed();

  // Those that are not there, as of the last call.
  std::vector<std::string> Missing() const;

 private:
  explicit CgroupWatch(std::vector<std::string> paths) : paths_(std::move(paths)) {}
  void WatchParents();
  std::vector<uint64_t> Ids() const;

  const std::vector<std::string> paths_;
  std::string root_;  // of the tree
  UniqueFd inotify_;
  std::vector<uint64_t> ids_;  // 0: not there
};

}  // namespace utproxy

#endif  // UTPROXY_RULESET_CGROUP_WATCH_H_
