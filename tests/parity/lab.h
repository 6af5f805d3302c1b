// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_LAB_H_
#define UTPROXY_TESTS_PARITY_LAB_H_

#include <absl/types/span.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "coverage.h"
#include "daemon_way.h"
#include "generator.h"
#include "kernel_oracle.h"
#include "sockets.h"
#include "spec.h"
#include "steer/steering.h"
#include "ways.h"

namespace utproxy::parity {

// Ways of deciding that are compared with an oracle.
enum class Way : uint8_t { kExact, kMirror, kDaemon };
const char* WayName(Way way);

struct Case {
  PacketSpec packet;
  uint8_t mark_index = 1;
};

struct Difference {
  size_t case_index = 0;
  size_t policy = 0;
  Oracle oracle = Oracle::kXt;
  Way way = Way::kExact;
  Outcome expected;  // what the kernel did
  std::string got;
};

struct Totals {
  uint64_t cases = 0;      // against each oracle
  uint64_t by_mirror = 0;  // of those, the mirror took it upon itself
  uint64_t by_daemon = 0;  // compared with the daemon
  uint64_t carried = 0;    // packets that the fast path's rules carried
  uint64_t sockets = 0;
  uint64_t unmade = 0;  // sockets that the kernel refused to make
};

// The namespaces of one world: the kernel's, and one with a daemon for each policy.
class Lab {
 public:
  struct Options {
    std::string program;  // utproxy; empty: without daemons
    std::vector<Oracle> oracles;
    // The daemons have the fast path's rules before their queues, each packet comes twice, and once
    // more after some listeners have closed.
    bool fast_path = false;
  };
  Lab(const Generator::World& world, const Options& options);

  // Makes the scene's sockets, asks about all cases in every way, and ends the sockets.
  std::vector<Difference> Run(const Scene& scene, absl::Span<const Case> cases, Coverage* coverage,
                              Totals* totals);

 private:
  struct Answer;  // what the oracles said of one case and policy
  using Answers = std::vector<Answer>;

  bool MadeAlike(const Scene& scene, const Policy& policy, const Sockets& sockets) const;
  std::vector<bool> kernel_made_;  // which sockets AskKernel made last
  void AskKernel(const Scene& scene, absl::Span<const Case> cases, Coverage* coverage,
                 Totals* totals, Answers* answers, std::vector<Difference>* differences);
  void AskDaemon(size_t policy, const Scene& scene, absl::Span<const Case> cases,
                 const Answers& answers, Sockets* sockets, Totals* totals,
                 std::vector<Difference>* differences);
  void RunAfterEnds(Scene scene, absl::Span<const Case> cases,
                    const std::vector<std::unique_ptr<Sockets>>& sockets, Coverage* coverage,
                    Totals* totals, std::vector<Difference>* differences);
  void Compare(const Scene& scene, const Answer& answer, Way way, const Decision* decision,
               Difference where, std::vector<Difference>* differences) const;

  const Generator::World world_;
  const Options options_;
  Netns netns_;
  KernelOracle oracle_;
  std::unique_ptr<Ways> ways_;
  std::unique_ptr<Steering> foreign_;
  std::vector<std::unique_ptr<DaemonWay>> daemons_;
  std::vector<std::unique_ptr<Steering>> daemons_foreign_;
  std::vector<uint64_t> carried_;  // by each daemon so far
  uint16_t next_id_ = 1;
};

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_LAB_H_
