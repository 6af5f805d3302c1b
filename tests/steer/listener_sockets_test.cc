// SPDX-License-Identifier: GPL-3.0-or-later
// What ListenerSockets does where the map has lost a socket behind its back.
#include "steer/listener_sockets.h"

#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <optional>

#include "base/clock.h"
#include "kernel_fixture.h"
#include "steer/program.h"

namespace utproxy {
namespace {

class ListenerSocketsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = EnterNetns(); !why.empty()) GTEST_SKIP() << why;
    auto program = SkLookupProgram::Load(1, 2);
    if (absl::IsUnimplemented(program.status())) GTEST_SKIP() << program.status();
    ASSERT_TRUE(program.ok()) << program.status();
    program_.emplace(*std::move(program));
    sockets_.emplace(program_->listeners_fd(), std::nullopt);
  }
  bool Ensure(const UniqueFd& socket, bool recheck, int64_t now_ns) {
    return sockets_->Ensure(CookieOf(socket), InodeOf(socket), Proto::kTcp, recheck, now_ns) ==
           ListenerSockets::Held::kHeld;
  }

  std::optional<SkLookupProgram> program_;
  std::optional<ListenerSockets> sockets_;
};

TEST_F(ListenerSocketsTest, ALostSocketIsEnteredAgain) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const uint64_t cookie = CookieOf(listener);
  ASSERT_TRUE(Ensure(listener, true, MonotonicNs())) << sockets_->last_error();
  EXPECT_EQ(sockets_->stats().held, 1u);

  ASSERT_EQ(bpf_map_delete_elem(program_->listeners_fd(), &cookie), 0);
  EXPECT_TRUE(Ensure(listener, true, MonotonicNs()));
  EXPECT_EQ(sockets_->stats().held, 1u);
  EXPECT_EQ(sockets_->stats().inserted, 2u);

  ASSERT_EQ(bpf_map_delete_elem(program_->listeners_fd(), &cookie), 0);
  EXPECT_TRUE(Ensure(listener, false, MonotonicNs() + ListenerSockets::kRecheckNs));
  EXPECT_EQ(sockets_->stats().inserted, 3u) << "found without being told to look";
  EXPECT_LE(sockets_->stats().scans, 1u) << "the owner was remembered";
}

TEST_F(ListenerSocketsTest, WhatWasSeenAMomentAgoIsNotLookedAt) {
  const UniqueFd listener = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const uint64_t cookie = CookieOf(listener);
  const int64_t before = MonotonicNs();
  ASSERT_TRUE(Ensure(listener, true, before));
  ASSERT_EQ(bpf_map_delete_elem(program_->listeners_fd(), &cookie), 0);
  EXPECT_TRUE(Ensure(listener, false, before));
  EXPECT_EQ(sockets_->stats().inserted, 1u);
  EXPECT_EQ(sockets_->stats().held, 0u);
  sockets_->Expire(MonotonicNs() + 3600 * kNsPerSec);  // forgotten: looked at
  EXPECT_TRUE(Ensure(listener, false, before));
  EXPECT_EQ(sockets_->stats().inserted, 2u);
}

TEST_F(ListenerSocketsTest, MoreListenersThanThereIsRoomFor) {
  const UniqueFd a = Listen(SOCK_STREAM, "127.0.0.1:1090");
  const UniqueFd b = Listen(SOCK_STREAM, "127.0.0.1:1091");
  UniqueFd c = Listen(SOCK_STREAM, "127.0.0.1:1092");
  EXPECT_TRUE(Ensure(a, true, MonotonicNs()));
  EXPECT_TRUE(Ensure(b, true, MonotonicNs()));
  EXPECT_FALSE(Ensure(c, true, MonotonicNs()));
  EXPECT_FALSE(sockets_->last_error().ok());
  EXPECT_EQ(sockets_->stats().unreachable, 1u);
  EXPECT_EQ(sockets_->stats().held, 2u);
}

}  // namespace
}  // namespace utproxy
