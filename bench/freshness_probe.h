// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_BENCH_FRESHNESS_PROBE_H_
#define UTPROXY_BENCH_FRESHNESS_PROBE_H_

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <random>
#include <vector>

#include "utproxy/socket_table.h"

namespace utproxy::bench {

// Delays, in microseconds, from the return of a system call to the table showing what it did,
// which is looked at every some 60 µs (a sleep's length) and for a second at most. One thread.
class FreshnessProbe {
 public:
  // `port`: of a listener of the calling thread's namespace that is the table's, too, and whose
  // connections a worker learns of. It is not accepted from: the probe has one of its own beside
  // it, on 127.0.0.2.
  FreshnessProbe(const SocketTable* table, uint16_t port) : table_(table), port_(port) {}

  // Opens and closes a listener and a connection.
  void Sample();

  const std::vector<double>& accept_us() const { return accept_us_; }
  // A connection's: until it is not shown as alive.
  const std::vector<double>& close_us() const { return close_us_; }
  const std::vector<double>& listen_us() const { return listen_us_; }
  const std::vector<double>& close_listener_us() const { return close_listener_us_; }

 private:
  // From now until condition() holds, or patience ends.
  double Wait(absl::FunctionRef<bool()> condition);
  bool Alive(const FlowKey& key, uint64_t cookie) const;

  const SocketTable* const table_;
  const uint16_t port_;
  std::mt19937 random_{1};
  std::vector<double> accept_us_, close_us_, listen_us_, close_listener_us_;
};

}  // namespace utproxy::bench

#endif  // UTPROXY_BENCH_FRESHNESS_PROBE_H_
