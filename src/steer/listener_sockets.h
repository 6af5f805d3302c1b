// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_STEER_LISTENER_SOCKETS_H_
#define UTPROXY_STEER_LISTENER_SOCKETS_H_

#include <absl/container/flat_hash_map.h>
#include <absl/status/status.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>

#include "steer/listener_finder.h"
#include "steer/socket_owners.h"

namespace utproxy {

// Keeps the sockets of listeners (TCP in LISTEN, UDP not connected) in the program's SOCKHASH.
//
// The kernel takes a socket out of the map when it is closed (sock_map_close), older kernels also
// when it is unhashed (sock_map_unhash: shutdown, SOCK_DESTROY, UDP disconnect), and tells nobody.
// An unhashed socket can be bound or listen again, with the same cookie, and is not in the map
// then. So nothing is believed of the map but what the map says: a look-up from user space gives
// the cookie of the socket it holds. It costs one system call (well below a microsecond):
// - for each listener that a batch names for a new flow, and
// - for each listener of a batch of known flows where the last look is kRecheckNs old.
//
// No descriptor of a listener is kept: it would keep the listener open after its owner closed it.
//
// Any thread may call any function at any time.
class ListenerSockets {
 public:
  struct Stats {
    uint64_t held = 0;         // sockets in the map now
    uint64_t inserted = 0;     // sockets put into the map
    uint64_t unreachable = 0;  // failed attempts to get a socket
    uint64_t cached = 0;       // times a failed attempt was not repeated as it was too recent
    uint64_t scans = 0;        // walks through all of /proc
  };
  enum class Held : uint8_t {
    kHeld,  // in the map
    kGone,  // not found: it has closed, or nobody holds it whom we may look at. Who has it from
            // the kernel should ask again
    kUnreachable,  // it cannot be had
  };

  static constexpr int64_t kRecheckNs = 50'000'000;
  // A failed attempt is not repeated within this time, nor within ten times of what it took: a
  // flood towards a listener that cannot be had takes no more than a tenth of a processor. But for
  // the finder's word that there is no such listener: it is had cheaply, and a socket that has been
  // shut down can listen again at any time.
  static constexpr int64_t kRetryNs = 100'000'000;

  // `map_fd` is the SOCKHASH, u64 cookie → u64; borrowed, must outlive this. `finder`: how sockets
  // are had; without it, from their owners, which are searched for in /proc.
  ListenerSockets(int map_fd, std::optional<ListenerFinder> finder)
      : map_fd_(map_fd), finder_(std::move(finder)) {}

  // Whether the listener's socket is in the map when this returns; puts it there where it is not.
  // `recheck`: look into the map however recently that was done. `inode`: the socket's.
  // `now_ns`: CLOCK_MONOTONIC. Blocks for a walk through the kernel's sockets, or through /proc,
  // where the socket is to be found.
  Held Ensure(uint64_t cookie, uint32_t inode, Proto proto, bool recheck, int64_t now_ns);

  // Forgets what is known of listeners that nobody has asked for lately. About once a second.
  void Expire(int64_t now_ns);

  bool finds_in_kernel() const { return finder_.has_value(); }
  Stats stats() const;
  // Why the latest attempt to get a socket failed; OK where none did.
  absl::Status last_error() const;

 private:
  struct Known {
    int64_t seen_ns = 0;  // when the map was last seen to hold it
    int64_t unreachable_until_ns = 0;
  };

  bool InMap(uint64_t cookie) const;
  bool SeenLately(uint64_t cookie, int64_t now_ns) const;
  bool UnreachableNow(uint64_t cookie, int64_t now_ns);
  void NoteSeen(uint64_t cookie, int64_t now_ns);
  void NoteUnreachable(uint64_t cookie, const absl::Status& status, int64_t until_ns);
  absl::Status Insert(uint64_t cookie, uint32_t inode, Proto proto);
  absl::Status InsertFromOwner(uint64_t cookie, uint32_t inode);

  const int map_fd_;

  mutable std::mutex known_mutex_;  // held for moments only
  absl::flat_hash_map<uint64_t, Known> known_;
  absl::Status last_error_;

  std::mutex search_mutex_;  // held for a search; taken before known_mutex_
  std::optional<ListenerFinder> finder_;
  SocketOwners owners_;

  std::atomic<uint64_t> inserted_{0}, unreachable_{0}, cached_{0}, scans_{0};
};

}  // namespace utproxy

#endif  // UTPROXY_STEER_LISTENER_SOCKETS_H_
