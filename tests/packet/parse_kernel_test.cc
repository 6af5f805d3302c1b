// SPDX-License-Identifier: GPL-3.0-or-later
// Asks the running kernel's own TPROXY which packets it can make something of, and compares.
//
// In a network namespace of its own, packets are written to a tun device; a TPROXY rule for TCP
// and one for UDP mark what they find a socket for, and a chain right behind counts the mark and
// drops everything. There is a listener for each protocol, so a miss is a miss of the headers.
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/fd.h"
#include "packet/build.h"
#include "utproxy/parse.h"

namespace utproxy {
namespace {

using Bytes = std::vector<uint8_t>;

struct Sample {
  std::string name;
  Bytes bytes;
};

// ip6tables may be a front of nftables, whose `-p` stops at AH (nft_set_pktinfo_ipv6); so AH is
// left to the table of parse_test.cc.
constexpr char kSetUp[] = R"(set -e
exec >/dev/null 2>&1
ip addr add 10.0.1.1/24 dev tun0
ip -6 addr add fd00::1/64 dev tun0 nodad
ip link set tun0 up
for tables in iptables ip6tables; do for proto in tcp udp; do
  $tables -t mangle -A PREROUTING -i tun0 -p $proto -j TPROXY --on-port 1090 --tproxy-mark 1
done; done
nft -f - <<END
table inet oracle {
  counter hit {}
  chain after {
    type filter hook prerouting priority -149;
    meta mark 1 counter name hit drop
    iifname tun0 drop
  }
}
END
)";

class ParseKernelTest : public testing::Test {
 protected:
  void SetUp() override {
    if (unshare(CLONE_NEWNET) != 0) GTEST_SKIP() << "a network namespace needs root";
    tun_.reset(open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq request{};
    std::strcpy(request.ifr_name, "tun0");
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (!tun_.valid() || ioctl(tun_.get(), TUNSETIFF, &request) != 0) {
      GTEST_SKIP() << "no tun device to be had";
    }
    Listen(SOCK_STREAM, &tcp_);
    Listen(SOCK_DGRAM, &udp_);
    if (std::system(kSetUp) != 0) GTEST_SKIP() << "ip, iptables with TPROXY or nft is missing";
  }

  static void Listen(int type, UniqueFd* fd) {
    fd->reset(socket(AF_INET6, type | SOCK_CLOEXEC, 0));
    const int on = 1;
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    any.sin6_port = htons(1090);
    ASSERT_EQ(setsockopt(fd->get(), SOL_IPV6, IPV6_TRANSPARENT, &on, sizeof on), 0);
    ASSERT_EQ(bind(fd->get(), reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
    ASSERT_EQ(type == SOCK_STREAM ? listen(fd->get(), 5) : 0, 0);
  }

  // How many packets the kernel has marked so far.
  static int Hits() {
    FILE* out = popen("nft list counter inet oracle hit", "re");
    std::string text(4096, '\0');
    text.resize(fread(text.data(), 1, text.size(), out));
    pclose(out);
    const size_t at = text.find("packets ");
    int hits = -1;
    if (at == std::string::npos) return hits;
    const absl::string_view number = absl::string_view(text).substr(at + 8);
    return absl::SimpleAtoi(number.substr(0, number.find(' ')), &hits) ? hits : -1;
  }

  // Sends all of them and returns how many were hits.
  int Send(const std::vector<Sample>& samples) {
    const int before = Hits();
    for (const Sample& s : samples) {
      EXPECT_EQ(write(tun_.get(), s.bytes.data(), s.bytes.size()),
                static_cast<ssize_t>(s.bytes.size()))
          << s.name;
    }
    return Hits() - before;
  }

  UniqueFd tun_, tcp_, udp_;
};

Packet Flow(Family family, uint8_t protocol) {
  const bool v4 = family == Family::kIpv4;
  return Packet{.src = *Address::Parse(v4 ? "10.0.1.99" : "fd00::2"),
                .dst = *Address::Parse(v4 ? "198.51.100.7" : "2001:db8::1"),
                .sport = 4000,
                .dport = 53,
                .family = family,
                .protocol = protocol,
                .tcp_flags = protocol == IPPROTO_TCP ? kTcpAck : uint8_t{0}};
}

// Every claimed length, and every true length that the claim fits.
void AddLengths(const Packet& p, const std::string& name, std::vector<Sample>* out) {
  const size_t ip = p.family == Family::kIpv4 ? 20 : 40;
  for (uint16_t claim = 0; claim <= 70; ++claim) {
    const BuildOptions lie{.payload = Bytes(10), .claimed_length = claim};
    out->push_back({absl::StrCat(name, " claims ", claim), BuildPacket(p, lie)});
  }
  const size_t whole = BuildPacket(p).size();
  for (size_t size = ip; size < whole; ++size) {
    const size_t claim = p.family == Family::kIpv4 ? size : size - ip;
    Bytes bytes = BuildPacket(p, {.claimed_length = static_cast<uint16_t>(claim)});
    bytes.resize(size);
    out->push_back({absl::StrCat(name, " of ", size), std::move(bytes)});
  }
}

void AddTransportLies(const Packet& p, const std::string& name, std::vector<Sample>* out) {
  const size_t at = p.family == Family::kIpv4 ? 20 : 40;
  for (const uint8_t value : Bytes{0, 1, 0x10, 0x40, 0xf0, 0xff}) {
    Bytes bytes = BuildPacket(p);
    bytes[p.is_tcp() ? at + 12 : at + 5] = value;  // data offset; UDP length
    out->push_back({absl::StrCat(name, " offset or length ", value), std::move(bytes)});
  }
}

void AddIpv4(const Packet& p, const std::string& name, std::vector<Sample>* out) {
  for (size_t options = 4; options <= 40; options += 4) {
    out->push_back({absl::StrCat(name, " options ", options),
                    BuildPacket(p, {.ip_options = Bytes(options, 1)})});
  }
  for (const uint16_t fragment : std::vector<uint16_t>{0x4000, 0x8000, 0x2000, 2}) {
    const BuildOptions with{.payload = Bytes(28), .fragment = fragment};
    out->push_back({absl::StrCat(name, " fragment ", fragment), BuildPacket(p, with)});
  }
}

void AddIpv6(const Packet& p, const std::string& name, std::vector<Sample>* out) {
  const ExtensionHeader hop{.type = IPPROTO_HOPOPTS, .body = Bytes(6)};
  const ExtensionHeader dst{.type = IPPROTO_DSTOPTS, .body = Bytes(14)};
  const ExtensionHeader routing{.type = IPPROTO_ROUTING, .body = Bytes(6)};
  const Bytes pad(p.is_tcp() ? 12 : 16);  // parts of fragmented datagrams are multiples of 8
  const std::vector<std::vector<ExtensionHeader>> chains = {{hop},
                                                            {dst},
                                                            {routing},
                                                            {hop, dst, routing},
                                                            {dst, routing, dst},
                                                            {dst, hop},
                                                            {FragmentHeader(0, false, 1)},
                                                            {hop, FragmentHeader(0, false, 2), dst},
                                                            {FragmentHeader(0, true, 3)},
                                                            {FragmentHeader(2, false, 4)}};
  for (size_t i = 0; i < chains.size(); ++i) {
    out->push_back({absl::StrCat(name, " chain ", i),
                    BuildPacket(p, {.payload = pad, .extensions = chains[i]})});
  }
  for (uint16_t claim = 0; claim < 60; ++claim) {
    for (const ExtensionHeader& header : {hop, dst}) {
      const BuildOptions lie{.payload = pad, .extensions = {header}, .claimed_length = claim};
      out->push_back(
          {absl::StrCat(name, " header ", header.type, " claims ", claim), BuildPacket(p, lie)});
    }
  }
  for (const uint8_t type : Bytes{IPPROTO_DSTOPTS, IPPROTO_ROUTING}) {
    for (uint8_t length = 0; length < 8; ++length) {
      Bytes bytes = BuildPacket(p, {.extensions = {{.type = type, .body = Bytes(6)}}});
      bytes[41] = length;
      out->push_back({absl::StrCat(name, " header ", type, " length ", length), std::move(bytes)});
    }
  }
}

std::vector<Sample> Samples() {
  std::vector<Sample> samples;
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    for (const uint8_t protocol : Bytes{IPPROTO_TCP, IPPROTO_UDP}) {
      const Packet p = Flow(family, protocol);
      const std::string name = absl::StrCat(FamilyName(family), " ", ProtoName(p.proto()));
      AddLengths(p, name, &samples);
      AddTransportLies(p, name, &samples);
      (family == Family::kIpv4 ? AddIpv4 : AddIpv6)(p, name, &samples);
    }
    for (const uint8_t other : Bytes{IPPROTO_ICMP, IPPROTO_ESP, IPPROTO_NONE, IPPROTO_SCTP,
                                     IPPROTO_UDPLITE, IPPROTO_MH}) {
      samples.push_back({absl::StrCat(FamilyName(family), " protocol ", other),
                         BuildPacket(Flow(family, other), {.payload = Bytes(40)})});
    }
  }
  return samples;
}

TEST_F(ParseKernelTest, ReadsWhatTproxyReads) {
  std::vector<Sample> hits, misses;
  for (Sample& s : Samples()) {
    Packet p;
    ParsePacket(s.bytes, static_cast<uint32_t>(s.bytes.size()), &p);
    (p.outcome == ParseOutcome::kOk ? hits : misses).push_back(std::move(s));
  }
  ASSERT_GT(hits.size(), 100u);
  ASSERT_GT(misses.size(), 100u);
  const int marked = Send(hits), marked_of_misses = Send(misses);
  if (marked == static_cast<int>(hits.size()) && marked_of_misses == 0) return;
  for (const Sample& s : hits) EXPECT_EQ(Send({s}), 1) << s.name << ": the kernel misses";
  for (const Sample& s : misses) EXPECT_EQ(Send({s}), 0) << s.name << ": the kernel hits";
  FAIL() << marked << " of " << hits.size() << " and " << marked_of_misses << " of 0";
}

}  // namespace
}  // namespace utproxy
