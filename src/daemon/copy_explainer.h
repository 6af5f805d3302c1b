// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_COPY_EXPLAINER_H_
#define UTPROXY_DAEMON_COPY_EXPLAINER_H_

#include <absl/status/statusor.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "daemon/explainer.h"
#include "daemon/trace_json.h"
#include "trace/filter.h"
#include "trace/nflog_codec.h"

namespace utproxy {

// Makes the object of `utproxy trace` of one logged copy of a packet after the other. For one
// thread.
class CopyExplainer {
 public:
  using Ask = std::function<absl::StatusOr<Explanation>(const Packet& packet)>;

  // `ask` explains a packet by the kernel. `group` is NFLOG's, which the objects name.
  CopyExplainer(Ask ask, uint16_t group, Filter filter, const TraceParts& parts,
                InterfaceNames names)
      : ask_(std::move(ask)),
        group_(group),
        filter_(std::move(filter)),
        parts_(parts),
        names_(std::move(names)) {}

  // nullopt where the filter does not let it pass. A packet that cannot be explained, as the kernel
  // gave no answer, has "error", why, and "failed_total", how many such there were until then, in
  // the place of a decision; of its filter what it says of verdict and reason must hold for a
  // packet dropped with `no_socket`, or for one accepted for a `listener`.
  std::optional<Json> Explain(const NflogPacket& logged);

 private:
  bool Passes(const TraceRecord& record) const;
  std::optional<Json> Failed(const absl::Status& status, TraceRecord* record, Json json);
  const OwnersByInode& OwnersFor(const Decision& decision);

  const Ask ask_;
  const uint16_t group_;
  const Filter filter_;
  const TraceParts parts_;
  const InterfaceNames names_;
  uint64_t failed_ = 0;
  OwnersByInode owners_;
  int64_t owners_ns_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_COPY_EXPLAINER_H_
