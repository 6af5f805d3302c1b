// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_STEER_BPF_FLOW_MAP_H_
#define UTPROXY_STEER_BPF_FLOW_MAP_H_

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>

#include "steer/flow_map.h"

namespace utproxy {

// The map `flows` of the sk_lookup program. Many entries go in one BPF_MAP_UPDATE_BATCH where the
// kernel has it for hash maps (5.6), else one by one. Errors leave errno as the system call set it.
class BpfFlowMap final : public FlowMap {
 public:
  // `fd` is borrowed and must outlive this. Finds out by itself whether batches work.
  explicit BpfFlowMap(int fd) : BpfFlowMap(fd, HasBatches(fd)) {}
  BpfFlowMap(int fd, bool use_batches) : fd_(fd), use_batches_(use_batches) {}

  static bool HasBatches(int fd);

  size_t Write(absl::Span<const FlowKey> keys, absl::Span<const uint64_t> cookies) override;
  size_t Erase(absl::Span<const FlowKey> keys) override;

  // Calls `entry` with each key and its cookie. While nobody writes.
  absl::Status ReadAll(absl::FunctionRef<void(const FlowKey&, uint64_t cookie)> entry) const;

 private:
  size_t EraseBatch(absl::Span<const FlowKey> keys);

  const int fd_;
  const bool use_batches_;
};

}  // namespace utproxy

#endif  // UTPROXY_STEER_BPF_FLOW_MAP_H_
