// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_CHURN_IDLE_H_
#define UTPROXY_TESTS_CHURN_IDLE_H_

#include <sys/types.h>

#include <cstddef>
#include <vector>

#include "base/fd.h"

namespace utproxy::churn {

// Connected sockets in the calling thread's network namespace that do nothing, for as long as this
// lives: `tcp` of TCP, both ends of connections over lo, and `udp` of UDP. Processes of their own
// hold them, as one may not open so many.
class IdleSockets {
 public:
  // Returns when all of them are there.
  IdleSockets(size_t tcp, size_t udp);
  ~IdleSockets();

 private:
  void Start(size_t tcp, size_t udp, size_t number);

  struct Holder {
    pid_t pid;
    UniqueFd end;  // its closing ends the process
  };
  std::vector<Holder> holders_;
};

}  // namespace utproxy::churn

#endif  // UTPROXY_TESTS_CHURN_IDLE_H_
