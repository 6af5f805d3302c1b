// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the table's writer keeps for itself. Private to src/sockets.
#ifndef UTPROXY_SOCKETS_SOCKET_TABLE_WRITER_H_
#define UTPROXY_SOCKETS_SOCKET_TABLE_WRITER_H_

#include <cstdint>
#include <memory>
#include <set>

#include "sockets/table_memory.h"
#include "utproxy/socket_table_core.h"

namespace utproxy {

struct SocketTableCore::Writer {
  std::unique_ptr<TableMemory> memory;
  size_t reserved = 0;  // sockets that room is kept for
  size_t current = 0;   // the root's number
  uint64_t stamp = 0;
  std::set<uint64_t> free_followers;  // the lowest is taken first, so that the end becomes free
  uint64_t next_follower = 1;         // it and those after it are free too
};

}  // namespace utproxy

#endif  // UTPROXY_SOCKETS_SOCKET_TABLE_WRITER_H_
