// SPDX-License-Identifier: GPL-3.0-or-later
#include "queue/verdict_buffer.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <libnetfilter_queue/libnetfilter_queue.h>
#include <libnetfilter_queue/linux_nfnetlink_queue.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>

#include <cstring>

namespace utproxy {
namespace {

// Where the patched fields stand: netlink header, nfnetlink header, the verdict attribute with
// verdict and id, the mark attribute.
constexpr size_t kVerdictValue = NLMSG_HDRLEN + sizeof(nfgenmsg) + NLA_HDRLEN;
constexpr size_t kIdOffset = kVerdictValue + offsetof(nfqnl_msg_verdict_hdr, id);
constexpr size_t kMarkOffset = kVerdictValue + sizeof(nfqnl_msg_verdict_hdr) + NLA_HDRLEN;
static_assert(kIdOffset == 28 && kMarkOffset == 36);

}  // namespace

VerdictBuffer::VerdictBuffer(uint16_t queue) {
  LayOut(queue, NF_ACCEPT, &templates_[kAcceptIndex]);
  LayOut(queue, NF_DROP, &templates_[kDropIndex]);
}

void VerdictBuffer::LayOut(uint16_t queue, int verdict, MessageBytes* message) {
  alignas(nlmsghdr) char buffer[MNL_NLMSG_HDRLEN + 64] = {};
  nlmsghdr* nlh = nfq_nlmsg_put(buffer, NFQNL_MSG_VERDICT, queue);
  nfq_nlmsg_verdict_put(nlh, 0, verdict);
  nfq_nlmsg_verdict_put_mark(nlh, 0);
  std::memcpy(message->data(), buffer, message->size());
}

char* VerdictBuffer::Add(uint32_t id, uint32_t sequence, size_t size, int verdict) {
  char* message = bytes_.data() + used_;
  std::memcpy(message, templates_[static_cast<size_t>(verdict)].data(), kWithMark);
  const auto length = static_cast<uint32_t>(size);
  std::memcpy(message + offsetof(nlmsghdr, nlmsg_len), &length, sizeof length);
  std::memcpy(message + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof sequence);
  const uint32_t big_id = htonl(id);
  std::memcpy(message + kIdOffset, &big_id, sizeof big_id);
  used_ += size;
  ++count_;
  return message;
}

void VerdictBuffer::AcceptWithMark(uint32_t id, uint32_t sequence, uint32_t mark) {
  char* message = Add(id, sequence, kWithMark, kAcceptIndex);
  const uint32_t big_mark = htonl(mark);
  std::memcpy(message + kMarkOffset, &big_mark, sizeof big_mark);
}

}  // namespace utproxy
