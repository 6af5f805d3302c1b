// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_NFLOG_TRACER_H_
#define UTPROXY_DAEMON_NFLOG_TRACER_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "daemon/explainer.h"
#include "daemon/trace_json.h"
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

  // The objects of `utproxy trace`, with "group" for queue, until one is not wanted any more. Calls
  // `lost` where copies were lost: since the last time, and in all; `pause` after what the kernel
  // gave at a time.
  absl::Status Run(const std::function<bool(const Json&)>& take,
                   const std::function<void(uint64_t lost, uint64_t total)>& lost,
                   const std::function<void()>& pause);

 private:
  NflogTracer(NflogSource source, std::unique_ptr<Explainer> explainer, uint16_t group,
              const Policy& policy, Filter filter, const TraceParts& parts)
      : source_(std::move(source)),
        explainer_(std::move(explainer)),
        group_(group),
        policy_(policy),
        filter_(std::move(filter)),
        parts_(parts) {}
  absl::StatusOr<Json> Explain(const NflogPacket& logged, bool* passes);
  const OwnersByInode& OwnersFor(const Decision& decision);

  NflogSource source_;
  std::unique_ptr<Explainer> explainer_;
  const uint16_t group_;
  const Policy policy_;
  const Filter filter_;
  const TraceParts parts_;
  OwnersByInode owners_;
  int64_t owners_ns_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_NFLOG_TRACER_H_
