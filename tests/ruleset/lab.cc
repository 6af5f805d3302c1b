// SPDX-License-Identifier: GPL-3.0-or-later
#include "lab.h"

#include <absl/strings/str_cat.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/if_tun.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "support/netns.h"

namespace utproxy::lab {
namespace {

bool IsIpv6(const TestPacket& packet) { return packet.src.find(':') != std::string::npos; }

void Put16(std::vector<uint8_t>& bytes, size_t at, uint32_t value) {
  bytes[at] = static_cast<uint8_t>(value >> 8);
  bytes[at + 1] = static_cast<uint8_t>(value);
}

uint32_t Sum(const std::vector<uint8_t>& bytes, size_t from, size_t to, uint32_t sum) {
  for (size_t i = from; i < to; ++i) sum += (i - from) % 2 == 0 ? bytes[i] << 8 : bytes[i];
  return sum;
}

uint32_t Fold(uint32_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

std::vector<uint8_t> IpHeader(const TestPacket& packet, size_t payload, uint8_t next,
                              uint16_t fragment) {
  const bool v6 = IsIpv6(packet);
  std::vector<uint8_t> header(v6 ? 40 : 20, 0);
  inet_pton(v6 ? AF_INET6 : AF_INET, packet.src.c_str(), &header[v6 ? 8 : 12]);
  inet_pton(v6 ? AF_INET6 : AF_INET, packet.dst.c_str(), &header[v6 ? 24 : 16]);
  header[0] = v6 ? 0x60 : 0x45;
  header[v6 ? 7 : 8] = 64;
  header[v6 ? 6 : 9] = next;
  Put16(header, v6 ? 4 : 2, static_cast<uint32_t>(v6 ? payload : payload + 20));
  if (!v6) {
    Put16(header, 4, 4711);
    Put16(header, 6, fragment);
    Put16(header, 10, Fold(Sum(header, 0, 20, 0)));
  }
  return header;
}

std::vector<uint8_t> Transport(const TestPacket& packet, const std::vector<uint8_t>& ip) {
  const bool tcp = packet.proto == Proto::kTcp;
  std::vector<uint8_t> bytes((tcp ? 20 : 8) + packet.payload, 'u');
  std::memset(bytes.data(), 0, tcp ? 20 : 8);
  Put16(bytes, 0, packet.sport);
  Put16(bytes, 2, packet.dport);
  if (tcp) {
    bytes[12] = 5 << 4;
    bytes[13] = 0x02;  // SYN
  } else {
    Put16(bytes, 4, static_cast<uint32_t>(bytes.size()));
  }
  const bool v6 = ip[0] >> 4 == 6;
  uint32_t sum = static_cast<uint32_t>(packet.proto) + static_cast<uint32_t>(bytes.size());
  sum = Sum(ip, v6 ? 8 : 12, ip.size(), sum);
  Put16(bytes, tcp ? 16 : 6, Fold(Sum(bytes, 0, bytes.size(), sum)));
  return bytes;
}

void Append(std::vector<uint8_t>& to, const std::vector<uint8_t>& from, size_t begin, size_t end) {
  to.insert(to.end(), from.begin() + static_cast<ptrdiff_t>(begin),
            from.begin() + static_cast<ptrdiff_t>(end));
}

bool WaitReadable(int fd) {
  pollfd wait{fd, POLLIN, 0};
  return ::poll(&wait, 1, 5000) == 1;
}

nlmsghdr* QueueMessage(char* buffer, uint16_t type, uint16_t flags, uint16_t number) {
  nlmsghdr* nlh = mnl_nlmsg_put_header(buffer);
  nlh->nlmsg_type = static_cast<uint16_t>(NFNL_SUBSYS_QUEUE << 8 | type);
  nlh->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  auto* header = static_cast<nfgenmsg*>(mnl_nlmsg_put_extra_header(nlh, sizeof(nfgenmsg)));
  header->version = NFNETLINK_V0;
  header->res_id = htons(number);
  return nlh;
}

std::unique_ptr<Queued> ReadQueued(const nlmsghdr& nlh) {
  auto queued = std::make_unique<Queued>();
  const auto read = [](const nlattr* a, void* data) {
    auto* q = static_cast<Queued*>(data);
    const auto* bytes = static_cast<const uint8_t*>(mnl_attr_get_payload(a));
    if (mnl_attr_get_type(a) == NFQA_PACKET_HDR) {
      q->id = ntohl(reinterpret_cast<const nfqnl_msg_packet_hdr*>(bytes)->packet_id);
    } else if (mnl_attr_get_type(a) == NFQA_MARK) {
      q->mark = ntohl(mnl_attr_get_u32(a));
    } else if (mnl_attr_get_type(a) == NFQA_PAYLOAD) {
      q->payload.assign(bytes, bytes + mnl_attr_get_payload_len(a));
    }
    return MNL_CB_OK;
  };
  (void)mnl_attr_parse(&nlh, sizeof(nfgenmsg), read, queued.get());
  return queued;
}

}  // namespace

std::string EnterNamespace() {
  const std::string why = testing::EnterNetns();
  if (!why.empty()) return why;
  return Shell("command -v nft ip").status == 0 ? "" : "needs nft and ip";
}

Output Shell(const std::string& script) {
  char path[] = "/tmp/utp-ruleset-XXXXXX";
  const UniqueFd file(::mkstemp(path));
  if (!file.valid() ||
      ::write(file.get(), script.data(), script.size()) != static_cast<ssize_t>(script.size())) {
    return {127, "no temporary file"};
  }
  FILE* pipe = ::popen(absl::StrCat("bash ", path, " 2>&1").c_str(), "re");
  Output output{127, ""};
  if (pipe != nullptr) {
    char buffer[4096];
    size_t n;
    while ((n = ::fread(buffer, 1, sizeof buffer, pipe)) > 0) output.text.append(buffer, n);
    const int status = ::pclose(pipe);
    output.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  ::unlink(path);
  return output;
}

std::string NetworkState() {
  // nft writes remarks on xt targets to stderr and one line to stdout, its version deciding which.
  return Shell(
             "nft -s list ruleset 2>/dev/null | grep -v '^# Warning'; ip rule; ip -6 rule; "
             "ip -d route show table all; ip -6 -d route show table all; "
             "sysctl net.ipv4.conf net.ipv6.conf | sha256sum")
      .text;
}

std::vector<uint8_t> Build(const TestPacket& packet) {
  const size_t size = (packet.proto == Proto::kTcp ? 20 : 8) + packet.payload;
  std::vector<uint8_t> ip = IpHeader(packet, size, static_cast<uint8_t>(packet.proto), 0);
  const std::vector<uint8_t> transport = Transport(packet, ip);
  Append(ip, transport, 0, transport.size());
  return ip;
}

std::vector<std::vector<uint8_t>> BuildFragments(const TestPacket& packet) {
  const auto proto = static_cast<uint8_t>(packet.proto);
  const std::vector<uint8_t> whole = Transport(packet, IpHeader(packet, 0, proto, 0));
  const size_t cut = 8 * (whole.size() / 16);
  std::vector<std::vector<uint8_t>> fragments;
  for (const bool first : {true, false}) {
    const size_t begin = first ? 0 : cut, end = first ? cut : whole.size();
    const bool v6 = IsIpv6(packet);
    const auto offset =
        static_cast<uint16_t>(v6 ? begin | (first ? 1 : 0) : begin / 8 | (first ? 0x2000 : 0));
    std::vector<uint8_t> bytes =
        IpHeader(packet, end - begin + (v6 ? 8 : 0), v6 ? 44 : proto, offset);
    if (v6) {
      std::vector<uint8_t> header = {proto, 0, 0, 0, 0, 0, 18, 103};
      Put16(header, 2, offset);
      Append(bytes, header, 0, header.size());
    }
    Append(bytes, whole, begin, end);
    fragments.push_back(std::move(bytes));
  }
  return fragments;
}

Tun::Tun(const std::string& name) : fd_(::open("/dev/net/tun", O_RDWR | O_CLOEXEC)) {
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  if (!fd_.valid() || ::ioctl(fd_.get(), TUNSETIFF, &request) < 0 ||
      Shell(absl::StrCat("ip link set ", name, " up")).status != 0) {
    fd_.reset();
  }
}

bool Tun::Write(const std::vector<uint8_t>& packet) const {
  return ::write(fd_.get(), packet.data(), packet.size()) == static_cast<ssize_t>(packet.size());
}

std::vector<uint8_t> Tun::Read() const {
  std::vector<uint8_t> packet(65536);
  if (!WaitReadable(fd_.get())) return {};
  const ssize_t n = ::read(fd_.get(), packet.data(), packet.size());
  packet.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return packet;
}

std::unique_ptr<TestQueue> TestQueue::Bind(uint16_t number) {
  absl::StatusOr<NetlinkSocket> socket = NetlinkSocket::Open(NETLINK_NETFILTER);
  if (!socket.ok()) return nullptr;
  alignas(nlmsghdr) char buffer[256];
  nlmsghdr* nlh = QueueMessage(buffer, NFQNL_MSG_CONFIG, NLM_F_ACK, number);
  const nfqnl_msg_config_cmd bind{NFQNL_CFG_CMD_BIND, 0, htons(AF_UNSPEC)};
  mnl_attr_put(nlh, NFQA_CFG_CMD, sizeof bind, &bind);
  const nfqnl_msg_config_params copy{htonl(0xffff), NFQNL_COPY_PACKET};
  mnl_attr_put(nlh, NFQA_CFG_PARAMS, sizeof copy, &copy);
  if (!socket->Transact(nlh, "bind", [](const nlmsghdr&) {}).ok()) return nullptr;
  return std::unique_ptr<TestQueue>(new TestQueue(std::move(*socket), number));
}

std::unique_ptr<Queued> TestQueue::Next() {
  while (waiting_.empty()) {
    if (!WaitReadable(socket_.fd())) return nullptr;
    const auto take = [&](const nlmsghdr& nlh) { waiting_.push_back(ReadQueued(nlh)); };
    if (!socket_.ReceiveEvents(take).ok()) return nullptr;
  }
  std::unique_ptr<Queued> first = std::move(waiting_.front());
  waiting_.erase(waiting_.begin());
  return first;
}

void TestQueue::Accept(uint32_t id, uint32_t mark) {
  alignas(nlmsghdr) char buffer[256];
  nlmsghdr* nlh = QueueMessage(buffer, NFQNL_MSG_VERDICT, 0, number_);
  const nfqnl_msg_verdict_hdr verdict{htonl(NF_ACCEPT), htonl(id)};
  mnl_attr_put(nlh, NFQA_VERDICT_HDR, sizeof verdict, &verdict);
  mnl_attr_put_u32(nlh, NFQA_MARK, htonl(mark));
  (void)socket_.Send({reinterpret_cast<char*>(nlh), nlh->nlmsg_len});
}

uint16_t SourcePort(const std::vector<uint8_t>& packet) {
  const size_t at = packet.empty() ? 0 : packet[0] >> 4 == 6 ? 40 : 20;
  return packet.size() < at + 2 ? 0 : static_cast<uint16_t>(packet[at] << 8 | packet[at + 1]);
}

}  // namespace utproxy::lab
