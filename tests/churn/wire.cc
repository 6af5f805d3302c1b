// SPDX-License-Identifier: GPL-3.0-or-later
#include "churn/wire.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <netinet/ip.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "packet/build.h"

namespace utproxy::churn {
namespace {

constexpr uint8_t kDscp = 11;
constexpr size_t kIpv4Header = 20, kIpv6Header = 40;
constexpr size_t kTcpSeqAt = 4, kTcpFlagsAt = 13, kUdpPayloadAt = 8;

size_t IpHeader(const uint8_t* packet) { return packet[0] >> 4 == 4 ? kIpv4Header : kIpv6Header; }

uint32_t IdOf(const uint8_t* packet, size_t length) {
  if (length < kIpv4Header) return 0;
  const bool v4 = packet[0] >> 4 == 4;
  const uint8_t protocol = packet[v4 ? 9 : 6];
  const size_t at = IpHeader(packet) + (protocol == IPPROTO_TCP ? kTcpSeqAt : kUdpPayloadAt);
  uint32_t id = 0;
  if (at + sizeof id <= length) std::memcpy(&id, packet + at, sizeof id);
  return ntohl(id);
}

void SetDscp(std::vector<uint8_t>* packet) {
  if ((*packet)[0] >> 4 == 4) {
    (*packet)[1] = kDscp << 2;  // the kernel computes the header's checksum
  } else {
    (*packet)[0] = 0x60 | kDscp >> 2;
    (*packet)[1] = static_cast<uint8_t>((kDscp & 3) << 6);
  }
}

}  // namespace

void Die(const std::string& what) {
  std::fprintf(stderr, "churn: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(3);
}

void InNamespace(const UniqueFd& netns, const std::function<void()>& body) {
  static const UniqueFd home(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  if (::setns(netns.get(), CLONE_NEWNET) != 0) Die("setns");
  body();
  if (::setns(home.get(), CLONE_NEWNET) != 0) Die("setns back");
}

Injector::Injector(const Addresses& addresses) : addresses_(addresses) {
  sockets_[0].reset(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_RAW));
  sockets_[1].reset(::socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_RAW));
  if (!sockets_[0].valid() || !sockets_[1].valid()) Die("raw socket");
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    for (const uint8_t protocol : {IPPROTO_TCP, IPPROTO_UDP}) {
      const Packet packet{.src = addresses.client[Index(family)],
                          .dst = addresses.asked[Index(family)],
                          .family = family,
                          .protocol = protocol};
      auto& bytes = bytes_[Index(family)][protocol == IPPROTO_TCP ? 0 : 1];
      bytes = BuildPacket(packet, {.payload = std::vector<uint8_t>(8)});
      SetDscp(&bytes);
    }
  }
}

// The checksum is left wrong: nobody looks at it before the INPUT hook, where the packet ends.
bool Injector::Send(const Probe& probe, uint16_t dport, uint32_t id) {
  const bool tcp = probe.proto == Proto::kTcp;
  std::vector<uint8_t>& bytes = bytes_[Index(probe.family)][tcp ? 0 : 1];
  uint8_t* transport = bytes.data() + IpHeader(bytes.data());
  const uint16_t ports[] = {htons(probe.sport), htons(dport)};
  const uint32_t number = htonl(id);
  std::memcpy(transport, ports, sizeof ports);
  std::memcpy(transport + (tcp ? kTcpSeqAt : kUdpPayloadAt), &number, sizeof number);
  if (tcp) transport[kTcpFlagsAt] = probe.syn ? kTcpSyn : kTcpAck;

  sockaddr_in v4{.sin_family = AF_INET};
  sockaddr_in6 v6{.sin6_family = AF_INET6};
  const bool is_v4 = probe.family == Family::kIpv4;
  if (is_v4) v4.sin_addr.s_addr = addresses_.asked[0].Ipv4();
  std::memcpy(&v6.sin6_addr, addresses_.asked[1].bytes().data(), 16);
  const auto* to =
      is_v4 ? reinterpret_cast<const sockaddr*>(&v4) : reinterpret_cast<const sockaddr*>(&v6);
  const socklen_t to_length = is_v4 ? sizeof v4 : sizeof v6;
  const ssize_t sent =
      ::sendto(sockets_[Index(probe.family)].get(), bytes.data(), bytes.size(), 0, to, to_length);
  if (sent < 0 && errno != EAGAIN && errno != ENOBUFS) Die("send a raw packet");
  return sent >= 0;
}

