// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_PORT_WATCH_H_
#define UTPROXY_DAEMON_PORT_WATCH_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "daemon/target.h"
#include "mirror/interfaces.h"
#include "utproxy/socket_table.h"

namespace utproxy {

// Who listens at one of a target's several on-ports.
struct PortStatus {
  uint16_t port = 0;
  bool backup = false;
  // Of what the target takes: "tcp/ipv4", "udp/ipv6", ... A transparent listener is there for it,
  // for packets of some interface.
  std::vector<std::string> listens;
};

// Empty where the target has one port. Some lookups in the table for each port and interface; any
// thread.
std::vector<PortStatus> PortStatusOf(const Target& target, const SocketTable& table,
                                     const InterfaceSnapshot& interfaces);

// Tells, for the log, of ports that clients are led away from and back to. For one thread.
class PortWatch {
 public:
  // Sentences about what has changed since the last call with a target of that name; of the first,
  // about ports where nobody listens.
  std::vector<std::string> Tell(const std::vector<Target>& targets, const SocketTable& table,
                                const InterfaceSnapshot& interfaces);

 private:
  std::map<std::pair<std::string, uint16_t>, std::vector<std::string>> known_;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_PORT_WATCH_H_
