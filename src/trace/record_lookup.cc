// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace/record_lookup.h"

namespace utproxy {

// A socket that was found and not looked up at laddr:lport is the packet's own; so is a TIME_WAIT
// that stayed chosen where no listener was found, as a listener is never one.
std::optional<Socket> RecordLookup::Own() const {
  const bool own = record_.has_socket && (!record_.looked_up || record_.socket.time_wait());
  return own ? std::optional<Socket>(record_.socket) : std::nullopt;
}

std::optional<Socket> RecordLookup::Target() const {
  const bool target = record_.has_socket && record_.looked_up && !record_.socket.time_wait();
  return target ? std::optional<Socket>(record_.socket) : std::nullopt;
}

std::optional<Socket> RecordLookup::TcpEstablished(const Packet& packet) {
  if (record_.reason != Reason::kTimeWaitReopened && record_.time_wait_cookie == 0) return Own();
  // The minisocket had to go; all that is kept of it is its name, and whose it was.
  return Socket{.local = packet.dst,
                .remote = packet.src,
                .local_port = packet.dport,
                .remote_port = packet.sport,
                .proto = Proto::kTcp,
                .state = SockState::kTimeWait,
                .flags = static_cast<uint16_t>(
                    Socket::kMinisock | (packet.family == Family::kIpv6 ? Socket::kInet6 : 0)),
                .cookie = record_.time_wait_cookie};
}

std::optional<Socket> RecordLookup::TcpListener(const Packet& packet, const Address& laddr,
                                                uint16_t lport) {
  const std::optional<Socket> found = Target();
  if (around_ == nullptr) return found;
  (void)around_->TcpListener(packet, laddr, lport);
  candidates_ = around_->candidates();
  SettleCandidates(found, &candidates_);
  return found;
}

std::optional<Socket> RecordLookup::Udp(const Packet& packet, const Address& laddr,
                                        uint16_t lport) {
  std::optional<Socket> near;
  if (around_ != nullptr) near = around_->Udp(packet, laddr, lport);
  const bool at_target = record_.looked_up && laddr == record_.laddr && lport == record_.lport;
  if (!at_target) {
    if (const std::optional<Socket> own = Own()) return own;
    // One that does not count, or the decision would have been another.
    const bool counts = near && near->connected() && !near->local.IsUnspecified();
    return counts ? std::nullopt : near;
  }
  std::optional<Socket> found = Target();
  if (around_ != nullptr) {
    candidates_ = around_->candidates();
    // A connected one in the listener's place is refused, and leaves no trace in the record. Where
    // the packet's own address is the listener's it was refused as wildcard before.
    const bool own = laddr == packet.dst && lport == packet.dport;
    if (!found && near && near->connected() && (!own || near->local.IsUnspecified())) found = near;
    SettleCandidates(found, &candidates_);
  }
  return found;
}

std::optional<Address> RecordLookup::PrimaryAddress(uint32_t ifindex, Family family) {
  const std::optional<Address> now =
      around_ != nullptr ? around_->PrimaryAddress(ifindex, family) : std::nullopt;
  if (now == record_.laddr) return now;
  // Not the packet's destination, so it was the interface's at the time.
  if (record_.laddr != record_.packet.dst) return record_.laddr;
  return std::nullopt;
}

}  // namespace utproxy
