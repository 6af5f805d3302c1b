// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_MIRROR_SWEEP_H_
#define UTPROXY_MIRROR_SWEEP_H_

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "mirror/cookie_set.h"
#include "mirror/interfaces.h"
#include "mirror/table_writer.h"
#include "netlink/diag_client.h"

namespace utproxy {

// One dump of all connections, TCP in any state but LISTEN, on its way into the table. No I/O of
// its own. For the mirror's thread.
class Sweep {
 public:
  // Both must outlive this. `now_ns`: CLOCK_MONOTONIC, when the dump began.
  Sweep(TableWriter* writer, const InterfaceSnapshot* interfaces, int64_t now_ns)
      : writer_(writer), interfaces_(interfaces), now_ns_(now_ns) {}

  // One dumped socket. Learnt at once or with later ones, together with which its cache misses
  // overlap.
  void Take(const Socket& socket) {
    seen_.Insert(socket.cookie);
    block_[count_++] = socket;
    if (count_ == block_.size()) Learn();
  }
  // Learns what is still to be learnt.
  void Learn();
  // At the dump's end: connections in the table that it did not show (see TableWriter::Missing).
  std::vector<Socket> Finish();

 private:
  TableWriter* const writer_;
  const InterfaceSnapshot* const interfaces_;
  const int64_t now_ns_;
  CookieSet seen_;
  std::array<Socket, TableWriter::kTogether> block_;
  size_t count_ = 0;
};

// Runs the dump, both families, into `sweep`. `meanwhile` is called after every kMeanwhile sockets,
// with all learnt that were dumped so far, so that what happens during a long dump need not wait
// for its end.
inline constexpr size_t kMeanwhile = 2048;
absl::Status DumpConnections(DiagClient* client, Sweep* sweep, absl::FunctionRef<void()> meanwhile);

}  // namespace utproxy

#endif  // UTPROXY_MIRROR_SWEEP_H_
