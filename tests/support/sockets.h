// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_SUPPORT_SOCKETS_H_
#define UTPROXY_TESTS_SUPPORT_SOCKETS_H_

#include <sys/socket.h>

#include <string>

#include "base/fd.h"
#include "utproxy/address.h"

namespace utproxy::testing {

// An address and a port as the socket calls take them; `text` as in ParseEndpoint.
struct SockAddr {
  explicit SockAddr(const std::string& text);
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }

  sockaddr_storage storage{};
  socklen_t size = 0;
};

struct SocketOptions {
  bool transparent = false;
  bool reuseport = false;
  bool v6only = false;
};

// EnterNetns(), but once for a process: later calls change nothing.
bool EnterFreshNetns();

// Each aborts the test program where the kernel refuses: what is tested stands on them.
UniqueFd Bind(int type, const char* endpoint, const SocketOptions& options = {});
UniqueFd Listen(const char* endpoint, const SocketOptions& options = {});
UniqueFd Connect(int type, const char* endpoint);
UniqueFd Accept(const UniqueFd& listener);
uint16_t LocalPort(const UniqueFd& fd);
uint64_t CookieOf(const UniqueFd& fd);

}  // namespace utproxy::testing

#endif  // UTPROXY_TESTS_SUPPORT_SOCKETS_H_
