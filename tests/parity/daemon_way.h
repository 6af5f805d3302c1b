// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_DAEMON_WAY_H_
#define UTPROXY_TESTS_PARITY_DAEMON_WAY_H_

#include <absl/types/span.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/json.h"
#include "kernel_oracle.h"
#include "netns.h"
#include "nflog.h"
#include "spec.h"

namespace utproxy::parity {

// One packet for the daemon, and what a chain behind its queue saw of it.
struct DaemonCase {
  const PacketSpec* packet = nullptr;
  uint8_t mark_index = 1;
  bool seen = false;
  uint32_t mark = 0;  // where seen
};

// A namespace with `utproxy run` behind an NFQUEUE rule, and a chain right behind that tells of
// the packets that got a verdict of accept and drops them.
class DaemonWay {
 public:
  // `program`: path of utproxy. Fatal where it does not get ready. `fast_path`: the rules are those
  // of `utproxy ruleset install --fast-path divert`.
  DaemonWay(const std::string& program, const DeviceAddresses& addresses, const Policy& policy,
            const Marks& marks, bool fast_path);
  ~DaemonWay();
  DaemonWay(const DaemonWay&) = delete;
  DaemonWay& operator=(const DaemonWay&) = delete;

  const Netns& netns() const { return netns_; }
  bool fast_path() const { return fast_path_; }
  // Packets that the fast path's rules have carried so far.
  uint64_t Carried() const;
  // Sends them all, then waits for the last verdict. At most 1000.
  void Ask(absl::Span<DaemonCase> cases);
  // Waits until the mirror has taken in that sockets ended, if it comes to that within two seconds.
  void AwaitEnds() const;
  // Waits until the mirror knows of all sockets that came or went until `changed`: above some
  // thousand packets a second not every decision is checked with the kernel, and a change of
  // sockets may take 50 ms to be noticed.
  void Settle(std::chrono::steady_clock::time_point changed) const;
  // Sends a packet of each connection, and waits until the mirror has it. Inside of the namespace.
  void Observe(absl::Span<const SocketSpec> connections);

 private:
  void Start(const std::string& program, const Policy& policy);
  Nflog SetUp(const Policy& policy, const Marks& marks);
  void SettleFastPath() const;
  std::vector<Json> Control(absl::string_view command) const;
  bool MirrorHas(absl::Span<const uint64_t> cookies) const;

  const bool fast_path_;
  Netns netns_;
  UniqueFd always_hit_;  // a connected socket whose datagrams every policy hands over
  Nflog nflog_;
  pid_t pid_ = -1;
  UniqueFd log_;
  uint16_t next_id_ = 1;
  std::string control_;
};

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_DAEMON_WAY_H_
