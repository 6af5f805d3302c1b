// SPDX-License-Identifier: GPL-3.0-or-later
#include "netns.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

namespace utproxy::parity {
namespace {

constexpr char kTapMac[] = "02:00:00:00:00:02";
constexpr char kPeerMac[] = "02:00:00:00:00:99";
constexpr std::array<uint8_t, 12> kEthernetAddresses = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0x99};

// 255 probes, one a second, are the longest duplicate detection there is: so long an address stays
// tentative, longer than a world lasts.
constexpr char kSettings[] = R"(
for f in all default p0 p1 p2; do
  echo 0 >/proc/sys/net/ipv4/conf/$f/rp_filter
  echo 0 >/proc/sys/net/ipv4/conf/$f/src_valid_mark
  echo 0 >/proc/sys/net/ipv6/conf/$f/accept_ra
done
echo 255 >/proc/sys/net/ipv6/conf/p2/dad_transmits
echo 1 >/proc/sys/net/ipv6/conf/p2/accept_dad
# Parts that wait for others must not meet those of a later packet with the same identification.
echo 3 >/proc/sys/net/ipv4/ipfrag_time
test ! -e /proc/sys/net/netfilter/nf_conntrack_frag6_timeout ||
  echo 3 >/proc/sys/net/netfilter/nf_conntrack_frag6_timeout
)";

// Packets with DSCP 0 reach sockets by this mark and route; before any rule under test.
constexpr char kOwnPackets[] = R"(
table inet own {
  chain first {
    type filter hook prerouting priority -310;
    iifname "p*" ip dscp 0 meta mark set 0x7e57
    iifname "p*" ip6 dscp 0 meta mark set 0x7e57
  }
}
)";

UniqueFd OpenTun(int device) {
  UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  ifreq request{};
  std::strcpy(request.ifr_name, DeviceName(device).c_str());
  request.ifr_flags = static_cast<short>((device == kTapDevice ? IFF_TAP : IFF_TUN) | IFF_NO_PI);
  if (!fd.valid() || ::ioctl(fd.get(), TUNSETIFF, &request) != 0) {
    Fatal(absl::StrCat("no tun device: ", std::strerror(errno)));
  }
  return fd;
}

std::string AddressCommand(int device, const AddressSpec& spec) {
  const std::string text = absl::StrCat(spec.address.ToString(spec.family), "/", spec.prefix_len,
                                        " dev ", DeviceName(device));
  if (spec.family == Family::kIpv4) return absl::StrCat("address add ", text, "\n");
  return absl::StrCat("address add ", text, spec.deprecated ? " preferred_lft 0" : "",
                      spec.tentative ? "" : " nodad", "\n");
}

// An address is tentative for a moment even without duplicate detection (addrconf_dad_begin runs
// from a work queue): waits until only those are that are to stay so.
void AwaitAddresses(const DeviceAddresses& addresses) {
  constexpr unsigned kTentative = 0x40;
  long wanted = 0;
  for (const std::vector<AddressSpec>& device : addresses) {
    wanted += std::count_if(device.begin(), device.end(),
                            [](const AddressSpec& spec) { return spec.tentative; });
  }
  for (int ms = 0; ms < 5000; ++ms) {
    std::ifstream file("/proc/thread-self/net/if_inet6");
    std::string line;
    long tentative = 0;
    while (std::getline(file, line)) {
      const std::vector<std::string> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
      tentative += fields.size() > 4 && (std::stoul(fields[4], nullptr, 16) & kTentative) != 0;
    }
    if (tentative == wanted) return;
    ::usleep(1000);
  }
  Fatal("IPv6 addresses stay tentative");
}

}  // namespace

void Fatal(const std::string& why) {
  std::fprintf(stderr, "parity: %s\n", why.c_str());
  std::exit(1);
}

bool TryShell(const std::string& command, const std::string& input) {
  FILE* pipe = ::popen(absl::StrCat("exec >/dev/null 2>&1; ", command).c_str(), "we");
  if (pipe == nullptr) return false;
  std::fwrite(input.data(), 1, input.size(), pipe);
  return ::pclose(pipe) == 0;
}

