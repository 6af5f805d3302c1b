// SPDX-License-Identifier: GPL-3.0-or-later
#include "netlink/diag_client.h"

#include <libmnl/libmnl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "netlink/messages.h"

namespace utproxy {

absl::StatusOr<DiagClient> DiagClient::Open() {
  absl::StatusOr<NetlinkSocket> socket = NetlinkSocket::Open(NETLINK_SOCK_DIAG);
  if (!socket.ok()) return socket.status();
  return DiagClient(std::move(*socket));
}

absl::Status DiagClient::Dump(Family family, Proto proto, uint32_t states,
                              absl::FunctionRef<void(const Socket&)> handler) {
  DiagRequest request = DumpRequest(family, proto, states);
  return socket_.Transact(&request.header, "dump sockets", [&](const nlmsghdr& message) {
    if (const std::optional<Socket> socket = ReadDiagMessage(message, proto)) handler(*socket);
  });
}

size_t DiagClient::AddQuery(Family family, const FlowKey& flow, uint32_t dif) {
  // Sequence numbers here have the top bit set; Transact's, which share the socket, do not.
  sequence_ = (sequence_ + 1) & 0x7fffffffu;
  pending_.push_back(ExactRequest(family, flow, dif, sequence_ | 0x80000000u));
  return pending_.size() - 1;
}

absl::Span<const ExactReply> DiagClient::Ask() {
  replies_.assign(pending_.size(), ExactReply{});
  for (size_t first = 0; first < pending_.size(); first += kChunk) {
    AskChunk(first, std::min(kChunk, pending_.size() - first));
  }
  queries_ += pending_.size();
  pending_.clear();
  return replies_;
}

void DiagClient::AskChunk(size_t first, size_t count) {
  const auto* bytes = reinterpret_cast<const char*>(&pending_[first]);
  if (!socket_.Send({bytes, count * sizeof(DiagRequest)}).ok()) return;
  std::array<mmsghdr, kChunk> messages{};
  std::array<iovec, kChunk> vectors;
  for (size_t i = 0; i < kChunk; ++i) {
    vectors[i] = {.iov_base = &buffers_[i * kReplyBytes], .iov_len = kReplyBytes};
    messages[i].msg_hdr.msg_iov = &vectors[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  // The kernel answers within the send; the socket's time-out guards against a lost answer.
  size_t answered = 0;
  while (answered < count) {
    const int n = ::recvmmsg(socket_.fd(), messages.data(), static_cast<unsigned>(count - answered),
                             MSG_WAITFORONE, nullptr);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
      const size_t len = std::min<size_t>(messages[i].msg_len, kReplyBytes);
      answered += TakeReplies({&buffers_[i * kReplyBytes], len}, first, count);
    }
  }
}

size_t DiagClient::TakeReplies(absl::Span<const char> datagram, size_t first, size_t count) {
  size_t answered = 0;
  while (const nlmsghdr* message = TakeMessage(&datagram)) {
    const uint32_t index = (message->nlmsg_seq - pending_[first].header.nlmsg_seq) & 0x7fffffffu;
    if ((message->nlmsg_seq & 0x80000000u) == 0 || index >= count) continue;  // a stale answer
    ExactReply& reply = replies_[first + index];
    ++answered;
    if (message->nlmsg_type == NLMSG_ERROR) {
      reply.answered = ErrorOf(*message) == ENOENT;
      continue;
    }
    const auto proto = static_cast<Proto>(pending_[first + index].body.sdiag_protocol);
    reply.socket = ReadDiagMessage(*message, proto);
    reply.answered = reply.socket.has_value();
  }
  return answered;
}

absl::Status DiagClient::Destroy(const Socket& socket, Family family, uint32_t dif) {
  if (socket.cookie == 0 || socket.cookie == ~uint64_t{0}) {
    return absl::InvalidArgumentError("end socket: its cookie is not known");
  }
  DiagRequest request = DestroyRequest(socket, family, dif);
  return socket_.Transact(&request.header, "end TIME_WAIT socket", [](const nlmsghdr&) {});
}

}  // namespace utproxy
