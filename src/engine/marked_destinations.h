// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ENGINE_MARKED_DESTINATIONS_H_
#define UTPROXY_ENGINE_MARKED_DESTINATIONS_H_

#include <absl/container/flat_hash_map.h>

#include <array>
#include <cstdint>
#include <optional>

#include "engine/token_bucket.h"
#include "netlink/socket.h"
#include "utproxy/packet.h"

namespace utproxy {

// Tells addresses whose packets this host takes in for no other reason than a mark: those that
// routing without it does not call local, by an interface's address, a `local` route or otherwise.
// One thread, in whose network namespace the kernel is asked.
class MarkedDestinations {
 public:
  // Whether the packet's destination is one, by the tables that ordinary packets are routed by (not
  // those of a VRF). False also where that cannot be told now: so that a flood does not buy a
  // question a packet, the kernel is asked some hundred times a second at most. Answers hold for a
  // second. `now_ns`: any clock that does not go back.
  bool Has(const Packet& packet, int64_t now_ns);

 private:
  static constexpr int64_t kHoldsNs = 1'000'000'000;
  static constexpr size_t kMostKnown = 4096;

  struct Known {
    bool only_by_mark = false;
    int64_t at_ns = 0;
  };
  bool Ask(const Packet& packet);

  std::optional<NetlinkSocket> socket_;
  absl::flat_hash_map<std::array<uint8_t, 16>, Known> known_;  // by address
  TokenBucket questions_{500, 64};
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_MARKED_DESTINATIONS_H_
