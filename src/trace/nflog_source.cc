// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace/nflog_source.h"

#include <absl/strings/str_cat.h>
#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <poll.h>

#include <cerrno>

#include "base/status.h"

namespace utproxy {
namespace {

constexpr uint32_t kCopyBytes = 256;
constexpr int kBufferBytes = 32 << 20;
constexpr uint16_t kPacketType = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET;

nlmsghdr* ConfigMessage(char* buffer, uint16_t group) {
  nlmsghdr* header = mnl_nlmsg_put_header(buffer);
  header->nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  auto* nf = static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(header, sizeof(nfgenmsg)));
  nf->nfgen_family = AF_UNSPEC;
  nf->version = NFNETLINK_V0;
  nf->res_id = htons(group);
  return header;
}

absl::Status BindError(const absl::Status& status) {
  switch (ErrnoOf(status)) {
    case EPERM:
      return WithRemedy(status, "Run it as root, or with CAP_NET_ADMIN.");
    case EBUSY:
      return WithRemedy(status, "Another program reads this group; log to another one.");
    case EINVAL:
      return WithRemedy(status, "The kernel needs nfnetlink_log: modprobe nfnetlink_log");
    default:
      return status;
  }
}

}  // namespace

absl::StatusOr<NflogSource> NflogSource::Open(uint16_t group) {
  ASSIGN_OR_RETURN(NetlinkSocket socket, NetlinkSocket::Open(NETLINK_NETFILTER));
  RETURN_IF_ERROR(socket.SetReceiveBuffer(kBufferBytes).status());
  NflogSource source(std::move(socket));
  RETURN_IF_ERROR(BindNflogGroup(&source.socket_, group, kCopyBytes));
  return source;
}

// A threshold of one: a copy is explained by what the kernel's sockets are then, so it has to come
// soon.
absl::Status BindNflogGroup(NetlinkSocket* socket, uint16_t group, uint32_t copy_bytes) {
  alignas(nlmsghdr) char buffer[512];
  nlmsghdr* bind = ConfigMessage(buffer, group);
  const nfulnl_msg_config_cmd command{.command = NFULNL_CFG_CMD_BIND};
  mnl_attr_put(bind, NFULA_CFG_CMD, sizeof command, &command);
  const nfulnl_msg_config_mode mode{
      .copy_range = htonl(copy_bytes), .copy_mode = NFULNL_COPY_PACKET, ._pad = 0};
  mnl_attr_put(bind, NFULA_CFG_MODE, sizeof mode, &mode);
  mnl_attr_put_u32(bind, NFULA_CFG_QTHRESH, htonl(1));
  mnl_attr_put_u16(bind, NFULA_CFG_FLAGS, htons(NFULNL_CFG_F_SEQ));
  return BindError(
      socket->Transact(bind, absl::StrCat("bind NFLOG group ", group), [](const nlmsghdr&) {}));
}

void NflogSource::Count(const NflogPacket& packet) {
  if (!packet.sequence) return;
  if (expected_) lost_ += static_cast<uint32_t>(*packet.sequence - *expected_);
  expected_ = *packet.sequence + 1;
}

absl::Status NflogSource::Receive(int timeout_ms,
                                  absl::FunctionRef<void(const NflogPacket&)> handler) {
  pollfd poll{.fd = socket_.fd(), .events = POLLIN, .revents = 0};
  if (::poll(&poll, 1, timeout_ms) <= 0) return absl::OkStatus();
  const absl::StatusOr<bool> received = socket_.ReceiveEvents([&](const nlmsghdr& message) {
    if (message.nlmsg_type != kPacketType) return;
    NflogPacket packet;
    const auto* body = static_cast<const uint8_t*>(mnl_nlmsg_get_payload(&message));
    if (!ReadNflog({body, mnl_nlmsg_get_payload_len(&message)}, &packet)) return;
    Count(packet);
    handler(packet);
  });
  // What was lost shows as a gap in the numbers of what comes next.
  if (absl::IsResourceExhausted(received.status())) return absl::OkStatus();
  return received.status();
}

}  // namespace utproxy
