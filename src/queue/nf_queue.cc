// SPDX-License-Identifier: GPL-3.0-or-later
#include "queue/nf_queue.h"

#include <absl/strings/str_cat.h>
#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <libnetfilter_queue/libnetfilter_queue.h>
#include <libnetfilter_queue/linux_nfnetlink_queue.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "base/status.h"
#include "queue/queue_stats.h"

namespace utproxy {
namespace {

constexpr uint32_t kConfigSequence = 0x636667;
// Socket buffer a queued packet takes: the kernel charges a message's whole allocation, and
// doubles what is asked for.
constexpr uint64_t kBufferPerPacket = 2048;
constexpr int kSendAttempts = 10;
constexpr char kPrivilegeRemedy[] =
    "Run it as root or with CAP_NET_ADMIN; steering takes CAP_BPF and CAP_PERFMON as well";

int BufferFor(const QueueOptions& options) {
  if (options.rcvbuf > 0) return options.rcvbuf;
  const uint64_t each = std::max<uint64_t>(kBufferPerPacket, options.copy_range + uint64_t{1024});
  // The kernel takes no more than half of INT_MAX (sock_setsockopt).
  return static_cast<int>(std::min<uint64_t>(options.maxlen * each, INT32_MAX / 2));
}

nlmsghdr* PutConfig(char* buffer, uint16_t number, uint16_t flags, uint32_t sequence) {
  nlmsghdr* nlh = nfq_nlmsg_put(buffer, NFQNL_MSG_CONFIG, number);
  nlh->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  nlh->nlmsg_seq = sequence;
  return nlh;
}

absl::Span<const char> AsBytes(const nlmsghdr* nlh) {
  return {reinterpret_cast<const char*>(nlh), nlh->nlmsg_len};
}

// The errno value with which the kernel answered the configuration; 0 where it did not, which is
// its consent. nfnetlink works within the sender's send, so the answer is there already; packets
// are left where they are.
int PeekConfigError(int fd) {
  uint8_t buffer[256];
  const ssize_t n = ::recv(fd, buffer, sizeof buffer, MSG_PEEK | MSG_DONTWAIT);
  if (n <= 0) return 0;
  absl::Span<const uint8_t> bytes(buffer, static_cast<size_t>(n));
  Message message;
  if (!NextMessage(&bytes, &message) || message.kind != Message::Kind::kError) return 0;
  return message.sequence == kConfigSequence ? message.error : 0;
}

}  // namespace

NfQueue::NfQueue(NetlinkSocket socket, uint16_t number, uint32_t copy_range)
    : socket_(std::move(socket)),
      number_(number),
      // Whole cache lines, so that slots share none.
      slot_bytes_((std::min(copy_range, kMaxCopyRange) + kPacketMessageOverhead + 63) &
                  ~size_t{63}),
      slots_(std::make_unique<uint8_t[]>(slot_bytes_ * kBatch)) {
  for (size_t i = 0; i < kBatch; ++i) {
    iov_[i] = {.iov_base = slots_.get() + i * slot_bytes_, .iov_len = slot_bytes_};
    headers_[i].msg_hdr.msg_iov = &iov_[i];
    headers_[i].msg_hdr.msg_iovlen = 1;
    headers_[i].msg_hdr.msg_name = &from_[i];
  }
}

// Asked of the kernel, which knows the capability that counts: the one over the user namespace that
// the network namespace belongs to. nfnetlink_rcv looks for it before it looks at the message, and
// nfqnl_recv_config takes NFQNL_CFG_CMD_PF_BIND as a word of old that does nothing.
absl::Status NfQueue::CheckPrivilege() {
  absl::StatusOr<NetlinkSocket> socket = NetlinkSocket::Open(NETLINK_NETFILTER);
  if (!socket.ok()) return absl::OkStatus();
  alignas(nlmsghdr) char buffer[128];
  nlmsghdr* nlh = PutConfig(buffer, 0, NLM_F_ACK, 0);
  nfq_nlmsg_cfg_put_cmd(nlh, AF_UNSPEC, NFQNL_CFG_CMD_PF_BIND);
  const absl::Status status = socket->Transact(nlh, "bind queues", [](const nlmsghdr&) {});
  if (ErrnoOf(status) != EPERM) return absl::OkStatus();
  return WithRemedy(absl::PermissionDeniedError(
                        "bind queues: CAP_NET_ADMIN is missing in this network namespace"),
                    kPrivilegeRemedy);
}

absl::StatusOr<std::unique_ptr<NfQueue>> NfQueue::Bind(uint16_t number,
                                                       const QueueOptions& options) {
  absl::StatusOr<NetlinkSocket> socket = NetlinkSocket::Open(NETLINK_NETFILTER);
  if (!socket.ok()) {
    return WithRemedy(socket.status(), "The kernel needs nfnetlink: modprobe nfnetlink_queue");
  }
  RETURN_IF_ERROR(socket->SetNoEnobufs());
  ASSIGN_OR_RETURN(const int granted, socket->SetReceiveBuffer(BufferFor(options)));
  std::unique_ptr<NfQueue> queue(new NfQueue(std::move(*socket), number, options.copy_range));
  queue->receive_buffer_ = granted;
  RETURN_IF_ERROR(queue->Configure(options, /*bind=*/true));
  const int error = PeekConfigError(queue->fd());
  if (error != 0) return queue->ConfigureError(error);
  return queue;
}

absl::StatusOr<std::unique_ptr<NfQueue>> NfQueue::Adopt(UniqueFd fd, uint16_t number,
                                                        const QueueOptions& options) {
  ASSIGN_OR_RETURN(NetlinkSocket socket, NetlinkSocket::Adopt(std::move(fd), NETLINK_NETFILTER));
  ASSIGN_OR_RETURN(const std::optional<QueueStats> stats, ReadQueueStats(number));
  if (!stats || stats->port_id != socket.port_id()) {
    return absl::NotFoundError(absl::StrCat("take over queue ", number, ": it is not bound so"));
  }
  // Messages that wait may be as long as the process before wanted them.
  const uint32_t copy_range = std::max(stats->copy_range, options.copy_range);
  std::unique_ptr<NfQueue> queue(new NfQueue(std::move(socket), number, copy_range));
  ASSIGN_OR_RETURN(queue->receive_buffer_, queue->socket_.SetReceiveBuffer(BufferFor(options)));
  return queue;
}

absl::Status NfQueue::Continue(const QueueOptions& options) {
  // Read first: what is queued from here on is yet to be received.
  ASSIGN_OR_RETURN(const std::optional<QueueStats> stats, ReadQueueStats(number_));
  if (stats && stats->depth != 0) RETURN_IF_ERROR(Requeue(LastReceived(stats->last_id)));
  return Configure(options, /*bind=*/false);
}

// The id of the last packet that has been received from the socket, by whomever: the one before the
// first that waits in it. Ids go up by one. Answers to the process before that wait in front of it
// are taken away.
uint32_t NfQueue::LastReceived(uint32_t last_queued) const {
  uint8_t bytes[1024];
  while (true) {
    sockaddr_nl from{};
    socklen_t length = sizeof from;
    const ssize_t n = ::recvfrom(socket_.fd(), bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT,
                                 reinterpret_cast<sockaddr*>(&from), &length);
    if (n < 0) return last_queued;
    absl::Span<const uint8_t> rest(bytes, static_cast<size_t>(n));
    Message message;
    if (from.nl_pid == 0 && NextMessage(&rest, &message) &&
        message.kind == Message::Kind::kPacket) {
      return message.packet.id - 1;
    }
    (void)::recv(socket_.fd(), bytes, sizeof bytes, MSG_DONTWAIT);
  }
}

// NF_REPEAT has the hook that queued a packet see it again. Nothing waits for an answer: ENOENT, no
// such packet, is what a queue that was left in order gives.
absl::Status NfQueue::Requeue(uint32_t last_id) {
  alignas(nlmsghdr) char buffer[128];
  nlmsghdr* nlh = nfq_nlmsg_put(buffer, NFQNL_MSG_VERDICT_BATCH, number_);
  nlh->nlmsg_seq = kRequeueSequence;
  nfq_nlmsg_verdict_put(nlh, static_cast<int>(last_id), NF_REPEAT);
  return socket_.Send(AsBytes(nlh));
}

absl::Status NfQueue::Configure(const QueueOptions& options, bool bind) {
  alignas(nlmsghdr) char buffer[256];
  nlmsghdr* nlh = PutConfig(buffer, number_, 0, kConfigSequence);
  if (bind) nfq_nlmsg_cfg_put_cmd(nlh, AF_UNSPEC, NFQNL_CFG_CMD_BIND);
  nfq_nlmsg_cfg_put_params(nlh, NFQNL_COPY_PACKET,
                           static_cast<int>(std::min(options.copy_range, kMaxCopyRange)));
  nfq_nlmsg_cfg_put_qmaxlen(nlh, options.maxlen);
  const uint32_t flags = (options.gso ? NFQA_CFG_F_GSO : 0u) |  //
                         (options.fail_open ? NFQA_CFG_F_FAIL_OPEN : 0u);
  mnl_attr_put_u32(nlh, NFQA_CFG_MASK, htonl(NFQA_CFG_F_GSO | NFQA_CFG_F_FAIL_OPEN));
  mnl_attr_put_u32(nlh, NFQA_CFG_FLAGS, htonl(flags));
  return socket_.Send(AsBytes(nlh));
}

absl::Status NfQueue::ConfigureError(int error) const {
  const std::string what = absl::StrCat("bind queue ", number_);
  const auto stats = ReadQueueStats(number_);
  if (error == EPERM && stats.ok() && stats->has_value()) {
    return WithRemedy(
        absl::AlreadyExistsError(
            absl::StrCat(what, ": another program has it (netlink port ", (*stats)->port_id, ")")),
        "Choose another --queue-num, or end that program; its port is mostly its process id");
  }
  if (error == EPERM) {
    return WithRemedy(ErrnoStatus(error, what), kPrivilegeRemedy);
  }
  if (!stats.ok()) {
    return WithRemedy(
        absl::UnimplementedError(absl::StrCat(what, ": this kernel has no nfnetlink_queue")),
        "modprobe nfnetlink_queue, or a kernel with CONFIG_NETFILTER_NETLINK_QUEUE");
  }
  return ErrnoStatus(error, what);
}

NfQueue::Received NfQueue::Receive(bool wait, Handler handler) {
  for (mmsghdr& header : headers_) header.msg_hdr.msg_namelen = sizeof(sockaddr_nl);
  const int n = ::recvmmsg(socket_.fd(), headers_.data(), kBatch,
                           wait ? MSG_WAITFORONE : MSG_DONTWAIT, nullptr);
  if (n < 0) {
    if (errno == EAGAIN || errno == EINTR) return Received::kNothing;
    return errno == ENOBUFS ? Received::kOverrun : Received::kError;
  }
  Message message;
  for (int i = 0; i < n; ++i) {
    if (from_[i].nl_pid != 0) continue;
    absl::Span<const uint8_t> bytes(slots_.get() + static_cast<size_t>(i) * slot_bytes_,
                                    std::min<size_t>(headers_[i].msg_len, slot_bytes_));
    while (NextMessage(&bytes, &message)) handler(message);
  }
  return Received::kMessages;
}

uint32_t NfQueue::WaitingBytes() const {
  uint32_t info[SK_MEMINFO_VARS] = {};
  socklen_t len = sizeof info;
  if (::getsockopt(socket_.fd(), SOL_SOCKET, SO_MEMINFO, info, &len) < 0) return 0;
  return info[SK_MEMINFO_RMEM_ALLOC];
}

int NfQueue::SendVerdicts(const VerdictBuffer& verdicts) {
  const absl::Span<const char> bytes = verdicts.bytes();
  for (int attempt = 1;; ++attempt) {
    // No address: an unconnected netlink socket sends to the kernel.
    if (::send(socket_.fd(), bytes.data(), bytes.size(), 0) >= 0) return 0;
    const int error = errno;
    const bool passing = error == EINTR || error == EAGAIN || error == ENOBUFS || error == ENOMEM;
    if (!passing || attempt == kSendAttempts) return error;
    // Memory is short: what was refused whole can be sent again.
    const timespec pause{.tv_sec = 0, .tv_nsec = 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

// netlink_rcv_skb acknowledges what is no request without passing it on.
void NfQueue::Wake() {
  nlmsghdr noop{};
  noop.nlmsg_len = sizeof noop;
  noop.nlmsg_type = NLMSG_NOOP;
  noop.nlmsg_flags = NLM_F_ACK;
  (void)::send(socket_.fd(), &noop, sizeof noop, 0);
}

absl::Status NfQueue::Cut() {
  alignas(nlmsghdr) char buffer[128];
  nlmsghdr* nlh = PutConfig(buffer, number_, NLM_F_ACK, kCutSequence);
  nfq_nlmsg_cfg_put_qmaxlen(nlh, 0);
  return socket_.Send(AsBytes(nlh));
}

absl::Status NfQueue::Unbind() {
  alignas(nlmsghdr) char buffer[128];
  nlmsghdr* nlh = PutConfig(buffer, number_, 0, kConfigSequence);
  nfq_nlmsg_cfg_put_cmd(nlh, AF_UNSPEC, NFQNL_CFG_CMD_UNBIND);
  return socket_.Send(AsBytes(nlh));
}

}  // namespace utproxy
