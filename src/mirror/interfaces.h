// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_MIRROR_INTERFACES_H_
#define UTPROXY_MIRROR_INTERFACES_H_

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "netlink/socket.h"
#include "utproxy/address.h"

namespace utproxy {

// What the host's interfaces were at one moment. Immutable once published.
struct InterfaceSnapshot {
  struct Interface {
    std::string name;
    bool loopback = false;
    uint32_t vrf = 0;  // the index of the VRF that it is a port of; 0: of none
    std::optional<Address> primary4;
    std::optional<Address> primary6;
  };
  absl::flat_hash_map<uint32_t, Interface> by_index;
  absl::flat_hash_set<std::array<uint8_t, 16>> local_addresses;

  // The address that TPROXY takes where the rule names none. IPv4: the first that is not
  // SECONDARY (nf_tproxy_laddr4); IPv6: the first that is neither TENTATIVE nor DEPRECATED, in the
  // device's list order (nf_tproxy_laddr6), which RTM_GETADDR shares.
  std::optional<Address> PrimaryAddress(uint32_t ifindex, Family family) const;
  // The host has this address on an interface, or it is in 127.0.0.0/8.
  bool IsLocal(const Address& address) const;
  bool IsLoopback(uint32_t ifindex) const;
  // The interface that the kernel's own lookups take a packet to come from that came in here: for a
  // VRF's port the VRF (vrf_ip_rcv), else the same.
  uint32_t DeliveryIndex(uint32_t ifindex) const;
  // "" where there is no such interface.
  std::string NameOf(uint32_t ifindex) const;
  // 0 where there is no such interface.
  uint32_t IndexOf(absl::string_view name) const;
};

// Keeps an InterfaceSnapshot current by rtnetlink's link and address events. Any event leads to a
// new dump, since the events do not tell an address's place in its device's list.
// Refresh() and Update() belong to one thread; the rest may be called from any.
class Interfaces {
 public:
  static absl::StatusOr<std::unique_ptr<Interfaces>> Open();

  // Becomes readable when something changed; then call Update().
  int event_fd() const { return events_.fd(); }
  absl::Status Update();
  // Update() where something changed; else costs one system call.
  absl::Status UpdateIfChanged();
  // An error leaves the old snapshot; unavailable where the lists kept changing while they were
  // read. Try again then.
  absl::Status Refresh();

  std::shared_ptr<const InterfaceSnapshot> Get() const;
  // Rises with every published snapshot, so that a reader can keep its shared_ptr until it does.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

 private:
  Interfaces(NetlinkSocket events, NetlinkSocket requests)
      : events_(std::move(events)), requests_(std::move(requests)) {}

  absl::Status DumpLinks(InterfaceSnapshot* snapshot, bool* interrupted);
  absl::Status DumpAddresses(InterfaceSnapshot* snapshot, bool* interrupted);

  NetlinkSocket events_;
  NetlinkSocket requests_;
  mutable std::mutex mutex_;
  std::shared_ptr<const InterfaceSnapshot> snapshot_;
  std::atomic<uint64_t> generation_{0};
};

// One dump without staying subscribed, for commands that answer once.
absl::StatusOr<std::shared_ptr<const InterfaceSnapshot>> ReadInterfaces();

}  // namespace utproxy

#endif  // UTPROXY_MIRROR_INTERFACES_H_
