// SPDX-License-Identifier: GPL-3.0-or-later
#include "decide/list_lookup.h"

#include <absl/strings/str_cat.h>
#include <linux/if_addr.h>

#include <algorithm>
#include <utility>

namespace utproxy {
namespace {

// The sockets of one port by where they are bound, each in list order.
struct Buckets {
  std::vector<Socket> connected, exact, wildcard;
};

bool IsOfFlow(const Socket& socket, const Packet& packet) {
  return socket.connected() && socket.remote == packet.src && socket.remote_port == packet.sport;
}

Buckets UdpBuckets(const std::vector<Socket>& sockets, const Packet& packet, const Address& laddr,
                   uint16_t lport) {
  Buckets buckets;
  for (const Socket& socket : sockets) {
    if (socket.proto != Proto::kUdp || socket.local_port != lport) continue;
    if (socket.local.IsUnspecified()) {
      buckets.wildcard.push_back(socket);
    } else if (socket.local == laddr) {
      (IsOfFlow(socket, packet) ? buckets.connected : buckets.exact).push_back(socket);
    }
  }
  return buckets;
}

Buckets TcpBuckets(const std::vector<Socket>& sockets, const Address& laddr, uint16_t lport) {
  Buckets buckets;
  for (const Socket& socket : sockets) {
    if (!socket.listening() || socket.local_port != lport) continue;
    if (socket.local.IsUnspecified()) {
      buckets.wildcard.push_back(socket);
    } else if (socket.local == laddr) {
      buckets.exact.push_back(socket);
    }
  }
  return buckets;
}

}  // namespace

std::optional<Address> PrimaryAddressOf(absl::Span<const InterfaceAddress> addresses,
                                        uint32_t ifindex, Family family) {
  const uint32_t unfit =
      family == Family::kIpv4 ? IFA_F_SECONDARY : IFA_F_TENTATIVE | IFA_F_DEPRECATED;
  for (const InterfaceAddress& a : addresses) {
    if (a.ifindex == ifindex && a.family == family && (a.flags & unfit) == 0) return a.address;
  }
  return std::nullopt;
}

void SettleCandidates(const std::optional<Socket>& found, std::vector<Candidate>* candidates) {
  for (Candidate& candidate : *candidates) {
    const bool chosen = found && candidate.socket.cookie == found->cookie;
    if (chosen == candidate.chosen) continue;
    candidate.chosen = chosen;
    candidate.why = chosen ? "The kernel chose it: a SO_REUSEPORT group, SO_INCOMING_CPU or an "
                             "sk_lookup program decided, which sock_diag does not show."
                           : "It would do, but the kernel chose another: a SO_REUSEPORT group, "
                             "SO_INCOMING_CPU or an sk_lookup program decided.";
  }
}

ListLookup::ListLookup(std::vector<Socket> sockets, std::vector<InterfaceAddress> addresses)
    : sockets_(std::move(sockets)), addresses_(std::move(addresses)) {
  std::stable_sort(sockets_.begin(), sockets_.end(),
                   [](const Socket& a, const Socket& b) { return a.order < b.order; });
}

void ListLookup::Restart() {
  certain_ = true;
  candidates_.clear();
}

std::optional<Socket> ListLookup::Take(ListenerChoice choice) {
  certain_ = certain_ && choice.certain;
  return choice.socket;
}

// Sockets of the port that the lookup never comes to see are what people look for when it finds
// nothing, so they are told why.
void ListLookup::CollectElsewhere(Proto proto, const Address& laddr, uint16_t lport,
                                  const Packet& packet) {
  for (const Socket& socket : sockets_) {
    const bool of_port = socket.proto == proto && socket.local_port == lport &&
                         (proto == Proto::kUdp || socket.listening());
    if (!of_port || socket.local.IsUnspecified() || socket.local == laddr) continue;
    candidates_.push_back(
        {.socket = socket,
         .score = -1,
         .chosen = false,
         .why = absl::StrCat("Refused: it is bound to ", socket.local.ToString(socket.family()),
                             ", and the lookup is for ", laddr.ToString(packet.family), ".")});
  }
}

std::optional<Socket> ListLookup::TcpEstablished(const Packet& packet) {
  return Take(ChooseEstablished(packet, sockets_));
}

std::optional<Socket> ListLookup::TcpListener(const Packet& packet, const Address& laddr,
                                              uint16_t lport) {
  const Buckets buckets = TcpBuckets(sockets_, laddr, lport);
  candidates_.clear();
  const std::optional<Socket> found = Take(ChooseTcpListener(
      packet, buckets.exact, buckets.wildcard, collect_ ? &candidates_ : nullptr));
  if (collect_) CollectElsewhere(Proto::kTcp, laddr, lport, packet);
  return found;
}

std::optional<Socket> ListLookup::Udp(const Packet& packet, const Address& laddr, uint16_t lport) {
  const Buckets buckets = UdpBuckets(sockets_, packet, laddr, lport);
  candidates_.clear();
  const std::optional<Socket> found =
      Take(ChooseUdp(packet, buckets.connected, buckets.exact, buckets.wildcard,
                     collect_ ? &candidates_ : nullptr));
  if (collect_) CollectElsewhere(Proto::kUdp, laddr, lport, packet);
  return found;
}

std::optional<Address> ListLookup::PrimaryAddress(uint32_t ifindex, Family family) {
  return PrimaryAddressOf(addresses_, ifindex, family);
}

}  // namespace utproxy
