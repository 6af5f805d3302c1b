// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_QUEUE_MESSAGES_H_
#define UTPROXY_TESTS_QUEUE_MESSAGES_H_

#include <arpa/inet.h>
#include <endian.h>
#include <libnetfilter_queue/linux_nfnetlink_queue.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

namespace utproxy {

// Builds messages as the kernel's nfqnl_build_packet_message does, byte by byte, so that the codec
// is not tested against the library it is built with.
class MessageBytes {
 public:
  explicit MessageBytes(uint16_t type = (NFNL_SUBSYS_QUEUE << 8) | NFQNL_MSG_PACKET) {
    nlmsghdr header{};
    header.nlmsg_type = type;
    Append(&header, sizeof header);
  }

  MessageBytes& Nfgen(uint16_t queue = 0) {
    nfgenmsg nfg{};
    nfg.nfgen_family = AF_INET;
    nfg.res_id = htons(queue);
    return Append(&nfg, sizeof nfg);
  }
  MessageBytes& Attr(uint16_t type, const void* data, size_t size, bool pad = true) {
    nlattr attr{};
    attr.nla_len = static_cast<uint16_t>(NLA_HDRLEN + size);
    attr.nla_type = type;
    Append(&attr, sizeof attr);
    Append(data, size);
    while (pad && bytes_.size() % 4 != 0) bytes_.push_back(0);
    return *this;
  }
  MessageBytes& Attr32(uint16_t type, uint32_t value) {
    const uint32_t big = htonl(value);
    return Attr(type, &big, sizeof big);
  }
  MessageBytes& PacketHeader(uint32_t id, uint8_t hook = 0) {
    nfqnl_msg_packet_hdr header{};
    header.packet_id = htonl(id);
    header.hw_protocol = htons(0x0800);
    header.hook = hook;
    return Attr(NFQA_PACKET_HDR, &header, sizeof header);
  }
  // Big-endian, as nfqnl_put_packet_info has it.
  MessageBytes& Timestamp(uint64_t seconds, uint64_t microseconds) {
    const nfqnl_msg_packet_timestamp stamp{.sec = htobe64(seconds), .usec = htobe64(microseconds)};
    return Attr(NFQA_TIMESTAMP, &stamp, sizeof stamp);
  }
  MessageBytes& Payload(const std::string& payload) {
    return Attr(NFQA_PAYLOAD, payload.data(), payload.size(), /*pad=*/false);
  }
  MessageBytes& Append(const void* data, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    std::copy(bytes, bytes + size, std::back_inserter(bytes_));
    return *this;
  }

  // The message with its length filled in.
  std::vector<uint8_t> Finish() {
    const auto length = static_cast<uint32_t>(bytes_.size());
    std::memcpy(bytes_.data(), &length, sizeof length);
    return bytes_;
  }

 private:
  std::vector<uint8_t> bytes_;
};

// `raw`: what stands in the message, a negative errno value or 0.
inline std::vector<uint8_t> ErrorMessage(int raw, uint32_t sequence) {
  nlmsgerr body{};
  body.error = raw;
  body.msg.nlmsg_seq = sequence;
  return MessageBytes(NLMSG_ERROR).Append(&body, sizeof body).Finish();
}

}  // namespace utproxy

#endif  // UTPROXY_TESTS_QUEUE_MESSAGES_H_
