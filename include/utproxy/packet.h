// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_PACKET_H_
#define UTPROXY_PACKET_H_

#include <cstdint>

#include "utproxy/address.h"
#include "utproxy/flow.h"

namespace utproxy {

// What reading a packet's headers came to. Anything but kOk is a miss.
enum class ParseOutcome : uint8_t {
  kOk,
  kHeaderTruncated,  // too short, or a length that points outside of it
  kFragment,         // a fragment of a datagram, first or later: its ports can't be trusted
  kNotTcpOrUdp,
};

// TCP flag bits as they stand in byte 13 of the header (RFC 9293, 3.1).
inline constexpr uint8_t kTcpFin = 0x01;
inline constexpr uint8_t kTcpSyn = 0x02;
inline constexpr uint8_t kTcpRst = 0x04;
inline constexpr uint8_t kTcpPsh = 0x08;
inline constexpr uint8_t kTcpAck = 0x10;
inline constexpr uint8_t kTcpUrg = 0x20;

// One packet as a decision sees it. A plain value.
struct Packet {
  Address src;
  Address dst;
  uint16_t sport = 0;  // host byte order
  uint16_t dport = 0;  // host byte order
  Family family = Family::kIpv4;
  uint8_t protocol = 0;  // IP protocol number of the last header reached, IPPROTO_TCP, ...
  uint8_t tcp_flags = 0;
  ParseOutcome outcome = ParseOutcome::kOk;
  uint32_t iif = 0;   // ingress interface index; 0 where unknown
  uint32_t mark = 0;  // the mark it came with; host byte order

  bool is_tcp() const { return protocol == IPPROTO_TCP; }
  Proto proto() const { return is_tcp() ? Proto::kTcp : Proto::kUdp; }
  // A segment that may open a connection in TIME_WAIT's stead: SYN without RST, ACK, FIN
  // (nf_tproxy_handle_time_wait4).
  bool is_pure_syn() const {
    return is_tcp() && (tcp_flags & (kTcpSyn | kTcpRst | kTcpAck | kTcpFin)) == kTcpSyn;
  }
  FlowKey key() const {
    return FlowKey{
        .local = dst, .remote = src, .local_port = dport, .remote_port = sport, .proto = proto()};
  }
};

}  // namespace utproxy

#endif  // UTPROXY_PACKET_H_
