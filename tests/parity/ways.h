// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_WAYS_H_
#define UTPROXY_TESTS_PARITY_WAYS_H_

#include <absl/types/span.h>

#include <memory>
#include <optional>

#include "coverage.h"
#include "mirror/exact.h"
#include "mirror/table_writer.h"
#include "netns.h"
#include "spec.h"
#include "utproxy/decide.h"

namespace utproxy::parity {

// utproxy's decisions about packets of the oracle's namespace, on the oracle's very sockets: over
// exact queries, and over a mirror. All functions are to be called inside of the namespace.
class Ways {
 public:
  explicit Ways(const Netns& netns);

  // Asks about packets of these connections, as a router through which they go.
  void Observe(absl::Span<const SocketSpec> connections);
  // Reads all sockets into the table, as the mirror's thread does.
  void Refresh();

  // nullopt where the kernel gave no answer. `steps` is told of them.
  std::optional<Decision> Exact(const Packet& packet, const Policy& policy, Steps* steps);
  struct Mirrored {
    Decision decision;
    bool certain = false;  // the mirror takes it upon itself
  };
  Mirrored OverMirror(const Packet& packet, const Policy& policy);

 private:
  DiagClient client_;
  std::unique_ptr<SocketTable> table_;
  std::shared_ptr<const InterfaceSnapshot> interfaces_;
  UdpEpochs epochs_;
  TableWriter writer_;
  ExactQuerier querier_;
  const Netns& netns_;
};

// A segment or datagram of the connection, without payload.
Packet PacketOf(const SocketSpec& connection, const Netns& netns);
Outcome OutcomeOf(const Decision& decision);

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_WAYS_H_
