// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_MIRROR_COOKIE_SET_H_
#define UTPROXY_MIRROR_COOKIE_SET_H_

#include <absl/container/flat_hash_map.h>

#include <cstddef>
#include <cstdint>

namespace utproxy {

// A set of socket cookies. The kernel counts them up (sock_gen_cookie), in runs for each
// processor, so those of many sockets lie close together: 64 neighbours share a word, and where
// they are all there, a cookie takes a quarter of a byte instead of nine. Where none has a
// neighbour it is a hash set like any other. One thread.
class CookieSet {
 public:
  void Insert(uint64_t cookie) {
    const uint64_t page = cookie / kPage;
    if (page != last_page_ || last_ == nullptr) {
      last_ = &pages_[page];
      last_page_ = page;
    }
    *last_ |= Bit(cookie);
  }

  bool Contains(uint64_t cookie) const {
    const auto page = pages_.find(cookie / kPage);
    return page != pages_.end() && (page->second & Bit(cookie)) != 0;
  }

 private:
  static constexpr uint64_t kPage = 64;
  static uint64_t Bit(uint64_t cookie) { return uint64_t{1} << cookie % kPage; }

  absl::flat_hash_map<uint64_t, uint64_t> pages_;
  // Where the last cookie went: a dump shows many of one run in a row. Only Insert moves words.
  uint64_t* last_ = nullptr;
  uint64_t last_page_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_MIRROR_COOKIE_SET_H_
