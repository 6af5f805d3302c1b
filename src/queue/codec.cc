// SPDX-License-Identifier: GPL-3.0-or-later
#include "queue/codec.h"

#include <arpa/inet.h>
#include <endian.h>
#include <libnetfilter_queue/linux_nfnetlink_queue.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include <algorithm>
#include <cstring>

#include "netlink/fields.h"

namespace utproxy {
namespace {

using Bytes = absl::Span<const uint8_t>;

constexpr uint16_t kPacketType = (NFNL_SUBSYS_QUEUE << 8) | NFQNL_MSG_PACKET;

// Removes an attribute from the front of `*rest`. The last one's padding may be absent, as the
// kernel's is behind a payload.
bool NextAttribute(Bytes* rest, uint16_t* type, Bytes* value) {
  nlattr header{};
  if (!ReadField(*rest, &header)) return false;
  if (header.nla_len < NLA_HDRLEN || header.nla_len > rest->size()) return false;
  *type = header.nla_type & NLA_TYPE_MASK;
  *value = rest->subspan(NLA_HDRLEN, header.nla_len - NLA_HDRLEN);
  rest->remove_prefix(std::min<size_t>(NLA_ALIGN(header.nla_len), rest->size()));
  return true;
}

struct PacketReader {
  PacketMessage* packet;
  bool has_id = false;
  bool has_true_length = false;

  bool Attribute(uint16_t type, Bytes value) {
    switch (type) {
      case NFQA_PACKET_HDR:
        return Header(value);
      case NFQA_MARK:
        return ReadBig32(value, &packet->mark);
      case NFQA_IFINDEX_INDEV:
        return ReadBig32(value, &packet->indev);
      case NFQA_IFINDEX_PHYSINDEV:
        return ReadBig32(value, &packet->physindev);
      case NFQA_TIMESTAMP:
        return Timestamp(value);
      case NFQA_CAP_LEN:
        has_true_length = true;
        return ReadBig32(value, &packet->true_length);
      case NFQA_PAYLOAD:
        packet->payload = value;
        return true;
      default:
        return true;
    }
  }

  bool Timestamp(Bytes value) {
    nfqnl_msg_packet_timestamp stamp{};
    if (!ReadField(value, &stamp)) return false;
    // A stamp that does not fit (after the year 2262) is none.
    const uint64_t seconds = be64toh(stamp.sec), microseconds = be64toh(stamp.usec);
    if (seconds < INT64_MAX / 1'000'000'000 && microseconds < 1'000'000) {
      packet->arrived_ns = static_cast<int64_t>(seconds * 1'000'000'000 + microseconds * 1000);
    }
    return true;
  }

  bool Header(Bytes value) {
    nfqnl_msg_packet_hdr header{};
    if (!ReadField(value, &header)) return false;
    packet->id = ntohl(header.packet_id);
    packet->hook = header.hook;
    has_id = true;
    return true;
  }
};

// `body` is what follows the netlink header; `cut` where part of it is missing.
Message::Kind ReadPacket(Bytes body, bool cut, PacketMessage* packet) {
  PacketReader reader{.packet = packet};
  bool whole = !cut && body.size() >= sizeof(nfgenmsg);
  Bytes rest = body.subspan(std::min(body.size(), sizeof(nfgenmsg)));
  while (!rest.empty()) {
    uint16_t type = 0;
    Bytes value;
    if (!NextAttribute(&rest, &type, &value) || !reader.Attribute(type, value)) {
      whole = false;
      break;
    }
  }
  if (!reader.has_id) return Message::Kind::kMalformed;
  packet->damaged = !whole;
  if (packet->damaged) packet->payload = {};
  if (!reader.has_true_length) packet->true_length = static_cast<uint32_t>(packet->payload.size());
  return Message::Kind::kPacket;
}

Message::Kind ReadError(Bytes body, Message* message) {
  nlmsgerr error{};
  // An acknowledgement holds the header of what it answers, an error all of it.
  if (!ReadField(body, &error) || error.error > 0 || error.error == INT32_MIN) {
    return Message::Kind::kMalformed;
  }
  message->error = -error.error;
  message->sequence = error.msg.nlmsg_seq;
  return Message::Kind::kError;
}

}  // namespace

bool NextMessage(Bytes* bytes, Message* message) {
  if (bytes->empty()) return false;
  *message = Message();
  nlmsghdr header{};
  if (!ReadField(*bytes, &header) || header.nlmsg_len < sizeof header) {
    message->kind = Message::Kind::kMalformed;
    *bytes = {};
    return true;
  }
  const bool cut = header.nlmsg_len > bytes->size();
  const size_t length = std::min<size_t>(header.nlmsg_len, bytes->size());
  const Bytes body = bytes->subspan(sizeof header, length - sizeof header);
  if (header.nlmsg_type == kPacketType) {
    message->kind = ReadPacket(body, cut, &message->packet);
  } else if (header.nlmsg_type == NLMSG_ERROR) {
    message->kind = ReadError(body, message);
  }
  bytes->remove_prefix(std::min<size_t>((length + 3) & ~size_t{3}, bytes->size()));
  return true;
}

}  // namespace utproxy
