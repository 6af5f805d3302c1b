// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/privileges.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <thread>

namespace utproxy {
namespace {

constexpr int kNotGivenUp = 100;

// The wait status of a child that gives up its privileges and exits with what `act` returns.
int After(SeccompMode mode, const std::function<int()>& act) {
  const absl::StatusOr<Account> nobody = ParseAccount("nobody");
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit none{0, 0};  // what SIGSYS leaves is of no interest
    (void)::setrlimit(RLIMIT_CORE, &none);
    const Privileges privileges{.account = *nobody, .seccomp = mode, .takes_sockets = false};
    ::_exit(GiveUpPrivileges(privileges).ok() ? act() : kNotGivenUp);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

// errno, or 0.
int Errno(long result) { return result < 0 ? errno : 0; }

class PrivilegesTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "giving up privileges takes having them: run as root";
    if (!ParseAccount("nobody").ok()) GTEST_SKIP() << "there is no user nobody";
  }
  static void ExpectError(int error, const std::function<int()>& act) {
    const int status = After(SeccompMode::kKill, act);
    ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
    EXPECT_EQ(WEXITSTATUS(status), error);
  }
  static void ExpectKilled(const std::function<int()>& act) {
    const int status = After(SeccompMode::kKill, act);
    ASSERT_TRUE(WIFSIGNALED(status)) << "exit " << WEXITSTATUS(status);
    EXPECT_EQ(WTERMSIG(status), SIGSYS);
  }
};

TEST_F(PrivilegesTest, IsTheUserForGood) {
  ExpectError(0, [] {
    const uid_t nobody = ParseAccount("nobody")->uid;
    return ::getuid() == nobody && ::geteuid() == nobody ? 0 : 1;
  });
  ExpectKilled([] { return Errno(::setuid(0)); });
}

TEST_F(PrivilegesTest, HasNetAdminAndNoMore) {
  const int status = After(SeccompMode::kOff, [] {
    cap_t caps = cap_get_proc();
    for (cap_value_t each = 0; cap_get_bound(each) >= 0; ++each) {
      for (const cap_flag_t set : {CAP_PERMITTED, CAP_EFFECTIVE, CAP_INHERITABLE}) {
        cap_flag_value_t value = CAP_CLEAR;
        (void)cap_get_flag(caps, each, set, &value);
        const bool kept = each == CAP_NET_ADMIN && set != CAP_INHERITABLE;
        if ((value == CAP_SET) != kept) return 1;
      }
      if (cap_get_bound(each) != 0 || cap_get_ambient(each) != 0) return 2;
    }
    cap_free(caps);
    return ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 3;
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(PrivilegesTest, DumpsNoCore) {
  ExpectError(0, [] { return ::prctl(PR_GET_DUMPABLE); });
}

TEST_F(PrivilegesTest, ReadsNoSecretsAndWritesNoFiles) {
  if (::access("/etc/shadow", R_OK) != 0) GTEST_SKIP() << "there is no /etc/shadow";
  ExpectError(EACCES, [] { return Errno(::open("/etc/shadow", O_RDONLY | O_CLOEXEC)); });
  ExpectError(0, [] { return Errno(::open("/etc/passwd", O_RDONLY | O_CLOEXEC)); });
  ExpectKilled(
      [] { return Errno(::open("/tmp/utp-never", O_WRONLY | O_CREAT | O_CLOEXEC, 0600)); });
}

TEST_F(PrivilegesTest, StartsNoProgram) {
  ExpectKilled([] {
    char name[] = "/bin/true";
    char* const argv[] = {name, nullptr};
    return Errno(::execv(name, argv));
  });
  ExpectKilled([] { return Errno(::fork()); });
}

TEST_F(PrivilegesTest, LooksIntoNoProcess) {
  ExpectKilled([] { return Errno(::ptrace(PTRACE_ATTACH, ::getppid(), nullptr, nullptr)); });
  ExpectKilled([] { return Errno(::kill(::getpid() + 1, SIGTERM)); });
  ExpectKilled([] { return Errno(::syscall(SYS_pidfd_open, ::getpid(), 0)); });
}

TEST_F(PrivilegesTest, OpensNoSocketsOfTheNetwork) {
  ExpectKilled([] { return Errno(::socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)); });
  ExpectKilled([] { return Errno(::socket(AF_PACKET, SOCK_RAW, 0)); });
  ExpectKilled([] { return Errno(::socket(AF_INET, SOCK_STREAM, 0)); });
  ExpectError(0, [] { return Errno(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 4)); });
}

TEST_F(PrivilegesTest, EntersNoNamespaceAndLoadsNoProgram) {
  ExpectKilled([] { return Errno(::unshare(CLONE_NEWUSER)); });
  ExpectKilled([] { return Errno(::syscall(SYS_bpf, 5 /* BPF_PROG_LOAD */, nullptr, 0)); });
}

TEST_F(PrivilegesTest, RunsNoCodeThatItMakes) {
  ExpectKilled([] {
    void* const memory = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? errno : 0;
  });
  ExpectKilled([] {
    void* const memory =
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return Errno(::mprotect(memory, 4096, PROT_READ | PROT_EXEC));
  });
  ExpectKilled([] { return Errno(::syscall(SYS_memfd_create, "code", 0)); });
}

// Other ways to files, to processes' memory and to the kernel's.
TEST_F(PrivilegesTest, HasNoWayAround) {
  for (const long call :
       {SYS_io_uring_setup, SYS_setns, SYS_mount, SYS_chroot, SYS_open_by_handle_at, SYS_openat2,
        SYS_process_vm_readv, SYS_process_vm_writev, SYS_userfaultfd, SYS_perf_event_open,
        SYS_keyctl, SYS_init_module, SYS_kexec_load, SYS_reboot, SYS_settimeofday, SYS_fchmodat,
        SYS_renameat2, SYS_execveat}) {
    SCOPED_TRACE(call);
    ExpectKilled([call] { return Errno(::syscall(call, 0, 0, 0, 0, 0)); });
  }
}

TEST_F(PrivilegesTest, StillMakesThreads) {
  ExpectError(0, [] {
    int done = 1;
    std::thread([&done] { done = 0; }).join();
    return done;
  });
}

TEST_F(PrivilegesTest, LogModeLetsItPass) {
  const int status =
      After(SeccompMode::kLog, [] { return Errno(::socket(AF_INET, SOCK_STREAM, 0)); });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace utproxy
