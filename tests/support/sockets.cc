// SPDX-License-Identifier: GPL-3.0-or-later
#include "support/sockets.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "support/netns.h"

namespace utproxy::testing {
namespace {

void CheckOk(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "test support: %s: %s\n", what, std::strerror(errno));
  std::abort();
}

void SetInt(int fd, int level, int name, int value) {
  CheckOk(::setsockopt(fd, level, name, &value, sizeof value) == 0, "setsockopt");
}

UniqueFd Open(int type, int family, const SocketOptions& options) {
  const bool v6 = family == AF_INET6;
  UniqueFd fd(::socket(family, type | SOCK_CLOEXEC, 0));
  CheckOk(fd.valid(), "socket");
  SetInt(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (options.reuseport) SetInt(fd.get(), SOL_SOCKET, SO_REUSEPORT, 1);
  if (v6) SetInt(fd.get(), SOL_IPV6, IPV6_V6ONLY, options.v6only ? 1 : 0);
  if (options.transparent) {
    SetInt(fd.get(), v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, 1);
  }
  return fd;
}

}  // namespace

SockAddr::SockAddr(const std::string& text) {
  const std::optional<Endpoint> endpoint = ParseEndpoint(text);
  CheckOk(endpoint.has_value(), text.c_str());
  if (endpoint->family == Family::kIpv4) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(endpoint->port);
    v4->sin_addr.s_addr = endpoint->address.Ipv4();
    size = sizeof *v4;
  } else {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(endpoint->port);
    std::memcpy(&v6->sin6_addr, endpoint->address.bytes().data(), 16);
    size = sizeof *v6;
  }
}

bool EnterFreshNetns() {
  static const bool entered = EnterNetns().empty();
  return entered;
}

UniqueFd Bind(int type, const char* endpoint, const SocketOptions& options) {
  const SockAddr address(endpoint);
  UniqueFd fd = Open(type, address.family(), options);
  CheckOk(::bind(fd.get(), address.get(), address.size) == 0, "bind");
  return fd;
}

UniqueFd Listen(const char* endpoint, const SocketOptions& options) {
  UniqueFd fd = Bind(SOCK_STREAM, endpoint, options);
  CheckOk(::listen(fd.get(), 128) == 0, "listen");
  return fd;
}

UniqueFd Connect(int type, const char* endpoint) {
  const SockAddr address(endpoint);
  UniqueFd fd = Open(type, address.family(), {});
  CheckOk(::connect(fd.get(), address.get(), address.size) == 0, "connect");
  return fd;
}

UniqueFd Accept(const UniqueFd& listener) {
  UniqueFd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  CheckOk(fd.valid(), "accept");
  return fd;
}

uint16_t LocalPort(const UniqueFd& fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  CheckOk(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0,
          "getsockname");
  // The port stands at the same place in both families' addresses.
  return ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

uint64_t CookieOf(const UniqueFd& fd) {
  uint64_t cookie = 0;
  socklen_t len = sizeof cookie;
  CheckOk(::getsockopt(fd.get(), SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0, "SO_COOKIE");
  return cookie;
}

}  // namespace utproxy::testing
