// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/proc_reader.h"

#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "base/fd.h"
#include "diagnose/socket_owner.h"

namespace utproxy {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

uint64_t ReadNumber(const std::string& path) {
  uint64_t number = 0;
  return absl::SimpleAtoi(ReadFile(path), &number) ? number : 0;
}

int ReadSysctl(const std::string& path) {
  return static_cast<int>(std::min<uint64_t>(ReadNumber("/proc/sys/net/" + path), 255));
}

// A field of /proc/PID/status, up to the first blank of its value.
std::string StatusField(absl::string_view status, absl::string_view name) {
  for (const absl::string_view line : absl::StrSplit(status, '\n')) {
    if (!absl::StartsWith(line, name)) continue;
    const std::vector<std::string> words =
        absl::StrSplit(line.substr(name.size()), absl::ByAnyChar(": \t"), absl::SkipEmpty());
    return words.empty() ? "" : words[0];
  }
  return "";
}

std::optional<bool> ReuseAddress(int pid, int fd) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process.valid()) return std::nullopt;
  const UniqueFd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
  int on = 0;
  socklen_t len = sizeof on;
  if (!copy.valid() || ::getsockopt(copy.get(), SOL_SOCKET, SO_REUSEADDR, &on, &len) != 0) {
    return std::nullopt;
  }
  return on != 0;
}

}  // namespace

uint64_t CounterOf(absl::string_view text, absl::string_view group, absl::string_view name) {
  std::vector<absl::string_view> names;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    if (words[0] != group) continue;
    if (names.empty()) {
      names = words;
      continue;
    }
    for (size_t i = 1; i < names.size() && i < words.size(); ++i) {
      uint64_t value = 0;
      if (names[i] == name && absl::SimpleAtoi(words[i], &value)) return value;
    }
    return 0;
  }
  return 0;
}

uint64_t OpenFilesLimit(absl::string_view limits, bool hard) {
  for (absl::string_view line : absl::StrSplit(limits, '\n')) {
    if (!absl::ConsumePrefix(&line, "Max open files")) continue;
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    uint64_t value = 0;
    const size_t column = hard ? 1 : 0;
    if (words.size() <= column) return 0;
    if (words[column] == "unlimited") return std::numeric_limits<uint64_t>::max();
    return absl::SimpleAtoi(words[column], &value) ? value : 0;
  }
  return 0;
}

void ReadSysctls(SystemView* view) {
  view->rp_filter_all = ReadSysctl("ipv4/conf/all/rp_filter");
  view->src_valid_mark_all = ReadSysctl("ipv4/conf/all/src_valid_mark");
  view->ipv6_disabled_all = !std::filesystem::exists("/proc/sys/net/ipv6") ||
                            ReadSysctl("ipv6/conf/all/disable_ipv6") != 0;
  view->bridge_calls_iptables = ReadSysctl("bridge/bridge-nf-call-iptables") != 0;
  view->bridge_calls_ip6tables = ReadSysctl("bridge/bridge-nf-call-ip6tables") != 0;
  for (InterfaceFacts& interface : view->interfaces) {
    if (absl::StrContains(interface.name, "/")) continue;
    const std::string conf = absl::StrCat("conf/", interface.name, "/");
    interface.rp_filter = ReadSysctl("ipv4/" + conf + "rp_filter");
    interface.src_valid_mark = ReadSysctl("ipv4/" + conf + "src_valid_mark");
    interface.ipv6_disabled = ReadSysctl("ipv6/" + conf + "disable_ipv6") != 0;
  }
  view->martians = CounterOf(ReadFile("/proc/net/netstat"), "TcpExt:", "IPReversePathFilter");
  view->conntrack_max = ReadNumber("/proc/sys/net/netfilter/nf_conntrack_max");
  view->conntrack_count = ReadNumber("/proc/sys/net/netfilter/nf_conntrack_count");
}

std::optional<ProcessFacts> ReadProcess(int pid) {
  const std::string root = absl::StrCat("/proc/", pid);
  const std::string status = ReadFile(root + "/status");
  if (status.empty()) return std::nullopt;
  ProcessFacts facts;
  facts.pid = pid;
  facts.comm = StatusField(status, "Name");
  const std::string state = StatusField(status, "State");
  facts.stopped = state == "T" || state == "t";
  (void)absl::SimpleAtoi(StatusField(status, "Uid"), &facts.uid);
  (void)absl::SimpleHexAtoi(StatusField(status, "CapEff"), &facts.capabilities);
  const std::string limits = ReadFile(root + "/limits");
  facts.max_fds = OpenFilesLimit(limits);
  facts.max_fds_hard = OpenFilesLimit(limits, true);
  std::error_code error;
  for (std::filesystem::directory_iterator it(root + "/fd", error), end; !error && it != end;
       it.increment(error)) {
    ++facts.fds;
  }
  const std::string words = ReadFile(root + "/cmdline");
  for (const absl::string_view word : absl::StrSplit(words, '\0', absl::SkipEmpty())) {
    facts.command_line.emplace_back(word);
  }
  return facts;
}

void ReadOwners(SystemView* view) {
  const OwnersByInode owners = ReadSocketOwners();
  for (SocketFacts& each : view->sockets) {
    const auto it = owners.find(each.socket.inode);
    if (each.socket.inode == 0 || it == owners.end()) continue;
    each.pid = it->second.pid;
    each.fd = it->second.fd;
    each.comm = it->second.comm;
    if (each.socket.proto == Proto::kUdp && each.socket.local.IsUnspecified()) {
      each.reuse_address = ReuseAddress(each.pid, each.fd);
    }
    if (!view->processes.contains(each.pid)) {
      if (auto process = ReadProcess(each.pid)) view->processes[each.pid] = std::move(*process);
    }
  }
}

}  // namespace utproxy
