// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/seccomp_filter.h"

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <initializer_list>
#include <memory>
#include <string>

#include "base/status.h"

namespace utproxy {
namespace {

struct ReleaseFilter {
  void operator()(void* filter) const { seccomp_release(filter); }
};

// By name: one that the installed libseccomp does not know (it is younger than it) can't be called
// by a C library of the same age either. glibc of Debian 12 and 13 and musl choose differently
// among calls that do the same, so all of a kind are here.
constexpr const char* kAllowed[] = {
    // Memory, but for mmap and mprotect.
    "brk", "munmap", "mremap", "madvise", "mincore", "membarrier",
    // Threads and waiting.
    "set_robust_list", "rseq", "exit", "exit_group", "futex", "futex_waitv", "futex_wait",
    "futex_wake", "gettid", "getpid", "sched_yield", "sched_getaffinity", "sched_setaffinity",
    "getpriority", "setpriority", "restart_syscall", "getrandom", "getcpu",
    // Time.
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time",
    // Signals, for itself only.
    "rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "sigaltstack", "signalfd4",
    // Descriptors.
    "read", "readv", "pread64", "write", "writev", "pwrite64", "close", "close_range", "lseek",
    "fcntl", "dup", "poll", "ppoll", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait",
    "eventfd2", "pipe2", "fstat", "newfstatat", "statx", "readlink", "readlinkat", "getdents64",
    "access", "faccessat", "faccessat2", "unlink", "unlinkat", "getcwd", "fadvise64",
    "inotify_init1", "inotify_add_watch",
    // Sockets, but for making them.
    "bind", "connect", "listen", "accept4", "accept", "shutdown", "sendto", "sendmsg", "sendmmsg",
    "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64", "getsockname", "getpeername",
    "getsockopt", "setsockopt",
    // Who and where.
    "uname", "getuid", "geteuid", "getgid", "getegid", "sysinfo", "getrlimit", "prlimit64",
    "capget"};

// To take a socket from its owner.
constexpr const char* kTaking[] = {"pidfd_open", "pidfd_getfd", "kcmp"};

class Filter {
 public:
  explicit Filter(uint32_t refusal) : filter_(seccomp_init(refusal)) {
    if (filter_ == nullptr) error_ = ENOMEM;
  }

  void Allow(const char* name, std::initializer_list<scmp_arg_cmp> conditions = {}) {
    const int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR || error_ != 0) return;
    Add(SCMP_ACT_ALLOW, number, conditions);
  }
  // Answers with an error that the caller knows what to do with.
  void Refuse(const char* name, int error, std::initializer_list<scmp_arg_cmp> conditions = {}) {
    const int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR || error_ != 0) return;
    Add(SCMP_ACT_ERRNO(static_cast<uint32_t>(error)), number, conditions);
  }
  absl::Status Load() {
    if (error_ == 0) error_ = -seccomp_load(filter_.get());
    if (error_ == 0) return absl::OkStatus();
    return WithRemedy(ErrnoStatus(error_, "filter system calls"),
                      "A kernel with CONFIG_SECCOMP_FILTER, or --seccomp off");
  }

 private:
  // A call that this architecture has not: EDOM, and nothing to allow.
  void Add(uint32_t action, int number, std::initializer_list<scmp_arg_cmp> conditions) {
    const int error =
        -seccomp_rule_add_array(filter_.get(), action, number,
                                static_cast<unsigned>(conditions.size()), conditions.begin());
    if (error != 0 && error != EDOM) error_ = error;
  }

  std::unique_ptr<void, ReleaseFilter> filter_;
  int error_ = 0;
};

scmp_arg_cmp Equal(unsigned argument, uint64_t value) {
  return {.arg = argument, .op = SCMP_CMP_EQ, .datum_a = value, .datum_b = 0};
}
// None of the bits.
scmp_arg_cmp Without(unsigned argument, uint64_t bits) {
  return {.arg = argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = bits, .datum_b = 0};
}

void AllowMemory(Filter* filter) {
  // No memory that holds code.
  filter->Allow("mmap", {Without(2, PROT_EXEC)});
  filter->Allow("mprotect", {Without(2, PROT_EXEC)});
}

// Threads yes, processes no. What clone3 is asked for stands in memory, which no filter sees: its
// caller falls back to clone.
void AllowThreads(Filter* filter) {
  filter->Refuse("clone3", ENOSYS);
  constexpr uint64_t kThread = 0x00010000;  // CLONE_THREAD
  filter->Allow("clone",
                {{.arg = 0, .op = SCMP_CMP_MASKED_EQ, .datum_a = kThread, .datum_b = kThread}});
  filter->Allow("tgkill", {Equal(0, static_cast<uint64_t>(::getpid()))});  // abort()
  for (const int option :
       {PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, PR_GET_DUMPABLE, PR_CAPBSET_READ}) {
    filter->Allow("prctl", {Equal(0, static_cast<uint64_t>(option))});
  }
}

void AllowFiles(Filter* filter) {
  constexpr uint64_t kWriting = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND;
  filter->Allow("open", {Without(1, kWriting)});
  filter->Allow("openat", {Without(2, kWriting)});
  // Buffered output asks whether it writes to a terminal, with TCGETS.
  filter->Refuse("ioctl", ENOTTY,
                 {{.arg = 1, .op = SCMP_CMP_LT, .datum_a = SIOCGIFNAME, .datum_b = 0}});
  filter->Refuse("ioctl", ENOTTY,
                 {{.arg = 1, .op = SCMP_CMP_GT, .datum_a = SIOCGIFFLAGS, .datum_b = 0}});
  // Whether an interface is up. What stands between the two reads as well, or does nothing.
  filter->Allow("ioctl", {{.arg = 1,
                           .op = SCMP_CMP_MASKED_EQ,
                           .datum_a = ~uint64_t{SIOCGIFNAME ^ SIOCGIFFLAGS},
                           .datum_b = SIOCGIFNAME}});
}

void AllowSockets(Filter* filter) {
  for (const int family : {AF_NETLINK, AF_UNIX}) {
    filter->Allow("socket", {Equal(0, static_cast<uint64_t>(family))});
  }
}

// What goes by descriptors that it has; no program or map is made.
void AllowBpf(Filter* filter) {
  for (const int command :
       {BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM, BPF_MAP_GET_NEXT_KEY,
        BPF_MAP_LOOKUP_BATCH, BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH, BPF_ITER_CREATE,
        BPF_PROG_QUERY, BPF_PROG_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD, BPF_LINK_DETACH,
        BPF_LINK_UPDATE}) {
    filter->Allow("bpf", {Equal(0, static_cast<uint64_t>(command))});
  }
}

}  // namespace

absl::Status LoadSeccompFilter(SeccompMode mode, bool takes_sockets) {
  if (mode == SeccompMode::kOff) return absl::OkStatus();
  Filter filter(mode == SeccompMode::kKill ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_LOG);
  for (const char* name : kAllowed) filter.Allow(name);
  AllowMemory(&filter);
  AllowThreads(&filter);
  AllowFiles(&filter);
  AllowSockets(&filter);
  AllowBpf(&filter);
  if (takes_sockets) {
    for (const char* name : kTaking) filter.Allow(name);
  }
  return filter.Load();
}

}  // namespace utproxy
