// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DECISION_H_
#define UTPROXY_DECISION_H_

#include <cstdint>
#include <optional>

#include "utproxy/address.h"
#include "utproxy/socket.h"

namespace utproxy {

enum class Verdict : uint8_t { kAccept, kDrop };

enum class Reason : uint8_t {
  kEstablished,
  kTimeWait,
  kTimeWaitReopened,
  kListener,
  kNoSocket,
  kNotTransparent,
  kHeaderTruncated,
  kFragment,
  kNotTcpOrUdp,
};
inline constexpr int kReasonCount = 9;

// "accept" or "drop".
const char* VerdictName(Verdict verdict);
// "established", "time_wait", ... as the JSON output names them.
const char* ReasonName(Reason reason);

// Whether a packet decided for this reason is handed to a socket; all others are misses.
constexpr bool IsHit(Reason reason) { return reason <= Reason::kListener; }

// Who answered the lookups that a decision rests on.
enum class Origin : uint8_t {
  kMirror,      // a copy of the kernel's sockets
  kCache,       // what the kernel said of this flow within the last ten seconds
  kExact,       // the kernel, asked about this packet
  kOverBudget,  // a copy, where the kernel should have been asked
};
// "mirror" or "exact" (for kExact alone), as the JSON output names them.
const char* OriginName(Origin origin);

// Why a packet was dropped whatever was decided.
enum class Trouble : uint8_t {
  kNone,
  kExactFailed,  // the kernel gave no answer: `reason` means nothing
  kSteerFailed,  // its flow entry could not be made to stand
  kShed,         // the queue is full and flooded, and it would open a connection
};

// What became of one packet. A plain value.
struct Decision {
  Verdict verdict = Verdict::kDrop;
  Reason reason = Reason::kNoSocket;
  // A listener was looked up at laddr:lport (lport in host byte order).
  bool listener_looked_up = false;
  // The TIME_WAIT minisocket `time_wait_cookie` has to go, so that this SYN can open a connection.
  bool kill_time_wait = false;
  uint16_t lport = 0;
  Origin origin = Origin::kMirror;
  Trouble trouble = Trouble::kNone;
  uint32_t mark = 0;  // after the verdict; host byte order
  Address laddr;
  uint64_t time_wait_cookie = 0;
  std::optional<Socket> socket;  // the chosen one, also where it turned out not transparent

  // The socket was found by its own address and port rather than by the packet's flow, so that
  // routing alone need not lead the packet to it.
  bool by_listener() const {
    return reason == Reason::kListener || reason == Reason::kTimeWaitReopened;
  }
};

}  // namespace utproxy

#endif  // UTPROXY_DECISION_H_
