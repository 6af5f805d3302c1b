// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_MIRROR_EXACT_H_
#define UTPROXY_MIRROR_EXACT_H_

#include <absl/types/span.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "mirror/interfaces.h"
#include "mirror/last_seen.h"
#include "netlink/diag_client.h"
#include "utproxy/decide.h"
#include "utproxy/packet.h"
#include "utproxy/policy.h"
#include "utproxy/socket_table.h"

namespace utproxy {

// What the kernel itself says of one packet: the lookups TPROXY would make, made by sock_diag.
struct ExactAnswer {
  bool complete = false;         // false: the kernel gave no answer, so nothing may be concluded
  std::optional<Socket> own;     // by the packet's own tuple; for TCP never a listener
  std::optional<Socket> target;  // by laddr:lport
  Address laddr;
  uint16_t lport = 0;
};

// Lets Decide() read an answer. Valid while both references are.
class ExactLookup {
 public:
  ExactLookup(const ExactAnswer& answer, const InterfaceSnapshot& interfaces)
      : answer_(answer), interfaces_(interfaces) {}

  std::optional<Socket> TcpEstablished(const Packet&) { return answer_.own; }
  std::optional<Socket> TcpListener(const Packet&, const Address&, uint16_t) {
    return answer_.target;
  }
  std::optional<Socket> Udp(const Packet& packet, const Address& laddr, uint16_t lport) {
    const bool own = laddr == packet.dst && lport == packet.dport;
    return own ? answer_.own : answer_.target;
  }
  std::optional<Address> PrimaryAddress(uint32_t ifindex, Family family) {
    return interfaces_.PrimaryAddress(ifindex, family);
  }
  // The one that the kernel was asked about.
  uint16_t SpreadPort(const Packet&, const Address&) { return answer_.lport; }

 private:
  const ExactAnswer& answer_;
  const InterfaceSnapshot& interfaces_;
};
static_assert(SocketLookup<ExactLookup>);

// Asks the kernel about batches of packets: established and listener lookups by exact sock_diag
// queries, pipelined. One instance a thread.
class ExactQuerier {
 public:
  // `table`, which may be null and must outlive this, is read for what the mirror knows of a
  // connection's transparency.
  ExactQuerier(DiagClient client, const SocketTable* table)
      : client_(std::move(client)), table_(table) {}

  // `steered` tells to which listener, by its cookie, utproxy leads a packet's flow (0: to none);
  // `release` ends that. Without them the rule's listener is taken for granted, as where the
  // kernel's own TPROXY is at work.
  void set_steering(std::function<uint64_t(const Packet&)> steered,
                    std::function<void(const Packet&)> release) {
    steered_ = std::move(steered);
    release_ = std::move(release);
  }

  // Fills answers[i] for packets[i]; all must have outcome kOk. Where an answer fails, or what it
  // is about changes at that very moment, the kernel is asked again. Where the rule has several
  // ports, `ports` has each packet's, in host byte order; else it is empty.
  void Ask(absl::Span<const Packet> packets, const Policy& policy,
           const InterfaceSnapshot& interfaces, absl::Span<ExactAnswer> answers,
           absl::Span<const uint16_t> ports = {});

  // Ends the TIME_WAIT minisocket `cookie` that this packet's tuple leads to.
  absl::Status EndTimeWait(const Packet& packet, uint64_t cookie);

  uint64_t queries() const { return client_.queries(); }

 private:
  enum class Lookup : uint8_t { kOwn, kTarget, kTargetOfNobody, kParent };
  struct Pending {
    size_t packet;
    Lookup lookup;
  };
  void Add(size_t index, const Packet& packet, Lookup lookup, const ExactAnswer& answer);
  void AskOnce(absl::Span<const Packet> packets, const Policy& policy,
               const InterfaceSnapshot& interfaces, absl::Span<ExactAnswer> answers,
               absl::Span<const uint16_t> ports);
  void Run(absl::Span<const Packet> packets, absl::Span<ExactAnswer> answers);
  void RunOnce(absl::Span<const Packet> packets, absl::Span<ExactAnswer> answers,
               std::vector<size_t>* again);
  void AskParents(absl::Span<const Packet> packets, absl::Span<ExactAnswer> answers);
  const std::optional<Socket>& ParentOf(const Packet& packet, const ExactAnswer& answer,
                                        const std::optional<Socket>& at_own_address) const;
  void Remember(std::optional<Socket>* own);

  DiagClient client_;
  const SocketTable* table_;
  std::function<uint64_t(const Packet&)> steered_;
  std::function<void(const Packet&)> release_;
  std::vector<Pending> pending_;
  std::vector<std::optional<Socket>> parents_;
  std::vector<bool> target_asked_;
  LastSeen last_seen_;
};

}  // namespace utproxy

#endif  // UTPROXY_MIRROR_EXACT_H_
