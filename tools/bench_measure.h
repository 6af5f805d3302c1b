// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_BENCH_MEASURE_H_
#define UTPROXY_TOOLS_BENCH_MEASURE_H_

#include <absl/status/statusor.h>

#include <cstddef>
#include <cstdint>

#include "bench_space.h"

namespace utproxy::tools {

enum class Contestant : uint8_t {
  kAcceptAll,  // utproxy's own worker, every packet accepted: the limit of the queue
  kKernel,     // the kernel's TPROXY
  kUtproxy,
};

// Fills a queue with `packets` datagrams of 64 bytes, of `flows` flows in turn, while nobody reads
// it, then drains it. Returns thousands of packets a second; an error where one was not delivered.
// Not for kKernel, which has no queue. By the thread that entered `space`.
absl::StatusOr<double> MeasureDrain(const BenchSpace& space, Contestant contestant, size_t packets,
                                    size_t flows);

// Bytes that `connections` TCP connections bring to a transparent listener in `duration_ns`.
// Returns Gbit/s. By the thread that entered `space`.
absl::StatusOr<double> MeasureBulk(const BenchSpace& space, Contestant contestant,
                                   size_t connections, int64_t duration_ns);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_BENCH_MEASURE_H_
