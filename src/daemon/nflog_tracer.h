// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_NFLOG_TRACER_H_
#define UTPROXY_DAEMON_NFLOG_TRACER_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "daemon/copy_explainer.h"
#include "trace/filter.h"
#include "trace/nflog_source.h"

namespace utproxy {

// Explains copies of packets, from an NFLOG group, as they come: what TPROXY decides about each, by
// the kernel's own lookups of a moment later. Needs no daemon. For one thread.
//
// A moment later a packet that was delivered has changed what there is: the SYN of a connection has
// become a request socket, which is then what is found (`established`, the verdict being the same).
class NflogTracer {
 public:
  static absl::StatusOr<std::unique_ptr<NflogTracer>> Open(uint16_t group, const Policy& policy,
                                                           Filter filter, const TraceParts& parts);

  // The objects of `utproxy trace`, with "group" for queue, until one is not wanted any more. One
  // packet that cannot be explained does not end it (see CopyExplainer); an error is that no copies
  // come any more. Calls `lost` where copies were lost: since the last time, and in all; `pause`
  // after what the kernel gave at a time.
  absl::Status Run(const std::function<bool(const Json&)>& take,
                   const std::function<void(uint64_t lost, uint64_t total)>& lost,
                   const std::function<void()>& pause);

 private:
  NflogTracer(NflogSource source, CopyExplainer copies)
      : source_(std::move(source)), copies_(std::move(copies)) {}

  NflogSource source_;
  CopyExplainer copies_;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_NFLOG_TRACER_H_
