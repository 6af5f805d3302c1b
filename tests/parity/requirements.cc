// SPDX-License-Identifier: GPL-3.0-or-later
#include "requirements.h"

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "base/fd.h"
#include "netns.h"
#include "steer/steering.h"

namespace utproxy::parity {
namespace {

constexpr char kXtRules[] =
    "*mangle\n-A PREROUTING -m dscp --dscp 1 -p tcp -j TPROXY --on-port 1 --tproxy-mark "
    "1\nCOMMIT\n";
constexpr char kQueueRules[] = "*mangle\n-A PREROUTING -j NFQUEUE --queue-num 7\nCOMMIT\n";
constexpr char kNftRules[] = R"(
table inet probe {
  chain first {
    type filter hook prerouting priority -149;
    meta l4proto tcp tproxy ip to :1
    meta l4proto tcp tproxy ip6 to :1
    meta mark set socket mark log group 1 queue-threshold 1 snaplen 64
  }
}
)";

std::string TryTun() {
  const UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request{};
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  if (fd.valid() && ::ioctl(fd.get(), TUNSETIFF, &request) == 0) return "";
  return absl::StrCat("no tun device: ", std::strerror(errno));
}

std::string TryTools() {
  for (const char* tool : {"ip", "nft", "iptables-legacy-restore", "ip6tables-legacy-restore"}) {
    if (!TryShell(absl::StrCat("command -v ", tool))) return absl::StrCat("no ", tool);
  }
  return "";
}

std::string TryRules(bool with_daemon) {
  for (const char* tool : {"iptables-legacy-restore", "ip6tables-legacy-restore"}) {
    if (!TryShell(absl::StrCat("exec ", tool), kXtRules)) {
      return absl::StrCat(tool, ": TPROXY or dscp is refused");
    }
    if (with_daemon && !TryShell(absl::StrCat("exec ", tool), kQueueRules)) {
      return absl::StrCat(tool, ": NFQUEUE is refused");
    }
  }
  return TryShell("exec nft -f -", kNftRules) ? "" : "nft: tproxy, socket or log is refused";
}

std::string TrySteering() {
  const auto steering = Steering::Open({.max_flows = 16, .max_listeners = 16});
  return steering.ok() ? "" : absl::StrCat("no sk_lookup: ", steering.status().message());
}

std::string TryAll(bool with_daemon) {
  if (::unshare(CLONE_NEWNET) != 0) {
    return absl::StrCat("a network namespace needs root: ", std::strerror(errno));
  }
  std::string what = TryTun();
  if (what.empty()) what = TryTools();
  if (what.empty()) what = TryRules(with_daemon);
  return what.empty() ? TrySteering() : what;
}

}  // namespace

std::string WhatIsMissing(const Lab::Options& options) {
  std::string what;
  std::thread([&] { what = TryAll(!options.program.empty()); }).join();  // the namespace is its own
  return what;
}

}  // namespace utproxy::parity
