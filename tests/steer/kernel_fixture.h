// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_STEER_KERNEL_FIXTURE_H_
#define UTPROXY_TESTS_STEER_KERNEL_FIXTURE_H_

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <initializer_list>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/status.h"
#include "steer/steering.h"
#include "support/netns.h"
#include "support/sockets.h"

namespace utproxy {

using testing::CookieOf;
using testing::EnterNetns;
using testing::SockAddr;

// Takes capabilities, by their numbers, from the calling thread for good. Other threads keep
// theirs.
void DropCapabilities(std::initializer_list<int> capabilities);

// The sockets of the tests. Listeners do not block; IPv6 ones are dual-stack.
UniqueFd Listen(int type, const std::string& at, bool reuseport = false);
// A client bound to a port of its own, not connected yet. 127.0.0.1 or ::1.
UniqueFd Client(int type, int family);
uint32_t InodeOf(const UniqueFd& socket);
// Whether the listener has something to accept or to read; waits for it up to `timeout_ms`.
bool Readable(const UniqueFd& socket, int timeout_ms = 2000);
// The flow of a packet that `client` sends to `to`, as the receiving host sees it.
FlowKey FlowTo(const UniqueFd& client, const std::string& to);

// Sends the descriptor in a message (SCM_RIGHTS) by a Unix socket, and closes it.
void SendAway(UniqueFd descriptor, const UniqueFd& to);
// Takes the descriptor out of the message at the other end.
UniqueFd Take(const UniqueFd& from);

// Each test has a network namespace of its own, with nothing but lo, and steering in it.
inline constexpr uint32_t kLoopback = 1;  // the index of lo in every namespace

class KernelTest : public ::testing::Test {
 protected:
  void SetUp() override;
  virtual Steering::Options options() const { return {}; }

  SteerResult Steer(const FlowKey& flow, const UniqueFd& listener) {
    return Steer(flow, CookieOf(listener), InodeOf(listener));
  }
  SteerResult Steer(const FlowKey& flow, uint64_t cookie, uint32_t inode) {
    return Steer(SteerRequest{flow, cookie, inode, kLoopback});
  }
  SteerResult SteerDestination(const FlowKey& flow, const UniqueFd& listener) {
    return Steer({flow, CookieOf(listener), InodeOf(listener), kLoopback, true});
  }
  SteerResult Steer(const SteerRequest& request) {
    SteerResult result;
    steering_->Steer({&request, 1}, {&result, 1});
    return result;
  }
  // Connects (TCP) or sends a byte (UDP). 0, or the errno of the failure.
  int Reach(const UniqueFd& client, const std::string& to);
  SkLookupProgram::Counters counters() const { return steering_->stats().program; }

  std::unique_ptr<Steering> steering_;
};

}  // namespace utproxy

#endif  // UTPROXY_TESTS_STEER_KERNEL_FIXTURE_H_
