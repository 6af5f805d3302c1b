// SPDX-License-Identifier: GPL-3.0-or-later
// Listeners that are found in the kernel, whoever holds them.
#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <thread>

#include "kernel_fixture.h"
#include "steer/listener_finder.h"
#include "steer/program.h"

namespace utproxy {
namespace {

class FinderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = EnterNetns(); !why.empty()) GTEST_SKIP() << why;
    auto program = SkLookupProgram::Load(1, 4);
    if (absl::IsUnimplemented(program.status())) GTEST_SKIP() << program.status();
    ASSERT_TRUE(program.ok()) << program.status();
    program_.emplace(*std::move(program));
    auto finder = ListenerFinder::Load(program_->listeners_fd());
    if (!finder.ok()) GTEST_SKIP() << finder.status();
    finder_.emplace(*std::move(finder));
  }
  absl::Status Enter(const UniqueFd& socket, Proto proto) {
    return finder_->Enter(CookieOf(socket), proto);
  }
  bool Held(const UniqueFd& socket) {
    const uint64_t cookie = CookieOf(socket);
    uint64_t held = 0;
    return bpf_map_lookup_elem(program_->listeners_fd(), &cookie, &held) == 0 && held == cookie;
  }

  std::optional<SkLookupProgram> program_;
  std::optional<ListenerFinder> finder_;
};

TEST_F(FinderTest, FindsTheOneAmongOthers) {
  for (const char* at : {"127.0.0.1:1090", "[::1]:1090", "[::]:1091"}) {
    const UniqueFd tcp = Listen(SOCK_STREAM, at), udp = Listen(SOCK_DGRAM, at);
    const UniqueFd other_tcp = Listen(SOCK_STREAM, "127.0.0.1:2000");
    const UniqueFd other_udp = Listen(SOCK_DGRAM, "127.0.0.1:2000");
    EXPECT_TRUE(Enter(tcp, Proto::kTcp).ok());
    EXPECT_TRUE(Enter(udp, Proto::kUdp).ok());
    EXPECT_TRUE(Held(tcp) && Held(udp));
    EXPECT_FALSE(Held(other_tcp) || Held(other_udp));
  }
}

TEST_F(FinderTest, FindsItBehindConnections) {
  const UniqueFd early = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const UniqueFd client = Client(SOCK_STREAM, AF_INET);
  const SockAddr to("127.0.0.1:1090");
  ASSERT_EQ(::connect(client.get(), to.get(), to.size), 0);
  const UniqueFd late = Listen(SOCK_STREAM, "127.0.0.1:1091");
  EXPECT_TRUE(Enter(late, Proto::kTcp).ok());
  EXPECT_TRUE(Enter(early, Proto::kTcp).ok());
  EXPECT_TRUE(absl::IsNotFound(Enter(client, Proto::kTcp))) << "a connection is no listener";
}

TEST_F(FinderTest, SaysThatItHasGone) {
  for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
    const Proto proto = type == SOCK_STREAM ? Proto::kTcp : Proto::kUdp;
    UniqueFd listener = Listen(type, "127.0.0.1:1090");
    const uint64_t cookie = CookieOf(listener);
    ASSERT_TRUE(finder_->Enter(cookie, proto).ok());
    listener.reset();
    EXPECT_TRUE(absl::IsNotFound(finder_->Enter(cookie, proto)));
  }
}

TEST_F(FinderTest, AListenerThatWasShutDownIsThereWhenItListensAgain) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  ASSERT_EQ(::shutdown(listener.get(), SHUT_RD), 0);
  EXPECT_TRUE(absl::IsNotFound(Enter(listener, Proto::kTcp)));
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  EXPECT_TRUE(Enter(listener, Proto::kTcp).ok());
}

// Its only descriptor is in a message that nobody has received yet.
TEST_F(FinderTest, NoProcessNeedsToHoldIt) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd sender(pair[0]), receiver(pair[1]);
  UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const uint64_t cookie = CookieOf(listener);
  SendAway(std::move(listener), sender);
  EXPECT_TRUE(finder_->Enter(cookie, Proto::kTcp).ok());
}

TEST_F(FinderTest, NoPrivilegeIsNeededOnceItIsLoaded) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  std::thread([&] {
    DropCapabilities({CAP_SYS_PTRACE});
    EXPECT_TRUE(Enter(listener, Proto::kTcp).ok());
  }).join();
}

TEST_F(FinderTest, SocketsOfOtherNamespacesAreNotFound) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  std::thread([&] {
    ASSERT_EQ(EnterNetns(), "");
    EXPECT_TRUE(absl::IsNotFound(Enter(listener, Proto::kTcp)));
  }).join();
}

TEST_F(FinderTest, AFullMapIsAnErrorOfItsOwn) {
  std::vector<UniqueFd> listeners;
  for (int i = 0; i < 5; ++i) {
    listeners.push_back(Listen(SOCK_STREAM, "127.0.0.1:" + std::to_string(2000 + i)));
    const absl::Status status = Enter(listeners.back(), Proto::kTcp);
    EXPECT_EQ(status.ok(), i < 4) << status;
    EXPECT_FALSE(absl::IsNotFound(status)) << status;
  }
}

}  // namespace
}  // namespace utproxy
