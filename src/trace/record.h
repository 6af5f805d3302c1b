// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TRACE_RECORD_H_
#define UTPROXY_TRACE_RECORD_H_

#include <absl/types/span.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "utproxy/decision.h"
#include "utproxy/packet.h"
#include "utproxy/socket.h"

namespace utproxy {

// Bytes of each packet that a record keeps, from the IP header on: IPv4 and TCP with all options.
inline constexpr size_t kTraceSnapLength = 120;

// One decided packet, as the flight recorder keeps it: a plain value without pointers. Ports, marks
// and indexes in host byte order.
struct TraceRecord {
  int64_t decided_ns = 0;  // when the batch was decided; CLOCK_MONOTONIC
  int64_t arrived_ns = 0;  // when the packet came in by the kernel; CLOCK_REALTIME, 0: unknown
  uint64_t decide_ns = 0;  // the packet's share of its batch's decision
  uint64_t time_wait_cookie = 0;  // as in Decision
  Packet packet;                  // what was decided on, with its mark before
  Address laddr;                  // where looked_up
  uint32_t id = 0;                // the kernel's packet id
  uint32_t mark = 0;              // after the verdict
  uint32_t true_length = 0;       // of the packet on the wire, from the IP header, in bytes
  uint16_t lport = 0;             // where looked_up
  Verdict verdict = Verdict::kDrop;
  Reason reason = Reason::kNoSocket;
  Origin origin = Origin::kMirror;
  Trouble trouble = Trouble::kNone;
  bool looked_up = false;  // a listener was looked up at laddr:lport
  bool has_socket = false;
  uint8_t captured = 0;  // how many of `bytes` count
  uint8_t zero[3] = {};
  uint32_t configuration = 0;  // the number of the one by which it was decided
  Socket socket;               // where has_socket: the chosen one
  uint8_t bytes[kTraceSnapLength] = {};

  absl::Span<const uint8_t> payload() const { return {bytes, captured}; }
  // The decision that was recorded.
  Decision decision() const;
};
static_assert(std::is_trivially_copyable_v<TraceRecord>);
static_assert(sizeof(TraceRecord) == 312);
static_assert(kTraceSnapLength <= UINT8_MAX);

// Puts what `decision` says of `packet` into `*record`, whose times, id and bytes it leaves alone.
inline void Describe(const Packet& packet, const Decision& decision, TraceRecord* record) {
  record->packet = packet;
  record->verdict = decision.verdict;
  record->reason = decision.reason;
  record->origin = decision.origin;
  record->trouble = decision.trouble;
  record->mark = decision.mark;
  record->looked_up = decision.listener_looked_up;
  record->laddr = decision.laddr;
  record->lport = decision.lport;
  record->time_wait_cookie = decision.time_wait_cookie;
  record->has_socket = decision.socket.has_value();
  if (decision.socket) record->socket = *decision.socket;
}

// Keeps the front of a packet of which `bytes` were copied and that has `true_length`.
inline void KeepBytes(absl::Span<const uint8_t> bytes, uint32_t true_length, TraceRecord* record) {
  const size_t captured = std::min({bytes.size(), kTraceSnapLength, size_t{true_length}});
  record->captured = static_cast<uint8_t>(captured);
  record->true_length = true_length;
  if (captured != 0) std::memcpy(record->bytes, bytes.data(), captured);
}

}  // namespace utproxy

#endif  // UTPROXY_TRACE_RECORD_H_
