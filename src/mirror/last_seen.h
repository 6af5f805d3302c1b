// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_MIRROR_LAST_SEEN_H_
#define UTPROXY_MIRROR_LAST_SEEN_H_

#include <absl/container/flat_hash_map.h>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace utproxy {

// Whether connections were transparent when this thread last had an answer about them. What a
// connection leaves behind, in TIME_WAIT, inherits that, and sock_diag does not tell it; the table
// gets to know of it, but late when the mirror's thread is in the middle of a large dump. So what
// is remembered need not last: kMaxAgeNs, and at least as many connections as kGeneration.
//
// Times are CLOCK_MONOTONIC, in ns; the coarse clock will do. One thread.
class LastSeen {
 public:
  static constexpr int64_t kMaxAgeNs = 10'000'000'000;
  static constexpr size_t kGeneration = 1 << 14;

  void Note(uint64_t cookie, bool transparent, int64_t now_ns) {
    if (newer_.size() >= kGeneration) {
      older_.swap(newer_);
      newer_.clear();
    }
    newer_[cookie] = {now_ns, transparent};
  }

  std::optional<bool> Find(uint64_t cookie, int64_t now_ns) const {
    for (const Generation* generation : {&newer_, &older_}) {
      const auto it = generation->find(cookie);
      if (it == generation->end()) continue;
      if (now_ns - it->second.seen_ns > kMaxAgeNs) return std::nullopt;
      return it->second.transparent;
    }
    return std::nullopt;
  }

 private:
  struct Entry {
    int64_t seen_ns;
    bool transparent;
  };
  using Generation = absl::flat_hash_map<uint64_t, Entry>;
  Generation newer_, older_;
};

}  // namespace utproxy

#endif  // UTPROXY_MIRROR_LAST_SEEN_H_
