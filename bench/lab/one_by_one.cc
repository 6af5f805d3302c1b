// SPDX-License-Identifier: GPL-3.0-or-later
// A queue served in the way that programs with libnetfilter_queue mostly do: one recv, one message,
// one verdict, one send. Every packet is copied whole and accepted with mark 1.
//
// Usage: one_by_one QUEUES [MAXLEN]. Queues 0 to QUEUES - 1, a thread each. Prints "ready" and runs
// until SIGTERM or SIGINT; then prints how many packets it saw.
#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <libnetfilter_queue/libnetfilter_queue.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <signal.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr uint32_t kMark = 1;
constexpr uint32_t kWholePacket = 0xffff;
constexpr uint32_t kDefaultLength = 16384;
std::atomic<unsigned long long> packets{0};

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

void Send(mnl_socket* socket, const nlmsghdr* nlh) {
  if (mnl_socket_sendto(socket, nlh, nlh->nlmsg_len) < 0) Die("one_by_one: send");
}

void Configure(mnl_socket* socket, uint16_t queue, uint32_t maxlen) {
  char buffer[256];
  nlmsghdr* nlh = nfq_nlmsg_put(buffer, NFQNL_MSG_CONFIG, queue);
  nfq_nlmsg_cfg_put_cmd(nlh, AF_INET, NFQNL_CFG_CMD_BIND);
  Send(socket, nlh);
  nlh = nfq_nlmsg_put(buffer, NFQNL_MSG_CONFIG, queue);
  nfq_nlmsg_cfg_put_params(nlh, NFQNL_COPY_PACKET, kWholePacket);
  nfq_nlmsg_cfg_put_qmaxlen(nlh, maxlen);
  mnl_attr_put_u32(nlh, NFQA_CFG_FLAGS, htonl(NFQA_CFG_F_GSO));
  mnl_attr_put_u32(nlh, NFQA_CFG_MASK, htonl(NFQA_CFG_F_GSO));
  Send(socket, nlh);
}

int Answer(const nlmsghdr* nlh, void* data) {
  auto* socket = static_cast<mnl_socket*>(data);
  nlattr* attributes[NFQA_MAX + 1] = {};
  if (nfq_nlmsg_parse(nlh, attributes) < 0 || attributes[NFQA_PACKET_HDR] == nullptr)
    return MNL_CB_OK;
  const auto* header =
      static_cast<const nfqnl_msg_packet_hdr*>(mnl_attr_get_payload(attributes[NFQA_PACKET_HDR]));
  const auto* message = static_cast<const nfgenmsg*>(mnl_nlmsg_get_payload(nlh));
  char buffer[256];
  nlmsghdr* verdict = nfq_nlmsg_put(buffer, NFQNL_MSG_VERDICT, ntohs(message->res_id));
  nfq_nlmsg_verdict_put(verdict, static_cast<int>(ntohl(header->packet_id)), NF_ACCEPT);
  nfq_nlmsg_verdict_put_mark(verdict, kMark);
  Send(socket, verdict);
  packets.fetch_add(1, std::memory_order_relaxed);
  return MNL_CB_OK;
}

void Serve(mnl_socket* socket) {
  std::vector<char> buffer(kWholePacket + 4096);
  const unsigned port = mnl_socket_get_portid(socket);
  while (true) {
    const ssize_t n = mnl_socket_recvfrom(socket, buffer.data(), buffer.size());
    // An answer that is an error, such as to a packet that has gone, ends nothing.
    if (n > 0) (void)mnl_cb_run(buffer.data(), static_cast<size_t>(n), 0, port, Answer, socket);
  }
}

mnl_socket* Open(uint16_t queue, uint32_t maxlen) {
  mnl_socket* socket = mnl_socket_open(NETLINK_NETFILTER);
  if (socket == nullptr || mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0) {
    Die("one_by_one: open");
  }
  int on = 1;
  (void)mnl_socket_setsockopt(socket, NETLINK_NO_ENOBUFS, &on, sizeof on);
  // A queued packet's whole memory counts: twice what is asked for is granted.
  const int bytes = static_cast<int>(maxlen * 4096);
  (void)::setsockopt(mnl_socket_get_fd(socket), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
  Configure(socket, queue, maxlen);
  return socket;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: one_by_one QUEUES [MAXLEN]\n");
    return 2;
  }
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  const uint32_t maxlen =
      argc > 2 ? static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10)) : kDefaultLength;
  for (int i = 0; i < std::atoi(argv[1]); ++i) {
    mnl_socket* socket = Open(static_cast<uint16_t>(i), maxlen);
    std::thread(Serve, socket).detach();
  }
  std::printf("ready\n");
  std::fflush(stdout);
  int signal = 0;
  sigwait(&ends, &signal);
  std::printf("packets %llu\n", packets.load());
  std::fflush(stdout);
  std::_Exit(0);  // the threads wait for packets
}
