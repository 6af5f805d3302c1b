// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_MIRROR_SOCKET_COUNT_H_
#define UTPROXY_MIRROR_SOCKET_COUNT_H_

#include <cstddef>
#include <istream>

namespace utproxy {

// About how many TCP sockets, TIME_WAIT among them, the calling thread's network namespace has, by
// /proc/thread-self/net/sockstat and sockstat6. 0 where those cannot be read. Any thread.
size_t CountTcpSockets();

// The same from the text of one of the two.
size_t CountTcpSockets(std::istream& sockstat);

}  // namespace utproxy

#endif  // UTPROXY_MIRROR_SOCKET_COUNT_H_
