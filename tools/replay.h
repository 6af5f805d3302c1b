// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_REPLAY_H_
#define UTPROXY_TOOLS_REPLAY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/json.h"
#include "daemon/snapshot.h"
#include "decide/spread.h"
#include "trace/capture_reader.h"
#include "trace/port_lists.h"
#include "utproxy/policy.h"

namespace utproxy::tools {

// Decides captured packets over a snapshot. For one thread; any packet is fine.
class Replay {
 public:
  // `iif` is the interface of packets whose capture tells none; may be empty.
  // `spread` is active where the target has several on-ports.
  Replay(HostSnapshot snapshot, const Policy& policy, const std::string& iif,
         const SpreadSpec& spread = {});
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  // The object of one decision with its time. Of a packet that `utproxy trace --write` wrote, also
  // the other keys of its object: target, queue, id, wait_ns, decide_ns.
  Json Decide(const CapturedPacket& captured, bool steps);

  // Packets whose listener was looked up at their own destination since no address of their
  // interface is known.
  uint64_t without_address() const { return without_address_; }
  // Packets of which a kernel with these sockets might decide otherwise.
  uint64_t uncertain() const { return uncertain_; }

 private:
  std::vector<PortCandidate> PortsFor(const Packet& packet);
  Packet PacketOf(const CapturedPacket& captured, const Json& prefix);

  HostSnapshot snapshot_;
  const Policy policy_;
  const SpreadSpec spread_;
  PortLists lookup_;
  uint32_t iif_;
  uint64_t without_address_ = 0;
  uint64_t uncertain_ = 0;
};

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_REPLAY_H_
