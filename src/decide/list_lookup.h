// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DECIDE_LIST_LOOKUP_H_
#define UTPROXY_DECIDE_LIST_LOOKUP_H_

#include <absl/types/span.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "decide/listener.h"
#include "utproxy/decide.h"

namespace utproxy {

// One address of one interface, as RTM_GETADDR tells of it.
struct InterfaceAddress {
  uint32_t ifindex = 0;
  Family family = Family::kIpv4;
  Address address;     // IFA_LOCAL; where there is none (IPv6), IFA_ADDRESS
  uint32_t flags = 0;  // IFA_F_* of linux/if_addr.h
};

// The address that TPROXY takes for an interface: for IPv4 the first that is not SECONDARY, for
// IPv6 the first that is neither TENTATIVE nor DEPRECATED (nf_tproxy_laddr4, nf_tproxy_laddr6).
// `addresses` are in the kernel's list order, which is that of an RTM_GETADDR dump; those of
// other interfaces and families may stand between. nullopt where none qualifies.
std::optional<Address> PrimaryAddressOf(absl::Span<const InterfaceAddress> addresses,
                                        uint32_t ifindex, Family family);

// Brings candidates that a list gave into line with what the kernel itself answered, `found`: that
// is the truth, and the list only tells who else was considered.
void SettleCandidates(const std::optional<Socket>& found, std::vector<Candidate>* candidates);

// A SocketLookup over a plain list: for tests, and for deciding offline from a snapshot. Every
// lookup walks the whole list. Not thread-safe.
class ListLookup {
 public:
  // Sockets with the same Socket::order stay in the order given; those of one address and port
  // are taken to be in chain order.
  ListLookup(std::vector<Socket> sockets, std::vector<InterfaceAddress> addresses);

  // The four of the SocketLookup concept.
  std::optional<Socket> TcpEstablished(const Packet& packet);
  std::optional<Socket> TcpListener(const Packet& packet, const Address& laddr, uint16_t lport);
  std::optional<Socket> Udp(const Packet& packet, const Address& laddr, uint16_t lport);
  std::optional<Address> PrimaryAddress(uint32_t ifindex, Family family);

  // False where since the last Restart() an answer was one that a kernel with these sockets might
  // not give (see ListenerChoice::certain).
  bool certain() const { return certain_; }
  // To be called between packets by who asks for certain().
  void Restart();

  // While `on`, TcpListener and Udp keep the candidates of the last lookup: every socket of the
  // port, also those bound to other addresses.
  void CollectCandidates(bool on) { collect_ = on; }
  const std::vector<Candidate>& candidates() const { return candidates_; }

 private:
  std::optional<Socket> Take(ListenerChoice choice);
  void CollectElsewhere(Proto proto, const Address& laddr, uint16_t lport, const Packet& packet);

  std::vector<Socket> sockets_;
  std::vector<InterfaceAddress> addresses_;
  std::vector<Candidate> candidates_;
  bool collect_ = false;
  bool certain_ = true;
};
static_assert(SocketLookup<ListLookup>);

}  // namespace utproxy

#endif  // UTPROXY_DECIDE_LIST_LOOKUP_H_
