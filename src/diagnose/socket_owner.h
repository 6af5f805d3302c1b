// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_SOCKET_OWNER_H_
#define UTPROXY_DIAGNOSE_SOCKET_OWNER_H_

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <string>

namespace utproxy {

struct SocketOwner {
  int pid = 0;
  int fd = -1;         // of that process
  std::string comm;    // as in /proc/PID/comm: any bytes
  std::string cgroup;  // its cgroup v2 path, which tells a container's; empty where there is none
};

// The processes that hold sockets, by the sockets' inodes, from one walk through /proc: the first
// process found for each. Processes whose descriptors may not be read are left out.
using OwnersByInode = absl::flat_hash_map<uint32_t, SocketOwner>;
OwnersByInode ReadSocketOwners();

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_SOCKET_OWNER_H_
