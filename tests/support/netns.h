// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_SUPPORT_NETNS_H_
#define UTPROXY_TESTS_SUPPORT_NETNS_H_

#include <string>

namespace utproxy::testing {

// Takes the calling thread, and with it all threads that it starts later, into a network namespace
// of its own with lo up. The namespace goes with them and with their sockets. Empty, or why it
// cannot be.
std::string EnterNetns();

}  // namespace utproxy::testing

#endif  // UTPROXY_TESTS_SUPPORT_NETNS_H_
