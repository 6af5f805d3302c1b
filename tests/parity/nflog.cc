// SPDX-License-Identifier: GPL-3.0-or-later
#include "nflog.h"

#include <absl/strings/str_cat.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <poll.h>

#include "netns.h"
#include "trace/nflog_codec.h"
#include "trace/nflog_source.h"

namespace utproxy::parity {
namespace {

constexpr uint32_t kCopyBytes = 64;
constexpr int kBufferBytes = 32 << 20;

NetlinkSocket Open() {
  absl::StatusOr<NetlinkSocket> socket = NetlinkSocket::Open(NETLINK_NETFILTER);
  if (!socket.ok()) Fatal(absl::StrCat("NFLOG: ", socket.status().message()));
  (void)socket->SetReceiveBuffer(kBufferBytes);
  return *std::move(socket);
}

uint16_t PacketId(absl::Span<const uint8_t> payload) {
  if (payload.size() < 20) return 0;
  const uint8_t* at = payload.data() + (payload[0] >> 4 == 4 ? 4 : 2);
  return static_cast<uint16_t>(at[0] << 8 | at[1]);
}

}  // namespace

Nflog::Nflog(uint16_t first, uint16_t last) : socket_(Open()) {
  for (uint16_t group = first; group <= last; ++group) {
    const absl::Status status = BindNflogGroup(&socket_, group, kCopyBytes);
    if (!status.ok()) Fatal(absl::StrCat("NFLOG: ", status.message()));
  }
}

void Nflog::Read(std::vector<Logged>* out, int timeout_ms) {
  const auto take = [out](const nlmsghdr& message) {
    if (message.nlmsg_type != (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET)) return;
    const auto* body = static_cast<const uint8_t*>(mnl_nlmsg_get_payload(&message));
    NflogPacket packet;
    // Without payload it is a packet all the same, by its group and mark.
    (void)ReadNflog({body, mnl_nlmsg_get_payload_len(&message)}, &packet);
    out->push_back({.group = packet.group, .mark = packet.mark, .id = PacketId(packet.payload)});
  };
  while (true) {
    const absl::StatusOr<bool> more = socket_.ReceiveEvents(take);
    if (!more.ok()) Fatal(absl::StrCat("NFLOG: ", more.status().message()));
    if (*more) {
      timeout_ms = 0;
      continue;
    }
    pollfd poll{.fd = socket_.fd(), .events = POLLIN, .revents = 0};
    if (timeout_ms == 0 || ::poll(&poll, 1, timeout_ms) != 1) return;
  }
}

}  // namespace utproxy::parity
