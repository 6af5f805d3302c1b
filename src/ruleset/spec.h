// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_SPEC_H_
#define UTPROXY_RULESET_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "utproxy/address.h"
#include "utproxy/flow.h"

namespace utproxy {

// Ports in host byte order, both ends included.
struct PortRange {
  uint16_t first = 0;
  uint16_t last = 0;
  friend bool operator==(const PortRange&, const PortRange&) = default;
};

// Which packets a target takes. An empty list places no condition.
struct Match {
  std::vector<Proto> protos;  // empty: TCP and UDP
  std::vector<PortRange> dports;
  std::vector<std::string> iifs;  // interface names; need not exist
  std::vector<Cidr> src, dst, not_src, not_dst;
  friend bool operator==(const Match&, const Match&) = default;
};

// Keeps the proxy's own traffic out of `local_output`: packets whose mark, masked, is `value`.
// Host byte order.
struct MarkMatch {
  uint32_t value = 0;
  uint32_t mask = 0xffffffffu;
  friend bool operator==(const MarkMatch&, const MarkMatch&) = default;
};

// All that `--install` puts into the kernel for one target: the nftables rules that queue, the
// policy rule by mark and the local default route that deliver. Marks in host byte order.
struct RulesetSpec {
  std::string name;  // the target's; stands in the comments of its rules. May be empty
  Match match;
  uint32_t mark_value = 0;
  uint32_t mark_mask = 0xffffffffu;
  uint16_t queue_first = 0;
  uint16_t queue_last = 0;
  bool queue_bypass = false;
  bool queue_cpu_fanout = false;
  // Rules in front of the queue's that carry what needs no decision (see plan.h, "The fast path").
  bool fast_path = false;
  // Answers to connections that the proxy makes from clients' addresses are delivered to it (see
  // replies.h), whichever interface and port they come from.
  bool divert_replies = false;
  // Packets that were not decided, or for nobody, can leave the queue too: --on-miss accept,
  // --fail-open, --queue-bypass.
  bool misses_pass = false;
  // The rules stay where the process ends without Remove(), until the next one takes them over:
  // what they take is dropped meanwhile, but with queue_bypass. It goes for all targets of a
  // ruleset where it goes for one.
  bool outlives = false;
  uint32_t route_table = 100;
  bool local_output = false;
  std::vector<MarkMatch> exclude_marks;
  std::vector<uint32_t> exclude_uids;
  std::vector<std::string> exclude_cgroups;  // cgroup v2 paths below the root
  friend bool operator==(const RulesetSpec&, const RulesetSpec&) = default;
};

}  // namespace utproxy

#endif  // UTPROXY_RULESET_SPEC_H_
