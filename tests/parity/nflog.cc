// SPDX-License-Identifier: GPL-3.0-or-later
#include "nflog.h"

#include <absl/strings/str_cat.h>
#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <poll.h>

#include <cstring>

#include "netlink/attributes.h"
#include "netns.h"

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

uint16_t PacketId(const nlattr* payload) {
  if (mnl_attr_get_payload_len(payload) < 20) return 0;
  const auto* bytes = static_cast<const uint8_t*>(mnl_attr_get_payload(payload));
  const uint8_t* at = bytes[0] >> 4 == 4 ? bytes + 4 : bytes + 2;
  return static_cast<uint16_t>(at[0] << 8 | at[1]);
}

}  // namespace

Nflog::Nflog(uint16_t first, uint16_t last) : socket_(Open()) {
  for (uint16_t group = first; group <= last; ++group) Configure(group);
}

void Nflog::Configure(uint16_t group) {
  char buffer[512];
  nlmsghdr* bind = ConfigMessage(buffer, group);
  const nfulnl_msg_config_cmd command{.command = NFULNL_CFG_CMD_BIND};
  mnl_attr_put(bind, NFULA_CFG_CMD, sizeof command, &command);
  const nfulnl_msg_config_mode mode{
      .copy_range = htonl(kCopyBytes), .copy_mode = NFULNL_COPY_PACKET, ._pad = 0};
  mnl_attr_put(bind, NFULA_CFG_MODE, sizeof mode, &mode);
  mnl_attr_put_u32(bind, NFULA_CFG_QTHRESH, htonl(1));
  const absl::Status status = socket_.Transact(bind, "bind NFLOG group", [](const nlmsghdr&) {});
  if (!status.ok()) Fatal(absl::StrCat("NFLOG: ", status.message()));
}

void Nflog::Read(std::vector<Logged>* out, int timeout_ms) {
  const auto take = [out](const nlmsghdr& message) {
    if (message.nlmsg_type != (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET)) return;
    const auto* nf = static_cast<const nfgenmsg*>(mnl_nlmsg_get_payload(&message));
    Logged logged{.group = ntohs(nf->res_id)};
    ForEachAttribute(message, sizeof(nfgenmsg), [&](const nlattr& attribute) {
      switch (mnl_attr_get_type(&attribute)) {
        case NFULA_MARK:
          logged.mark = ntohl(mnl_attr_get_u32(&attribute));
          break;
        case NFULA_PAYLOAD:
          logged.id = PacketId(&attribute);
          break;
        default:
          break;
      }
    });
    out->push_back(logged);
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
