// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_QUEUE_CODEC_H_
#define UTPROXY_QUEUE_CODEC_H_

#include <absl/types/span.h>

#include <cstddef>
#include <cstdint>

// Messages of an NFQUEUE (nfnetlink_queue.c) as bytes: reads those that the kernel sends. No I/O.
namespace utproxy {

// One NFQNL_MSG_PACKET. Numbers are in host byte order; the payload is a view of the bytes read.
struct PacketMessage {
  uint32_t id = 0;  // names the packet in its verdict
  uint8_t hook = 0;
  uint32_t indev = 0;      // ingress ifindex; 0 where absent
  uint32_t physindev = 0;  // the bridge's port it came in by; 0 where absent
  uint32_t mark = 0;       // the kernel leaves out a mark of 0
  // Length of the whole packet; more than payload.size() where copy_range cut it.
  uint32_t true_length = 0;
  // When the packet came in, CLOCK_REALTIME; 0 where the kernel did not stamp it, as it does only
  // while somebody on the host wants such stamps (tcpdump, SO_TIMESTAMP).
  int64_t arrived_ns = 0;
  // The message was cut short or malformed behind the id, so that nothing but the id and a
  // verdict remain of it; `payload` is empty.
  bool damaged = false;
  absl::Span<const uint8_t> payload;  // from the IP header
};

struct Message {
  enum class Kind : uint8_t {
    kPacket,
    kError,      // NLMSG_ERROR: a message of ours failed, or, with error 0, was acknowledged
    kOther,      // nothing of ours
    kMalformed,  // not even a message, or a packet without an id
  };
  Kind kind = Kind::kOther;
  int error = 0;          // kError: a positive errno value, 0 for an acknowledgement
  uint32_t sequence = 0;  // kError: nlmsg_seq of the message that it answers
  PacketMessage packet;   // kPacket
};

// Reads the message at the front of `*bytes` and removes it from there. False where `*bytes` is
// empty. Reads nothing outside of `*bytes`, whatever the lengths in it claim, and always
// shortens it. `bytes` need not be aligned.
bool NextMessage(absl::Span<const uint8_t>* bytes, Message* message);

// Bytes that a datagram of one packet takes beside the payload: headers and every attribute that
// NfQueue has not switched off, with the L2 header of bridged packets.
inline constexpr size_t kPacketMessageOverhead = 512;

}  // namespace utproxy

#endif  // UTPROXY_QUEUE_CODEC_H_
