// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TRACE_NFLOG_CODEC_H_
#define UTPROXY_TRACE_NFLOG_CODEC_H_

#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace utproxy {

// One packet as nfnetlink_log tells of it (nfnetlink_log.h), and as captures of link type
// LINKTYPE_NFLOG hold it: the one format that says a packet's interface and mark. Numbers in host
// byte order; views are of the bytes read.
struct NflogPacket {
  uint8_t family = 0;                // AF_INET, AF_INET6
  uint16_t group = 0;                // res_id
  uint32_t mark = 0;                 // a mark of 0 is left out
  uint32_t indev = 0;                // ingress ifindex; 0 where absent
  int64_t arrived_ns = 0;            // CLOCK_REALTIME; 0 where absent
  std::optional<uint32_t> sequence;  // of its group, where asked for
  absl::string_view prefix;          // without the terminating zero
  absl::Span<const uint8_t> payload;
};

// Reads what follows a netlink header, or all of a captured packet: nfgenmsg and attributes, in the
// byte order of this host, as both have it. False where it is malformed or has no payload. Reads
// nothing outside of `bytes`, which need not be aligned.
bool ReadNflog(absl::Span<const uint8_t> bytes, NflogPacket* out);

// The inverse, for captures: group, mark, indev, prefix and payload; the hook is PREROUTING.
std::vector<uint8_t> WriteNflog(const NflogPacket& packet);

// How long the packet is of which `payload` is the front, as nothing but its own header tells: what
// that claims, where it claims more than there is. NFLOG says nothing of what it cut off.
uint32_t ClaimedLength(absl::Span<const uint8_t> payload);

}  // namespace utproxy

#endif  // UTPROXY_TRACE_NFLOG_CODEC_H_
