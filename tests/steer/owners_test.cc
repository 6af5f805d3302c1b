// SPDX-License-Identifier: GPL-3.0-or-later
// Listeners that other processes and threads own.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <thread>

#include "kernel_fixture.h"

namespace utproxy {
namespace {

// What a child tells of the listener it has opened.
struct Owned {
  uint64_t cookie;
  uint32_t inode;
};

// A process that opens a listener, tells of it, and keeps it until it is told to end.
class Owner {
 public:
  // `become`: run in the child after it has opened `listener` and before it tells.
  explicit Owner(
      const std::string& at, const std::function<void()>& become = [] {}) {
    int to_parent[2], to_child[2];
    EXPECT_EQ(::pipe2(to_parent, O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(to_child, O_CLOEXEC), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(to_child[1]);
      const UniqueFd listener = Listen(SOCK_STREAM, at);
      const Owned owned{CookieOf(listener), InodeOf(listener)};
      become();
      (void)!::write(to_parent[1], &owned, sizeof owned);
      char end;
      (void)!::read(to_child[0], &end, 1);
      ::_exit(0);
    }
    ::close(to_parent[1]);
    ::close(to_child[0]);
    end_.reset(to_child[1]);
    EXPECT_EQ(::read(to_parent[0], &owned_, sizeof owned_), static_cast<ssize_t>(sizeof owned_));
    ::close(to_parent[0]);
  }
  ~Owner() { End(); }
  void End() {
    if (pid_ <= 0) return;
    end_.reset();
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  const Owned& owned() const { return owned_; }

 private:
  pid_t pid_ = 0;
  UniqueFd end_;  // its closing ends the child
  Owned owned_{};
};

class OwnersTest : public KernelTest {
 protected:
  Steering::Options options() const override { return {.find_in_kernel = false}; }
  // Steers a new client's flow to the listener, and connects.
  SteerResult SteerTo(const Owned& owned, int* error) {
    const UniqueFd client = Client(SOCK_STREAM, AF_INET);
    const SteerResult result = Steer(FlowTo(client, "127.0.0.1:5353"), owned.cookie, owned.inode);
    *error = Reach(client, "127.0.0.1:5353");
    return result;
  }
};

TEST_F(OwnersTest, AnotherProcess) {
  Owner owner("127.0.0.1:1090");
  int error = -1;
  EXPECT_EQ(SteerTo(owner.owned(), &error), SteerResult::kSteered) << steering_->listener_error();
  EXPECT_EQ(error, 0);
  EXPECT_EQ(steering_->stats().listeners.held, 1u);
  owner.End();
  EXPECT_EQ(steering_->stats().listeners.held, 0u) << "we kept its listener open";
  EXPECT_EQ(SteerTo(owner.owned(), &error), SteerResult::kListenerGone);
  EXPECT_EQ(error, ECONNREFUSED);

  const Owner again("127.0.0.1:1090");
  EXPECT_EQ(SteerTo(again.owned(), &error), SteerResult::kSteered);
  EXPECT_EQ(error, 0);
}

TEST_F(OwnersTest, AnotherUserInOtherNamespacesThatMayNotBeDumped) {
  const Owner owner("127.0.0.1:1090", [] {
    EXPECT_EQ(::unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS), 0);
    EXPECT_EQ(::setgid(65534), 0);
    EXPECT_EQ(::setuid(65534), 0);  // clears "dumpable"
  });
  int error = -1;
  EXPECT_EQ(SteerTo(owner.owned(), &error), SteerResult::kSteered) << steering_->listener_error();
  EXPECT_EQ(error, 0);
}

TEST_F(OwnersTest, AnotherUserWithoutThePrivilegeToReachIt) {
  const Owner owner("127.0.0.1:1090", [] { EXPECT_EQ(::setuid(65534), 0); });
  std::thread([&] {  // capabilities are a thread's own
    DropCapabilities({CAP_SYS_PTRACE});
    EXPECT_NE(Steer({.remote_port = 1}, owner.owned().cookie, owner.owned().inode),
              SteerResult::kSteered);
  })
      .join();
  const absl::Status error = steering_->listener_error();
  EXPECT_TRUE(absl::IsPermissionDenied(error) || absl::IsNotFound(error)) << error;
  EXPECT_NE(RemedyOf(error).find("CAP_SYS_PTRACE"), std::string::npos);
  EXPECT_FALSE(steering_->Contains({.remote_port = 1}, 0));
}

// A socket whose only descriptor is in a message that nobody has received yet.
TEST_F(OwnersTest, NobodyForTheMoment) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd sender(pair[0]), receiver(pair[1]);
  UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const Owned owned{CookieOf(listener), InodeOf(listener)};
  SendAway(std::move(listener), sender);

