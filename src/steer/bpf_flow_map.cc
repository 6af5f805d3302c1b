// SPDX-License-Identifier: GPL-3.0-or-later
#include "steer/bpf_flow_map.h"

#include <bpf/bpf.h>

#include <cerrno>
#include <cstddef>
#include <vector>

#include "base/status.h"
#include "steer/flow_layout.h"

namespace utproxy {

// The program computes its key from the packet, we hand over a FlowKey's bytes: the same thing.
static_assert(sizeof(FlowKey) == sizeof(steer_flow));
static_assert(offsetof(FlowKey, local) == offsetof(steer_flow, local));
static_assert(offsetof(FlowKey, remote) == offsetof(steer_flow, remote));
static_assert(offsetof(FlowKey, local_port) == offsetof(steer_flow, local_port));
static_assert(offsetof(FlowKey, remote_port) == offsetof(steer_flow, remote_port));
static_assert(offsetof(FlowKey, proto) == offsetof(steer_flow, proto));
static_assert(offsetof(FlowKey, zero) == offsetof(steer_flow, iif));
static_assert(STEER_ANY_REMOTE == ~uint32_t{0});  // as NoPacketsSource() has it
static_assert(sizeof(uint64_t) == sizeof(steer_target) && offsetof(steer_target, cookie) == 0);

bool BpfFlowMap::HasBatches(int fd) {
  // generic_map_update_batch() does nothing for a count of 0; a map without it is ENOTSUPP, a
  // kernel without the command EINVAL.
  uint32_t count = 0;
  FlowKey key;
  uint64_t cookie = 0;
  return bpf_map_update_batch(fd, &key, &cookie, &count, nullptr) == 0;
}

size_t BpfFlowMap::Write(absl::Span<const FlowKey> keys, absl::Span<const uint64_t> cookies) {
  if (use_batches_ && keys.size() > 1) {
    // The kernel stops at the first entry it refuses and says how many it took.
    uint32_t count = static_cast<uint32_t>(keys.size());
    if (bpf_map_update_batch(fd_, keys.data(), cookies.data(), &count, nullptr) == 0) {
      return keys.size();
    }
    // EFAULT comes before anything is done and leaves the count as it was.
    return errno != EFAULT && count < keys.size() ? count : 0;
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    if (bpf_map_update_elem(fd_, &keys[i], &cookies[i], BPF_ANY) != 0) return i;
  }
  return keys.size();
}

// The kernel stops at a key that is not there; for us that one is done.
size_t BpfFlowMap::EraseBatch(absl::Span<const FlowKey> keys) {
  size_t done = 0;
  while (done < keys.size()) {
    uint32_t count = static_cast<uint32_t>(keys.size() - done);
    if (bpf_map_delete_batch(fd_, &keys[done], &count, nullptr) == 0) return keys.size();
    if (errno == EFAULT || count >= keys.size() - done) return done;
    done += count;
    if (errno != ENOENT) return done;
    ++done;
  }
  return done;
}

size_t BpfFlowMap::Erase(absl::Span<const FlowKey> keys) {
  if (use_batches_ && keys.size() > 1) return EraseBatch(keys);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (bpf_map_delete_elem(fd_, &keys[i]) != 0 && errno != ENOENT) return i;
  }
  return keys.size();
}

absl::Status BpfFlowMap::ReadAll(
    absl::FunctionRef<void(const FlowKey&, uint64_t cookie)> entry) const {
  constexpr uint32_t kEntries = 8192;  // more than a bucket of the hash has
  std::vector<FlowKey> keys(kEntries);
  std::vector<uint64_t> cookies(kEntries);
  uint32_t place = 0;
  for (bool first = true, more = use_batches_; more; first = false) {
    uint32_t count = kEntries;
    more = bpf_map_lookup_batch(fd_, first ? nullptr : &place, &place, keys.data(), cookies.data(),
                                &count, nullptr) == 0;
    if (!more && errno != ENOENT) return ErrnoStatus(errno, "read flow entries");
    for (uint32_t i = 0; i < count; ++i) entry(keys[i], cookies[i]);
  }
  for (bool first = true; !use_batches_; first = false) {
    if (bpf_map_get_next_key(fd_, first ? nullptr : &keys[0], &keys[1]) != 0) break;
    keys[0] = keys[1];
    if (bpf_map_lookup_elem(fd_, &keys[0], &cookies[0]) == 0) entry(keys[0], cookies[0]);
  }
  return absl::OkStatus();
}

}  // namespace utproxy
