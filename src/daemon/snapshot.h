// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_SNAPSHOT_H_
#define UTPROXY_DAEMON_SNAPSHOT_H_

#include <absl/container/flat_hash_map.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "daemon/json.h"
#include "decide/list_lookup.h"
#include "diagnose/socket_owner.h"
#include "mirror/interfaces.h"
#include "utproxy/socket_table.h"

namespace utproxy {

// A copy of the mirror's sockets; those of one address and port in the kernel's chain order.
std::vector<Socket> SocketsInOrder(const SocketTable& table);

// The addresses that TPROXY takes for interfaces, as an InterfaceSnapshot has them.
std::vector<InterfaceAddress> PrimaryAddresses(const InterfaceSnapshot& interfaces);

// {"interface": "lan0", "index": 2, "primary4": "10.77.1.1", "primary6": ...} for each interface,
// by index: what a snapshot holds besides sockets.
std::vector<Json> InterfacesJson(const InterfaceSnapshot& interfaces);

// What `utproxy sockets -j --interfaces` writes, read back: all that decisions rest on.
//
// Without lines of interfaces a snapshot is that of `utproxy sockets -j`: no interface has an
// address then, and indexes are given to names as they come up, from kUnknownIndex on.
class HostSnapshot {
 public:
  static constexpr uint32_t kUnknownIndex = 0x40000000;
  static constexpr size_t kMaxSockets = 4'000'000;

  // JSON Lines. An error names the line.
  static absl::StatusOr<HostSnapshot> Read(std::istream& in);

  const std::vector<Socket>& sockets() const { return sockets_; }
  const std::vector<InterfaceAddress>& addresses() const { return addresses_; }
  bool has_interfaces() const { return has_interfaces_; }
  // Processes by the sockets' inodes, where the snapshot tells of them.
  const OwnersByInode& owners() const { return owners_; }

  uint32_t IndexOf(absl::string_view name);
  // As SystemInterfaceName.
  std::string NameOf(uint32_t index) const;

 private:
  absl::Status Take(const Json& json);
  absl::Status TakeInterface(const Json& json);

  std::vector<Socket> sockets_;
  std::vector<InterfaceAddress> addresses_;
  OwnersByInode owners_;
  absl::flat_hash_map<std::string, uint32_t> indexes_;
  absl::flat_hash_map<uint32_t, std::string> names_;
  bool has_interfaces_ = false;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_SNAPSHOT_H_
