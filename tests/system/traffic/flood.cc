// SPDX-License-Identifier: GPL-3.0-or-later
// A flood of small IPv4 packets from random sources, each with right checksums, sent past the
// host's own stack through a packet socket. It ends by itself: after --seconds, or --packets.
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "common.h"

namespace traffic {
namespace {

constexpr unsigned kBurst = 32;
constexpr size_t kIpBytes = 20, kTcpBytes = 20, kUdpBytes = 20;  // UDP: 12 bytes of data
constexpr int64_t kNsPerSec = 1'000'000'000;
constexpr uint8_t kSyn = 0x02, kRst = 0x04, kAck = 0x10;

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNsPerSec + now.tv_nsec;
}

void Put16(uint8_t* at, uint32_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}
void Put32(uint8_t* at, uint32_t value) {
  Put16(at, value >> 16);
  Put16(at + 2, value);
}

uint32_t Sum(const uint8_t* bytes, size_t size, uint32_t sum) {
  for (size_t i = 0; i < size; i += 2) sum += static_cast<uint32_t>(bytes[i] << 8 | bytes[i + 1]);
  return sum;
}
uint32_t Checksum(uint32_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

class Flood {
 public:
  explicit Flood(const Args& args)
      : kind_(args.Get("kind", "syn")),
        seconds_(args.Int("seconds", 1)),
        packets_(args.Int("packets", int64_t{1} << 40)),
        per_second_(args.Int("pps", 0)),
        random_(static_cast<uint64_t>(args.Int("seed", 1))) {
    if (seconds_ < 1 || seconds_ > 60) DieUsage("--seconds: 1 to 60");
    if (kind_ != "syn" && kind_ != "ack" && kind_ != "rst" && kind_ != "udp") {
      DieUsage("--kind: syn, ack, rst or udp");
    }
    const Endpoint to = ParseEndpoint(args.Get("to"));
    if (to.family() != AF_INET) DieUsage("--to: an IPv4 address and a port");
    destination_ = *reinterpret_cast<const sockaddr_in*>(&to.storage);
    // RFC 2544's network for benchmarks: its 131,072 addresses times 64,512 ports.
    Open(args.Get("device"), args.Get("mac"));
    for (unsigned i = 0; i < kBurst; ++i) {
      vectors_[i] = {.iov_base = bytes_[i].data(), .iov_len = Size()};
      messages_[i].msg_hdr.msg_iov = &vectors_[i];
      messages_[i].msg_hdr.msg_iovlen = 1;
      messages_[i].msg_hdr.msg_name = &link_;
      messages_[i].msg_hdr.msg_namelen = sizeof link_;
    }
  }

  int Run() {
    const int64_t began = NowNs();
    int64_t sent = 0, refused = 0, now = began;
    for (; sent < packets_ && now - began < seconds_ * kNsPerSec && !Stopped(); now = NowNs()) {
      if (per_second_ != 0 && sent > (now - began) / 1000 * per_second_ / 1'000'000) {
        const timespec nap{.tv_sec = 0, .tv_nsec = 200'000};
        nanosleep(&nap, nullptr);
        continue;
      }
      const auto count = static_cast<unsigned>(std::min<int64_t>(kBurst, packets_ - sent));
      for (unsigned i = 0; i < count; ++i) Make(bytes_[i].data());
      const int n = sendmmsg(socket_, messages_.data(), count, 0);
      if (n > 0) sent += n;
      if (n < 0 && errno != ENOBUFS && errno != EAGAIN) DieErrno("sendmmsg");
      if (n < 0) ++refused;
    }
    JsonLine("summary").Add("sent", sent).Add("refused", refused).Add("ns", now - began).Print();
    return 0;
  }

 private:
  void Open(const std::string& device, const std::string& mac) {
    socket_ = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (socket_ < 0) DieErrno("packet socket");
    link_.sll_family = AF_PACKET;
    link_.sll_protocol = htons(ETH_P_IP);
    link_.sll_ifindex = static_cast<int>(if_nametoindex(device.c_str()));
    link_.sll_halen = ETH_ALEN;
    unsigned b[ETH_ALEN];
    if (link_.sll_ifindex == 0) DieErrno("--device " + device);
    if (std::sscanf(mac.c_str(), "%x:%x:%x:%x:%x:%x", b, b + 1, b + 2, b + 3, b + 4, b + 5) != 6) {
      DieUsage("--mac: as in 02:00:00:00:00:01");
    }
    for (int i = 0; i < ETH_ALEN; ++i) link_.sll_addr[i] = static_cast<uint8_t>(b[i]);
    SetIntOption(socket_, SOL_PACKET, PACKET_QDISC_BYPASS, 1, "PACKET_QDISC_BYPASS");
  }

  size_t Size() const { return kIpBytes + (kind_ == "udp" ? kUdpBytes : kTcpBytes); }

  void Make(uint8_t* packet) {
    random_ = Mix(random_);
    std::memset(packet, 0, Size());
    packet[0] = 0x45;
    Put16(packet + 2, static_cast<uint32_t>(Size()));
    packet[8] = 64;
    packet[9] = kind_ == "udp" ? IPPROTO_UDP : IPPROTO_TCP;
    Put32(packet + 12, 0xc6120000 | static_cast<uint32_t>(random_ & 0x1ffff));  // 198.18.0.0/15
    std::memcpy(packet + 16, &destination_.sin_addr, 4);
    Put16(packet + 10, Checksum(Sum(packet, kIpBytes, 0)));
    uint8_t* ports = packet + kIpBytes;
    Put16(ports, 1024 + static_cast<uint32_t>(random_ >> 20) % 64512);
    std::memcpy(ports + 2, &destination_.sin_port, 2);
    const size_t length = Size() - kIpBytes;
    const uint32_t pseudo = Sum(packet + 12, 8, packet[9] + static_cast<uint32_t>(length));
    if (kind_ == "udp") {
      Put16(ports + 4, static_cast<uint32_t>(length));
      Put16(ports + 6, Checksum(Sum(ports, length, pseudo)));
      return;
    }
    Put32(ports + 4, static_cast<uint32_t>(random_ >> 32));
    if (kind_ == "ack") Put32(ports + 8, static_cast<uint32_t>(random_ >> 16));
    ports[12] = kTcpBytes / 4 << 4;
    ports[13] = kind_ == "syn" ? kSyn : kind_ == "ack" ? kAck : kRst;
    Put16(ports + 14, 65535);
    Put16(ports + 16, Checksum(Sum(ports, length, pseudo)));
  }

  const std::string kind_;
  const int64_t seconds_, packets_, per_second_;
  uint64_t random_;
  int socket_ = -1;
  sockaddr_in destination_{};
  sockaddr_ll link_{};
  std::array<std::array<uint8_t, 64>, kBurst> bytes_{};
  std::array<iovec, kBurst> vectors_{};
  std::array<mmsghdr, kBurst> messages_{};
};

}  // namespace

int SendFlood(int argc, char** argv) {
  const Args args(argc, argv, {"kind", "to", "device", "mac", "seconds", "packets", "pps", "seed"},
                  {});
  return Flood(args).Run();
}

}  // namespace traffic
