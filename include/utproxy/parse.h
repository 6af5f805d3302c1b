// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_PARSE_H_
#define UTPROXY_PARSE_H_

#include <absl/types/span.h>

#include <cstdint>

#include "utproxy/packet.h"

namespace utproxy {

// Reads the headers of one packet as TPROXY finds them in PREROUTING (tproxy_tg4, tproxy_tg6_v1
// with ipv6_find_hdr).
//
// `bytes` start at the IP header and may have been cut by the queue's copy range; `true_length` is
// the packet's length on the wire, in bytes, from the same header on (skb->len). Bytes beyond
// true_length are not looked at.
//
// Writes every member of `*out` but iif and mark, which it leaves alone. Ports and flags are those
// of the packet where the outcome is kOk and 0 otherwise. The addresses are the packet's wherever
// the fixed IP header was there, whatever the outcome. `protocol` is the one that the last
// readable header names.
//
// What is expected of lengths is what ip_rcv_core and ip6_rcv_core leave behind: they cut the
// packet to the length that its header claims and drop it where there is less, so a claim beyond
// true_length is kHeaderTruncated, and what stands behind the claimed end does not count. A claim
// of zero is how the kernel writes "over 65535" in a merged TCP packet (BIG TCP), and in IPv6 also
// with a hop-by-hop header in front (RFC 2675); then true_length counts.
//
// Thread-safe; no allocation. Any input is fine.
void ParsePacket(absl::Span<const uint8_t> bytes, uint32_t true_length, Packet* out);

}  // namespace utproxy

#endif  // UTPROXY_PARSE_H_
