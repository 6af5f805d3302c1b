// SPDX-License-Identifier: GPL-3.0-or-later
#include "kernel_fixture.h"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace utproxy {
namespace {

// A byte with room for one descriptor (SCM_RIGHTS, unix(7)).
struct DescriptorMessage {
  DescriptorMessage() {
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    descriptor()->cmsg_level = SOL_SOCKET;
    descriptor()->cmsg_type = SCM_RIGHTS;
    descriptor()->cmsg_len = CMSG_LEN(sizeof(int));
  }
  cmsghdr* descriptor() { return CMSG_FIRSTHDR(&header); }

  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr header{};
};

}  // namespace
void DropCapabilities(std::initializer_list<int> capabilities) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[2]{};
  ASSERT_EQ(::syscall(SYS_capget, &header, data), 0);
  for (const int capability : capabilities) {
    __user_cap_data_struct& word = data[CAP_TO_INDEX(capability)];
    word.effective &= ~CAP_TO_MASK(capability);
    word.permitted &= ~CAP_TO_MASK(capability);
    word.inheritable &= ~CAP_TO_MASK(capability);
  }
  ASSERT_EQ(::syscall(SYS_capset, &header, data), 0);
}

UniqueFd Listen(int type, const std::string& at, bool reuseport) {
  const SockAddr address(at);
  UniqueFd fd(::socket(address.family(), type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1, off = 0;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (reuseport) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  if (address.family() == AF_INET6) {
    ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  }
  EXPECT_EQ(::bind(fd.get(), address.get(), address.size), 0) << at << std::strerror(errno);
  if (type == SOCK_STREAM) {
    EXPECT_EQ(::listen(fd.get(), 128), 0) << std::strerror(errno);
  }
  return fd;
}

UniqueFd Client(int type, int family) {
  UniqueFd fd(::socket(family, type | SOCK_CLOEXEC, 0));
  const SockAddr any(family == AF_INET ? "127.0.0.1:0" : "[::1]:0");
  EXPECT_EQ(::bind(fd.get(), any.get(), any.size), 0) << std::strerror(errno);
  return fd;
}

uint32_t InodeOf(const UniqueFd& socket) {
  struct stat status {};
  EXPECT_EQ(::fstat(socket.get(), &status), 0);
  return static_cast<uint32_t>(status.st_ino);
}

bool Readable(const UniqueFd& socket, int timeout_ms) {
  pollfd poll{.fd = socket.get(), .events = POLLIN, .revents = 0};
  return ::poll(&poll, 1, timeout_ms) == 1;
}

FlowKey FlowTo(const UniqueFd& client, const std::string& to) {
  sockaddr_storage storage{};
  socklen_t len = sizeof storage;
  ::getsockname(client.get(), reinterpret_cast<sockaddr*>(&storage), &len);
  int type = 0;
  socklen_t type_len = sizeof type;
  ::getsockopt(client.get(), SOL_SOCKET, SO_TYPE, &type, &type_len);
  const Endpoint local = ParseEndpoint(to).value();
  FlowKey flow{.local = local.address,
               .local_port = local.port,
               .proto = type == SOCK_STREAM ? Proto::kTcp : Proto::kUdp};
  if (storage.ss_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&storage);
    flow.remote = Address::FromIpv4(in->sin_addr.s_addr);
    flow.remote_port = ntohs(in->sin_port);
  } else {
    const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&storage);
    flow.remote = Address::FromIpv6(&in6->sin6_addr);
    flow.remote_port = ntohs(in6->sin6_port);
  }
  return flow;
}

void SendAway(UniqueFd descriptor, const UniqueFd& to) {
  DescriptorMessage message;
  const int fd = descriptor.get();
  std::memcpy(CMSG_DATA(message.descriptor()), &fd, sizeof fd);
  ASSERT_EQ(::sendmsg(to.get(), &message.header, 0), 1);
}

UniqueFd Take(const UniqueFd& from) {
  DescriptorMessage message;
  int fd = -1;
  EXPECT_EQ(::recvmsg(from.get(), &message.header, MSG_CMSG_CLOEXEC), 1);
  std::memcpy(&fd, CMSG_DATA(message.descriptor()), sizeof fd);
  return UniqueFd(fd);
}

void KernelTest::SetUp() {
  if (const std::string why = EnterNetns(); !why.empty()) GTEST_SKIP() << why;
  auto steering = Steering::Open(options());
  if (absl::IsUnimplemented(steering.status())) GTEST_SKIP() << steering.status();
  ASSERT_TRUE(steering.ok()) << steering.status() << RemedyOf(steering.status());
  steering_ = *std::move(steering);
}

int KernelTest::Reach(const UniqueFd& client, const std::string& to) {
  const SockAddr address(to);
  int type = 0;
  socklen_t len = sizeof type;
  ::getsockopt(client.get(), SOL_SOCKET, SO_TYPE, &type, &len);
  const auto done = type == SOCK_STREAM
                        ? ::connect(client.get(), address.get(), address.size)
                        : ::sendto(client.get(), "x", 1, 0, address.get(), address.size);
  return done < 0 ? errno : 0;
}

}  // namespace utproxy
