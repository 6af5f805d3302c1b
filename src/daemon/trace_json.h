// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_TRACE_JSON_H_
#define UTPROXY_DAEMON_TRACE_JSON_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/json.h"
#include "decide/explain.h"
#include "decide/spread.h"
#include "diagnose/socket_owner.h"
#include "trace/port_lists.h"
#include "trace/record.h"
#include "utproxy/policy.h"

namespace utproxy {

// "2026-01-02T03:04:05.123456789Z" of CLOCK_REALTIME in nanoseconds.
std::string TimeText(int64_t realtime_ns);

// What stands around a record and is the same for all of a queue's.
struct TraceContext {
  std::string target;
  uint16_t queue = 0;
  Policy policy;
  SpreadSpec spread = {};
  int64_t realtime_offset_ns = 0;  // CLOCK_REALTIME minus CLOCK_MONOTONIC
  InterfaceNames names;
};

// Which parts of a record's object are wanted besides the decision.
struct TraceParts {
  bool steps = true;
  // "raw": {"bytes": hexadecimal, "length", "iif"}, what a capture file needs.
  bool raw = false;
};

// A record's decision once more.
struct RecordStory {
  std::vector<ExplainStep> steps;
  // What TPROXY makes of what was found. Differs from the record's decision where the daemon had
  // trouble (shed, steer_failed); nullopt where nothing could be found out (exact_failed).
  std::optional<Decision> tproxy;
};

// Decide() over what the record says was found, with its recorder. `around` may be null (see
// RecordLookup).
RecordStory TellRecord(const TraceRecord& record, const Policy& policy, const SpreadSpec& spread,
                       PortLists* around);

// The object of `utproxy trace`: that of one decision with time, target, queue, id, wait_ns and
// decide_ns. `around` as above; `owners` of sockets, where known. With the steps goes "kernel",
// what the kernel's own TPROXY would have done.
Json ToJson(const TraceRecord& record, const TraceContext& context, const TraceParts& parts,
            PortLists* around, const OwnersByInode& owners);

// The object of TraceParts::raw.
Json RawJson(const TraceRecord& record);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_TRACE_JSON_H_
