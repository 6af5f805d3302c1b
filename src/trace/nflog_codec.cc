// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace/nflog_codec.h"

#include <arpa/inet.h>
#include <endian.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netlink.h>
#include <net/ethernet.h>

#include <algorithm>
#include <cstring>

#include "netlink/fields.h"

namespace utproxy {
namespace {

using Bytes = absl::Span<const uint8_t>;

bool ReadTimestamp(Bytes bytes, int64_t* out) {
  nfulnl_msg_packet_timestamp stamp{};
  if (!ReadField(bytes, &stamp)) return false;
  const uint64_t seconds = be64toh(stamp.sec), microseconds = be64toh(stamp.usec);
  if (seconds < INT64_MAX / 1'000'000'000 && microseconds < 1'000'000) {
    *out = static_cast<int64_t>(seconds * 1'000'000'000 + microseconds * 1000);
  }
  return true;
}

bool ReadAttribute(uint16_t type, Bytes value, NflogPacket* out) {
  switch (type) {
    case NFULA_MARK:
      return ReadBig32(value, &out->mark);
    case NFULA_IFINDEX_INDEV:
      return ReadBig32(value, &out->indev);
    case NFULA_TIMESTAMP:
      return ReadTimestamp(value, &out->arrived_ns);
    case NFULA_SEQ: {
      uint32_t sequence = 0;
      if (!ReadBig32(value, &sequence)) return false;
      out->sequence = sequence;
      return true;
    }
    case NFULA_PREFIX: {
      const auto* text = reinterpret_cast<const char*>(value.data());
      out->prefix = {text, ::strnlen(text, value.size())};
      return true;
    }
    case NFULA_PAYLOAD:
      out->payload = value;
      return true;
    default:
      return true;
  }
}

void PutAttribute(uint16_t type, Bytes value, std::vector<uint8_t>* out) {
  const nlattr header{.nla_len = static_cast<uint16_t>(NLA_HDRLEN + value.size()),
                      .nla_type = type};
  const auto* bytes = reinterpret_cast<const uint8_t*>(&header);
  out->insert(out->end(), bytes, bytes + sizeof header);
  out->insert(out->end(), value.begin(), value.end());
  out->resize((out->size() + 3) & ~size_t{3});
}

template <typename T>
void PutValue(uint16_t type, const T& value, std::vector<uint8_t>* out) {
  PutAttribute(type, {reinterpret_cast<const uint8_t*>(&value), sizeof value}, out);
}

}  // namespace

bool ReadNflog(Bytes bytes, NflogPacket* out) {
  *out = NflogPacket();
  nfgenmsg header{};
  if (!ReadField(bytes, &header) || header.version != NFNETLINK_V0) return false;
  out->family = header.nfgen_family;
  out->group = ntohs(header.res_id);
  bytes.remove_prefix(sizeof header);
  while (!bytes.empty()) {
    nlattr attribute{};
    if (!ReadField(bytes, &attribute) || attribute.nla_len < NLA_HDRLEN) return false;
    const uint16_t type = attribute.nla_type & NLA_TYPE_MASK;
    // A capture's snap length may have cut the payload, which comes last.
    const bool cut = attribute.nla_len > bytes.size();
    if (cut && type != NFULA_PAYLOAD) return false;
    const size_t length = std::min<size_t>(attribute.nla_len, bytes.size());
    if (!ReadAttribute(type, bytes.subspan(NLA_HDRLEN, length - NLA_HDRLEN), out)) return false;
    bytes.remove_prefix(std::min<size_t>(NLA_ALIGN(length), bytes.size()));
  }
  return out->payload.data() != nullptr;
}

std::vector<uint8_t> WriteNflog(const NflogPacket& packet) {
  std::vector<uint8_t> out;
  const nfgenmsg header{
      .nfgen_family = packet.family, .version = NFNETLINK_V0, .res_id = htons(packet.group)};
  const auto* bytes = reinterpret_cast<const uint8_t*>(&header);
  out.insert(out.end(), bytes, bytes + sizeof header);
  nfulnl_msg_packet_hdr hook{};
  hook.hw_protocol = htons(packet.family == AF_INET6 ? ETHERTYPE_IPV6 : ETHERTYPE_IP);
  PutValue(NFULA_PACKET_HDR, hook, &out);
  if (packet.mark != 0) PutValue(NFULA_MARK, htonl(packet.mark), &out);
  if (packet.indev != 0) PutValue(NFULA_IFINDEX_INDEV, htonl(packet.indev), &out);
  std::vector<uint8_t> prefix(packet.prefix.begin(), packet.prefix.end());
  prefix.push_back(0);
  PutAttribute(NFULA_PREFIX, prefix, &out);
  PutAttribute(NFULA_PAYLOAD, packet.payload, &out);
  return out;
}

uint32_t ClaimedLength(Bytes payload) {
  const auto big16 = [&](size_t at) { return uint32_t{payload[at]} << 8 | payload[at + 1]; };
  uint32_t claimed = 0;
  if (payload.size() >= 20 && payload[0] >> 4 == 4) claimed = big16(2);
  if (payload.size() >= 40 && payload[0] >> 4 == 6) claimed = 40 + big16(4);
  return std::max(claimed, static_cast<uint32_t>(payload.size()));
}

}  // namespace utproxy
