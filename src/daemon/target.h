// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_TARGET_H_
#define UTPROXY_DAEMON_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "decide/spread.h"
#include "queue/options.h"
#include "ruleset/spec.h"
#include "utproxy/policy.h"

namespace utproxy {

// One TPROXY rule and the queues that feed it, as the command line or a [[target]] of the
// configuration states it. A plain value. `ruleset` repeats the mark and the queues of the other
// members; who fills a target keeps them equal.
struct Target {
  std::string name = "default";
  Policy policy;
  // Active where there are several on-ports; policy.on_port is then the first of them.
  SpreadSpec spread;
  RulesetSpec ruleset;
  // Queue numbers, both ends included; one worker each.
  uint16_t queue_first = 0;
  uint16_t queue_last = 0;
  QueueOptions queue;
  // `ruleset` is put into the kernel; otherwise the rules that fill the queues are the user's own
  // (`utproxy ruleset`), those of its fast path too.
  bool install = false;
  // CPU i is for worker i; the list starts over where it is shorter. Empty: not pinned.
  std::vector<int> cpus;

  size_t QueueCount() const { return size_t{1} + queue_last - queue_first; }

  friend bool operator==(const Target&, const Target&) = default;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_TARGET_H_
