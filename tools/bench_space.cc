// SPDX-License-Identifier: GPL-3.0-or-later
#include "bench_space.h"

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string>

#include "base/status.h"

namespace utproxy::tools {
namespace {

constexpr char kRemedy[] = "Run it as root: it takes CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF";

absl::StatusOr<UniqueFd> EnterFresh() {
  if (::unshare(CLONE_NEWNET) != 0) {
    return WithRemedy(ErrnoStatus(errno, "make a network namespace"), kRemedy);
  }
  UniqueFd fd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "open /proc/thread-self/ns/net");
  return fd;
}

// The child's part of Shell: does not return. The script's own words go nowhere: they are not
// those that an error of this program is said in.
[[noreturn]] void ExecShell(const std::string& script, int space) {
  (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int null = ::open("/dev/null", O_RDWR);
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) (void)::dup2(null, fd);
  if (space >= 0 && ::setns(space, CLONE_NEWNET) != 0) ::_exit(126);
  ::execl("/bin/sh", "sh", "-ec", script.c_str(), nullptr);
  ::_exit(127);
}

// Runs a script, every line of which must succeed, in namespace `space`; in the calling thread's
// where that is -1.
absl::Status Shell(absl::string_view what, const std::string& script, int space = -1) {
  const pid_t child = ::fork();
  if (child < 0) return ErrnoStatus(errno, what);
  if (child == 0) ExecShell(script, space);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(what, ": a command of it failed"));
}

}  // namespace

absl::StatusOr<BenchSpace> BenchSpace::Enter() {
  ASSIGN_OR_RETURN(UniqueFd client, EnterFresh());
  ASSIGN_OR_RETURN(const UniqueFd router, EnterFresh());
  BenchSpace space(std::move(client));
  RETURN_IF_ERROR(space.Wire());
  return space;
}

// Both ends know each other's hardware address, so that no packet waits for an answer to ARP.
absl::Status BenchSpace::Wire() const {
  const std::string client = absl::StrCat("/proc/", ::getpid(), "/fd/", client_.get());
  const char* remedy = "It takes iproute2's `ip`, and a kernel with veth";
  absl::Status status =
      Shell("make the link of the benchmark's namespaces", absl::StrCat(R"(
    ip link set lo up
    ip link add lan0 address 02:00:00:00:00:01 type veth peer name lan0 address 02:00:00:00:00:02 netns )",
                                                                        client, R"(
    ip address add 10.77.1.1/24 dev lan0
    ip link set lan0 up
    ip neighbour replace 10.77.1.2 lladdr 02:00:00:00:00:02 dev lan0 nud permanent
    for d in all default lan0; do
      echo 0 > /proc/sys/net/ipv4/conf/$d/rp_filter
      echo 0 > /proc/sys/net/ipv4/conf/$d/src_valid_mark
    done
    ip rule add fwmark 1 lookup 101
    ip route add local default dev lo table 101)"));
  if (!status.ok()) return WithRemedy(status, remedy);
  status = Shell("make the benchmark's client",
                 absl::StrCat(R"(
    ip link set lo up
    ip address add )",
                              kBenchClient, R"(/24 dev lan0
    ip link set lan0 up
    ip neighbour replace 10.77.1.1 lladdr 02:00:00:00:00:01 dev lan0 nud permanent
    ip route add default via 10.77.1.1)"),
                 client_.get());
  return status.ok() ? status : WithRemedy(status, remedy);
}

absl::Status BenchSpace::EnterClient() const {
  if (::setns(client_.get(), CLONE_NEWNET) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "enter the benchmark's client");
}

absl::Status BenchSpace::AddKernelRule() const {
  const std::string nft = absl::StrCat(
      "table ip bench { chain pre { type filter hook prerouting priority mangle; iifname lan0 ",
      "meta l4proto tcp th dport ", kBenchPort, " tproxy to :", kBenchOnPort, " meta mark set ",
      kBenchMark, " accept; }; }");
  const std::string iptables = absl::StrCat(
      "iptables -t mangle -A PREROUTING -i lan0 -p tcp --dport ", kBenchPort,
      " -j TPROXY --on-port ", kBenchOnPort, " --tproxy-mark ", kBenchMark, "/", kBenchMark);
  return Shell("add the kernel's TPROXY rule",
               absl::StrCat("echo '", nft, "' | nft -f - || ", iptables));
}

absl::Status BenchSpace::RemoveKernelRule() const {
  return Shell("remove the kernel's TPROXY rule",
               "nft delete table ip bench || iptables -t mangle -F PREROUTING");
}

}  // namespace utproxy::tools