void Shell(const std::string& command, const std::string& input) {
  FILE* pipe = ::popen(command.c_str(), "we");
  if (pipe == nullptr) Fatal("no shell");
  std::fwrite(input.data(), 1, input.size(), pipe);
  if (::pclose(pipe) != 0) Fatal(absl::StrCat("failed: ", command, "\n", input));
}

Netns::Netns(const DeviceAddresses& addresses) {
  outside_.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (::unshare(CLONE_NEWNET) != 0) Fatal("a network namespace needs root");
  ns_.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  for (int i = 0; i < kDevices; ++i) {
    tun_[static_cast<size_t>(i)] = OpenTun(i);
    ifindex_[static_cast<size_t>(i)] = ::if_nametoindex(DeviceName(i).c_str());
  }
  Configure(addresses);
  if (::setns(outside_.get(), CLONE_NEWNET) != 0)
    Fatal(absl::StrCat("cannot leave a network namespace: ", std::strerror(errno)));
}

void Netns::Configure(const DeviceAddresses& addresses) {
  std::string batch = absl::StrCat("link set p2 address ", kTapMac, "\nlink set lo up\n");
  for (int i = 0; i < kDevices; ++i) {
    absl::StrAppend(&batch, "link set ", DeviceName(i), " addrgenmode none\n");
    absl::StrAppend(&batch, "link set ", DeviceName(i), " up\n");
    for (const AddressSpec& spec : addresses[static_cast<size_t>(i)]) {
      absl::StrAppend(&batch, AddressCommand(i, spec));
    }
  }
  // Lest the kernel give up connections, and request sockets with them, whose peers do not answer.
  for (const char* peer : {"10.9.0.2", "10.9.0.3", "fd09::2", "fd09::3"}) {
    absl::StrAppend(&batch, "neigh add ", peer, " lladdr ", kPeerMac, " dev p2\n");
  }
  for (const char* family : {"-4", "-6"}) {
    std::string routes =
        "rule add fwmark 0x7e57 lookup 77\nroute add local default dev lo table 77\n";
    for (int i = 0; i < kDevices; ++i) {
      absl::StrAppend(&routes, "route add default dev ", DeviceName(i), " metric ", 10 + i, "\n");
    }
    if (family[1] == '4') {
      Shell(absl::StrCat("set -e\n", kSettings, "\nexec ip -batch -"), batch + routes);
    } else {
      Shell("exec ip -6 -batch -", routes);
    }
  }
  Shell("exec nft -f -", kOwnPackets);
  AwaitAddresses(addresses);
}

void Netns::Receive(int device, const std::vector<uint8_t>& packet) const {
  const int fd = tun_[static_cast<size_t>(device)].get();
  ssize_t written = 0;
  if (device == kTapDevice) {
    std::vector<uint8_t> frame(kEthernetAddresses.begin(), kEthernetAddresses.end());
    const bool v4 = packet[0] >> 4 == 4;
    frame.push_back(v4 ? 0x08 : 0x86);
    frame.push_back(v4 ? 0x00 : 0xdd);
    frame.insert(frame.end(), packet.begin(), packet.end());
    written = ::write(fd, frame.data(), frame.size());
  } else {
    written = ::write(fd, packet.data(), packet.size());
  }
  if (written < 0) Fatal(absl::StrCat("write to ", DeviceName(device), ": ", std::strerror(errno)));
}

Netns::Inside::Inside(const Netns& netns) : netns_(netns) {
  if (::setns(netns.ns_.get(), CLONE_NEWNET) != 0) Fatal("cannot enter a network namespace");
}

Netns::Inside::~Inside() {
  if (::setns(netns_.outside_.get(), CLONE_NEWNET) != 0)
    Fatal(absl::StrCat("cannot leave a network namespace: ", std::strerror(errno)));
}

}  // namespace utproxy::parity
