// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_OWNER_FILLER_H_
#define UTPROXY_DAEMON_OWNER_FILLER_H_

#include <cstdint>

#include "daemon/json.h"
#include "diagnose/socket_owner.h"

namespace utproxy {

// Says whose the sockets of the daemon's answers are. The daemon has not the right to look into
// other processes; who asks it looks with their own. One thread.
class OwnerFiller {
 public:
  // Adds pid, comm and cgroup to what has an inode: `json` itself, its "socket", and the candidates
  // of its "steps". Walks through /proc where there is one that it does not know, at most every two
  // seconds.
  void Fill(Json* json);

 private:
  void FillOne(Json* socket);

  OwnersByInode owners_;
  int64_t walked_ns_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_OWNER_FILLER_H_
