// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_FLOW_HASH_H_
#define UTPROXY_FLOW_HASH_H_

#include <absl/status/statusor.h>

#include <array>
#include <cstdint>

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <xxhash.h>

#include "utproxy/flow.h"

namespace utproxy {

// The keyed hash of a flow: XXH3 over the key's 40 bytes, with a secret drawn from the kernel for
// each instance. Addresses and ports come from outside; without the secret nobody can choose them
// so that their hashes collide. Values differ between processes and mean nothing outside of one.
// Copies share the secret; const calls may come from any thread.
class FlowHash {
 public:
  // Fails where getrandom(2) does.
  static absl::StatusOr<FlowHash> Create();

  uint64_t operator()(const FlowKey& key) const {
    return XXH3_64bits_withSecret(&key, sizeof(key), secret_.data(), secret_.size());
  }

 private:
  using Secret = std::array<uint8_t, XXH3_SECRET_SIZE_MIN>;
  explicit FlowHash(const Secret& secret) : secret_(secret) {}

  alignas(64) Secret secret_;
};

}  // namespace utproxy

#endif  // UTPROXY_FLOW_HASH_H_
