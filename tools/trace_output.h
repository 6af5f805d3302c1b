// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_TRACE_OUTPUT_H_
#define UTPROXY_TOOLS_TRACE_OUTPUT_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "command.h"
#include "daemon/json.h"

namespace utproxy::tools {

// Where the decisions of `trace` go. For one thread.
class TraceOutput {
 public:
  virtual ~TraceOutput() = default;
  // One decision's object. False where nobody reads any more.
  virtual bool Take(const Json& json) = 0;
  // Records that came faster than they were read: since the last call, and in all.
  virtual void Lost(uint64_t lost, uint64_t total) = 0;
  // Nothing comes for a moment: what was taken is to be seen.
  virtual void Flush() = 0;
  // The end; what went wrong, if anything did.
  virtual absl::Status Finish() { return absl::OkStatus(); }
};

// Lines on env.out; losses among the lines of text, on env.err beside JSON.
std::unique_ptr<TraceOutput> MakeTextOutput(Environment& env);
std::unique_ptr<TraceOutput> MakeJsonOutput(Environment& env);
// A pcapng file at `path`, "-" for env.out; needs the objects' "raw". Tells env.err how many at the
// end.
absl::StatusOr<std::unique_ptr<TraceOutput>> MakeCaptureOutput(const std::string& path,
                                                               Environment& env);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_TRACE_OUTPUT_H_
