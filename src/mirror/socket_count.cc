// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/socket_count.h"

#include <fstream>
#include <sstream>
#include <string>

namespace utproxy {

// Lines are a protocol and pairs of a name and a number: "TCP: inuse 5 orphan 0 tw 2 alloc 9 mem
// 1".
size_t CountTcpSockets(std::istream& sockstat) {
  size_t count = 0;
  for (std::string line; std::getline(sockstat, line);) {
    std::istringstream fields(line);
    std::string name;
    fields >> name;
    if (name != "TCP:" && name != "TCP6:") continue;
    for (size_t value = 0; fields >> name >> value;) {
      if (name == "inuse" || name == "tw") count += value;
    }
  }
  return count;
}

size_t CountTcpSockets() {
  size_t count = 0;
  for (const char* path : {"/proc/thread-self/net/sockstat", "/proc/thread-self/net/sockstat6"}) {
    std::ifstream sockstat(path);
    count += CountTcpSockets(sockstat);
  }
  return count;
}

}  // namespace utproxy
