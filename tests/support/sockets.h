// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_SUPPORT_SOCKETS_H_
#define UTPROXY_TESTS_SUPPORT_SOCKETS_H_

#include "base/fd.h"
#include "utproxy/address.h"

namespace utproxy::testing {

struct SocketOptions {
  bool transparent = false;
  bool reuseport = false;
  bool v6only = false;
};

// Moves the calling process into a fresh network namespace with lo up; once for a process. False,
// with nothing changed, without the right to do so.
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
