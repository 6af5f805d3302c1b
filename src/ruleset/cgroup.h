// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_CGROUP_H_
#define UTPROXY_RULESET_CGROUP_H_

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstdint>
#include <string>

namespace utproxy {

// Where the cgroup v2 tree is mounted, read from the text of /proc/self/mountinfo (proc(5)); empty
// where it is not.
std::string FindCgroupRoot(absl::string_view mountinfo);

// The same of this process. FailedPrecondition where none is mounted.
absl::StatusOr<std::string> CgroupRoot();

// The 64-bit id that nft's `socket cgroupv2` compares: the inode number of the cgroup's directory
// (kernfs). `path` is relative to the root. The id dies with the cgroup: one that is made again
// under the same path has another. NotFound where there is none.
absl::StatusOr<uint64_t> CgroupId(absl::string_view path);

}  // namespace utproxy

#endif  // UTPROXY_RULESET_CGROUP_H_