LogReader::LogReader() : fd_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)) {
  if (!fd_.valid()) Die("netlink socket");
  const int size = 64 << 20;
  if (::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) != 0) {
    Die("SO_RCVBUFFORCE");
  }
  Configure(kArrived);
  Configure(kDelivered);
}

void LogReader::Configure(uint16_t group) {
  char buffer[512];
  nlmsghdr* header = mnl_nlmsg_put_header(buffer);
  header->nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  auto* body = static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(header, sizeof(nfgenmsg)));
  body->res_id = htons(group);
  const nfulnl_msg_config_cmd command{.command = NFULNL_CFG_CMD_BIND};
  mnl_attr_put(header, NFULA_CFG_CMD, sizeof command, &command);
  const nfulnl_msg_config_mode mode{.copy_range = htonl(96), .copy_mode = NFULNL_COPY_PACKET};
  mnl_attr_put(header, NFULA_CFG_MODE, sizeof mode, &mode);
  mnl_attr_put_u32(header, NFULA_CFG_QTHRESH, htonl(1));
  mnl_attr_put_u16(header, NFULA_CFG_FLAGS, htons(NFULNL_CFG_F_SEQ));
  if (::send(fd_.get(), buffer, header->nlmsg_len, 0) < 0) Die("configure nfnetlink_log");
  const ssize_t length = ::recv(fd_.get(), buffer, sizeof buffer, 0);
  const auto* answer = reinterpret_cast<const nlmsghdr*>(buffer);
  const auto* error = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(answer));
  if (length < 0 || answer->nlmsg_type != NLMSG_ERROR || error->error != 0) {
    errno = length < 0 ? errno : -error->error;
    Die("nfnetlink_log refuses its group");
  }
}

namespace {

struct Parsed {
  LoggedPacket packet;
  uint32_t sequence = 0;
};

int ParseAttribute(const nlattr* attribute, void* data) {
  auto* parsed = static_cast<Parsed*>(data);
  switch (mnl_attr_get_type(attribute)) {
    case NFULA_MARK:
      parsed->packet.mark = ntohl(mnl_attr_get_u32(attribute));
      break;
    case NFULA_SEQ:
      parsed->sequence = ntohl(mnl_attr_get_u32(attribute));
      break;
    case NFULA_PAYLOAD:
      parsed->packet.id = IdOf(static_cast<const uint8_t*>(mnl_attr_get_payload(attribute)),
                               mnl_attr_get_payload_len(attribute));
      break;
    default:
      break;
  }
  return MNL_CB_OK;
}

}  // namespace

void LogReader::Read(const std::function<void(const LoggedPacket&)>& take) {
  alignas(nlmsghdr) char buffer[65536];
  while (true) {
    const ssize_t length = ::recv(fd_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (length < 0) Die("read nfnetlink_log");
    int left = static_cast<int>(length);
    for (const auto* header = reinterpret_cast<nlmsghdr*>(buffer); mnl_nlmsg_ok(header, left);
         header = mnl_nlmsg_next(header, &left)) {
      if (header->nlmsg_type != (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET)) continue;
      Parsed parsed;
      const auto* body = static_cast<const nfgenmsg*>(mnl_nlmsg_get_payload(header));
      parsed.packet.group = ntohs(body->res_id);
      mnl_attr_parse(header, sizeof(nfgenmsg), ParseAttribute, &parsed);
      if (parsed.sequence != next_[parsed.packet.group]++) {
        errno = ENOBUFS;
        Die("nfnetlink_log has lost packets");
      }
      take(parsed.packet);
    }
  }
}

}  // namespace utproxy::churn