  int error = -1;
  EXPECT_EQ(SteerTo(owned, &error), SteerResult::kListenerGone);
  EXPECT_TRUE(absl::IsNotFound(steering_->listener_error())) << steering_->listener_error();
  const auto before = steering_->stats().listeners;
  EXPECT_EQ(before.scans, 1u);
  for (uint16_t i = 0; i < 50; ++i) {
    EXPECT_NE(Steer({.remote_port = i}, owned.cookie, owned.inode), SteerResult::kSteered);
  }
  const auto after = steering_->stats().listeners;
  EXPECT_EQ(after.cached + after.unreachable, before.cached + before.unreachable + 50);
  EXPECT_GT(after.cached, before.cached) << "a flood does not walk through /proc for each packet";

  listener = Take(receiver);
  SteerResult result = SteerResult::kListenerUnreachable;
  for (int i = 0; i < 200 && result != SteerResult::kSteered; ++i) {
    ::usleep(50'000);
    result = SteerTo(owned, &error);
  }
  EXPECT_EQ(result, SteerResult::kSteered) << steering_->listener_error();
  EXPECT_EQ(error, 0);
}

TEST_F(OwnersTest, ARightInodeWithAWrongCookieIsNotBelieved) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  EXPECT_EQ(Steer({.remote_port = 1}, CookieOf(listener) + 12345, InodeOf(listener)),
            SteerResult::kListenerGone);
  EXPECT_EQ(Steer({.remote_port = 1}, CookieOf(listener) + 12346, 0), SteerResult::kListenerGone);
  EXPECT_EQ(steering_->stats().listeners.held, 0u);
  EXPECT_EQ(steering_->stats().flows.entries, 0u);
}

TEST_F(OwnersTest, ASocketThatCannotBeSteeredTo) {
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));  // not listening
  EXPECT_EQ(Steer({.remote_port = 1}, socket), SteerResult::kListenerUnreachable);
  EXPECT_FALSE(steering_->listener_error().ok());
}

// Whether this kernel lets pidfd_open() name a thread that does not lead its process.
bool HasThreadPidfds() {
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, ::gettid(), O_EXCL)));
  return pidfd.valid();
}

// A thread with descriptors of its own holds the listener, its process's leader does not.
TEST_F(OwnersTest, AThreadWithItsOwnFiles) {
  if (!HasThreadPidfds()) GTEST_SKIP() << "needs PIDFD_THREAD, Linux 6.9";
  Owned owned{};
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd told(pipe_fds[0]), tell(pipe_fds[1]);
  int done_fds[2];
  ASSERT_EQ(::pipe2(done_fds, O_CLOEXEC), 0);
  UniqueFd wait(done_fds[0]), done(done_fds[1]);
  std::thread thread([&, wait_fd = wait.get(), done_fd = done.get(), tell_fd = tell.get()] {
    EXPECT_EQ(::unshare(CLONE_FILES), 0);
    ::close(done_fd);  // this thread's copy
    const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
    const Owned mine{CookieOf(listener), InodeOf(listener)};
    EXPECT_EQ(::write(tell_fd, &mine, sizeof mine), static_cast<ssize_t>(sizeof mine));
    char byte;
    EXPECT_EQ(::read(wait_fd, &byte, 1), 0);
  });
  ASSERT_EQ(::read(told.get(), &owned, sizeof owned), static_cast<ssize_t>(sizeof owned));
  int error = -1;
  EXPECT_EQ(SteerTo(owned, &error), SteerResult::kSteered) << steering_->listener_error();
  EXPECT_EQ(error, 0);
  done.reset();
  thread.join();
}

}  // namespace
}  // namespace utproxy
