// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_ENGINE_YOUNG_FLOWS_H_
#define UTPROXY_ENGINE_YOUNG_FLOWS_H_

#include <absl/hash/hash.h>
#include <absl/strings/string_view.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "utproxy/flow.h"

namespace utproxy {

// The flows whose SYNs one worker has seen last: their segments are most likely those of a
// connection that the mirror has not learned of yet. A later flow takes the place of an earlier
// one, so that a flood of SYNs makes it forget within a second or so. One thread.
class YoungFlows {
 public:
  void Note(const FlowKey& flow) {
    if (hashes_.empty()) hashes_.resize(kSlots);
    const uint64_t hash = Hash(flow);
    hashes_[hash % kSlots] = hash;
  }
  bool Has(const FlowKey& flow) const {
    if (hashes_.empty()) return false;
    const uint64_t hash = Hash(flow);
    return hashes_[hash % kSlots] == hash;
  }

 private:
  static constexpr size_t kSlots = 1 << 16;
  // Two flows of one hash would only share what is asked about them.
  static uint64_t Hash(const FlowKey& flow) {
    const auto* bytes = reinterpret_cast<const char*>(&flow);
    return absl::HashOf(absl::string_view(bytes, sizeof flow));
  }
  std::vector<uint64_t> hashes_;
};

}  // namespace utproxy

#endif  // UTPROXY_ENGINE_YOUNG_FLOWS_H_
