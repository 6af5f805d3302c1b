// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_BENCH_CONNECTION_LOAD_H_
#define UTPROXY_BENCH_CONNECTION_LOAD_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace utproxy::bench {

// A thread that opens, accepts and closes TCP connections over lo of the constructing thread's
// namespace, both ends, `rate` a second (as far as it comes; 0: none). They go to a transparent
// listener on 127.0.0.1:port that lives as long as this; the accepting end closes first, and so is
// the one that goes through TIME_WAIT.
class ConnectionLoad {
 public:
  ConnectionLoad(uint16_t port, double rate);
  ~ConnectionLoad() { Stop(); }
  void Stop();

  // Opened and closed so far. Any thread.
  uint64_t connections() const { return connections_.load(std::memory_order_relaxed); }

 private:
  void Loop();
  void Connect(size_t count);

  const uint16_t port_;
  const double rate_;
  UniqueFd listener_;
  uint32_t source_ = 0;
  std::vector<UniqueFd> clients_, servers_;
  std::atomic<uint64_t> connections_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace utproxy::bench

#endif  // UTPROXY_BENCH_CONNECTION_LOAD_H_
