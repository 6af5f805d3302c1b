// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_BENCH_TRAFFIC_H_
#define UTPROXY_TOOLS_BENCH_TRAFFIC_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "bench_space.h"

namespace utproxy::tools {

// A transparent UDP socket in the calling thread's namespace that holds what it gets.
absl::StatusOr<UniqueFd> BindSink(uint16_t port);
// Reads what it holds; returns how many datagrams.
size_t TakeAll(const UniqueFd& sink);
// Sends `count` datagrams of 64 bytes from the client, of `flows` flows in turn.
absl::Status SendDatagrams(const BenchSpace& space, size_t count, size_t flows);

// A transparent TCP listener in the starting thread's namespace, and a thread that reads what comes
// and throws it away.
class BulkSink {
 public:
  static absl::StatusOr<std::unique_ptr<BulkSink>> Start(uint16_t port);
  ~BulkSink();
  // Bytes so far. Any thread.
  uint64_t received() const { return received_.load(std::memory_order_relaxed); }

 private:
  explicit BulkSink(UniqueFd listener) : listener_(std::move(listener)) {}
  void Loop();

  const UniqueFd listener_;
  std::atomic<uint64_t> received_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Connections from the client, and a thread that sends on them as fast as it can.
class BulkSource {
 public:
  // Returns when all are connected.
  static absl::StatusOr<std::unique_ptr<BulkSource>> Start(const BenchSpace& space,
                                                           size_t connections);
  ~BulkSource();

 private:
  BulkSource() = default;
  void Loop();

  std::vector<UniqueFd> sockets_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_BENCH_TRAFFIC_H_
