// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RECORDER_H_
#define UTPROXY_RECORDER_H_

#include <concepts>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "utproxy/address.h"
#include "utproxy/decision.h"
#include "utproxy/packet.h"
#include "utproxy/policy.h"
#include "utproxy/socket.h"

namespace utproxy {

// Where the address of the listener lookup came from.
enum class LaddrSource : uint8_t { kOnIp, kPrimaryAddress, kPacket };

// Is told by Decide() of one packet's steps. The calls come in this order; those in brackets only
// where the step is taken:
//   Unparsed, Mark                                    headers that TPROXY makes nothing of
//   Established, [TimeWait], ListenerSkipped, Transparent, Mark
//   Established, [TimeWait], Laddr, Listener, [Transparent], Mark
template <typename T>
concept ActiveRecorder = requires(T recorder, const Packet& packet, const Policy& policy,
                                  const Decision& decision, const Socket& socket,
                                  const std::optional<Socket>& found, const Address& laddr,
                                  uint16_t lport, LaddrSource source) {
  recorder.Unparsed(packet);
  // The lookup of the packet's own addresses and ports. `passed_over` is a UDP socket that it
  // led to and that does not count: not connected, or connected at the wildcard address.
  recorder.Established(packet, found, /*passed_over=*/found);
  // What was found is a TIME_WAIT minisocket. Packet::is_pure_syn() tells what follows.
  recorder.TimeWait(packet, socket);
  recorder.ListenerSkipped(packet, /*established=*/socket);
  recorder.Laddr(packet, policy, laddr, lport, source);
  // `shadow` is a connected UDP socket that the lookup led to instead of a listener;
  // `time_wait` the minisocket that stays chosen where no listener is found.
  recorder.Listener(packet, found, /*shadow=*/found, /*time_wait=*/found);
  recorder.Transparent(socket);
  recorder.Mark(packet, policy, decision);
};

// Records nothing, at no cost: Decide() prepares nothing for a recorder with kActive false.
struct NoRecorder {
  static constexpr bool kActive = false;
};

template <typename T>
concept DecisionRecorder = (!std::remove_cvref_t<T>::kActive) || ActiveRecorder<T>;

}  // namespace utproxy

#endif  // UTPROXY_RECORDER_H_
