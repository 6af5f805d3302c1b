// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DECIDE_SPREAD_H_
#define UTPROXY_DECIDE_SPREAD_H_

#include <absl/functional/function_ref.h>
#include <absl/strings/string_view.h>

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "decide/explain.h"
#include "utproxy/packet.h"
#include "utproxy/socket.h"

// One target, several listeners: which of its on-ports a packet goes to. The kernel's TPROXY has
// nothing like it.
namespace utproxy {

// What stays on one port: all that comes from an address, or each flow for itself.
enum class SpreadBy : uint8_t { kClient, kFlow };
// "client", "flow".
const char* SpreadByName(SpreadBy by);

// What a target says of it. A plain value; ports in host byte order, none 0, none twice.
struct SpreadSpec {
  std::vector<uint16_t> ports;    // empty: the target has one port, which Policy::on_port names
  std::vector<uint16_t> backups;  // for when no other is left
  SpreadBy by = SpreadBy::kClient;

  bool active() const { return !ports.empty(); }
  // `ports`, then `backups`.
  std::vector<uint16_t> AllPorts() const;
  // "1090,1091,1092", "1090,1091 (backup 1092)".
  std::string ToString() const;

  friend bool operator==(const SpreadSpec&, const SpreadSpec&) = default;
};

// " --on-port 1090,1091 --backup-port 1092 --spread flow": the options that say so; empty where the
// port is the packet's own.
std::string OnPortWords(const Policy& policy, const SpreadSpec& spread);

// How a listener lookup at one port came out.
enum class PortState : uint8_t {
  kTakes,           // a transparent listener takes the packet
  kNobody,          // nobody listens there for it
  kNotTransparent,  // who does has no IP_TRANSPARENT
  kShadowed,        // a connected UDP socket is what the lookup leads to
};
// `found`: what the lookup of the packet's sender at the port led to.
PortState StateOf(const std::optional<Socket>& found);

// Rendezvous hashing (highest random weight): each port has a weight for each client, and of those
// that can take the packet the one with the highest is chosen. So a port that goes leaves its own
// clients to the others and moves nobody else's, and when it comes back just these return.
//
// The weights are XXH3 under a secret made from the host's machine id: the same after a restart, in
// all queues and in `explain`, and not for those to know who send packets.
//
// Immutable; any thread.
class Spread {
 public:
  static constexpr size_t kMaxPorts = 64;  // of both kinds together

  // `spec` is active, and has no more than kMaxPorts.
  explicit Spread(const SpreadSpec& spec) : Spread(spec, HostSeed()) {}
  Spread(const SpreadSpec& spec, absl::string_view seed);

  size_t size() const { return ports_.size(); }
  uint16_t port(size_t i) const { return ports_[i]; }
  bool backup(size_t i) const { return i >= first_backup_; }
  // nullopt: none of these.
  std::optional<size_t> IndexOf(uint16_t port) const;

  // The port, by its index, that the packet goes to: among those of which `usable(index)` is true
  // the one of highest weight, and a backup only where no other is. nullopt where none is.
  template <typename Usable>
  std::optional<size_t> Choose(const Packet& packet, Usable&& usable) const {
    const uint64_t client = ClientHash(packet);
    if (const auto chosen = ChooseAmong(client, 0, first_backup_, usable)) return chosen;
    return ChooseAmong(client, first_backup_, ports_.size(), usable);
  }
  // Where all are.
  size_t First(const Packet& packet) const {
    return *Choose(packet, [](size_t) { return true; });
  }

 private:
  uint64_t ClientHash(const Packet& packet) const;
  uint64_t Weight(uint64_t client, size_t i) const;
  // The content of /etc/machine-id; a constant where there is none.
  static const std::string& HostSeed();

  template <typename Usable>
  std::optional<size_t> ChooseAmong(uint64_t client, size_t begin, size_t end,
                                    Usable& usable) const {
    std::bitset<kMaxPorts> refused;
    for (size_t left = end - begin; left > 0; --left) {
      size_t best = end;
      uint64_t best_weight = 0;
      for (size_t i = begin; i < end; ++i) {
        if (refused[i]) continue;
        const uint64_t weight = Weight(client, i);
        if (best != end && weight <= best_weight) continue;
        best = i;
        best_weight = weight;
      }
      if (usable(best)) return best;
      refused.set(best);
    }
    return std::nullopt;
  }

  std::vector<uint16_t> ports_;
  size_t first_backup_;
  SpreadBy by_;
  alignas(64) std::array<uint8_t, 192> secret_;
};

// All ports in the order in which this packet would go to them, and what there is at each, as
// `state_of(port)` tells, for people to read; one is chosen, where one takes it.
std::vector<PortCandidate> RankPorts(const Spread& spread, const Packet& packet,
                                     absl::FunctionRef<PortState(uint16_t)> state_of);

// The port that goes into Policy::on_port to explain a packet: the chosen one; where none is, the
// first.
uint16_t PortOf(const std::vector<PortCandidate>& ranked);

// Tells of them in the step that says where a listener is looked up, where there is one.
void ExplainPorts(std::vector<PortCandidate> ranked, SpreadBy by, Explanation* explanation);

}  // namespace utproxy

#endif  // UTPROXY_DECIDE_SPREAD_H_
