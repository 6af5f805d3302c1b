// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_BENCH_SPACE_H_
#define UTPROXY_TOOLS_BENCH_SPACE_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "base/fd.h"

namespace utproxy::tools {

inline constexpr char kBenchClient[] = "10.77.1.2";
inline constexpr char kBenchAsked[] = "203.0.113.80";  // what the client asks for; nobody has it
inline constexpr uint16_t kBenchPort = 8080;           // the port that it asks for
inline constexpr uint16_t kBenchOnPort = 12345;        // where those who redirect lead it
inline constexpr uint32_t kBenchMark = 1;

// Two network namespaces, client and router, with a link (lan0 in both) between them. They have no
// name, so that the kernel removes them with all that is in them when the process ends, however it
// ends.
class BenchSpace {
 public:
  // Makes both; the calling thread, and threads that it starts later, are in the router from then
  // on. An error with a remedy where that is not allowed, or where `ip` is missing.
  static absl::StatusOr<BenchSpace> Enter();

  // Takes the calling thread into the client.
  absl::Status EnterClient() const;
  // The kernel's own TPROXY for the port, by nft, or by iptables where there is no nft.
  absl::Status AddKernelRule() const;
  absl::Status RemoveKernelRule() const;

 private:
  explicit BenchSpace(UniqueFd client) : client_(std::move(client)) {}
  absl::Status Wire() const;

  UniqueFd client_;
};

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_BENCH_SPACE_H_
