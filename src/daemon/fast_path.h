// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_FAST_PATH_H_
#define UTPROXY_DAEMON_FAST_PATH_H_

#include <absl/status/statusor.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/event_fd.h"
#include "engine/token_bucket.h"
#include "mirror/mirror.h"
#include "netlink/diag_client.h"
#include "netlink/socket.h"
#include "ruleset/fast_path_sets.h"
#include "steer/steering.h"

namespace utproxy {

// Keeps what the fast path's rules (ruleset/plan.h) go by true, on a thread of its own:
//
// - The sets of TCP listeners that are bound to an address, when the mirror has seen one come, go
//   or change (10 ms; 50 where no packet was decided for a while), and within a second when
//   somebody else has changed nftables, as who loads the rules anew empties them.
// - The sets of decided UDP flows, which the rules fill by themselves, are emptied when what the
//   decisions rest on has changed: the UDP sockets at a listener's port (50 ms; an end: a few ms),
//   an interface's address; a flow's entry for sk_lookup that went before its time; a connected
//   socket that leaves its flow to another at its own address. The next datagram of each flow is
//   then decided anew. Emptied again a moment later, for what was decided just before and learned
//   just after. A change of nftables makes those who list it at the same time begin again, so it
//   comes kFlushesPerSecond times in the long run at the most; what changes more often than that is
//   late by as much.
//
// Without rules and sets it does nothing, and looks again every second.
class FastPath {
 public:
  static constexpr int64_t kFlushesPerSecond = 2;
  static constexpr int64_t kFlushBurst = 16;

  // `changed`: raised when what is looked at has changed. `on_ports`: of the targets; 0 where it is
  // the packet's. `nft`: the socket that owns the table, which nobody else may use while this is;
  // null where it has no owner. All must outlive this; `steering` may be null. The sets of
  // listeners are filled when this returns.
  static absl::StatusOr<std::unique_ptr<FastPath>> Start(const Mirror* mirror,
                                                         const Steering* steering,
                                                         const EventFd* changed,
                                                         std::vector<uint16_t> on_ports,
                                                         NetlinkSocket* nft);
  ~FastPath() { Stop(); }
  // Ends it, and leaves the sets of flows empty. A second call does nothing.
  void Stop();
  FastPath(const FastPath&) = delete;
  FastPath& operator=(const FastPath&) = delete;

  // Any thread.
  // Rises while the thread goes on, at least twice a second.
  uint64_t beats() const { return beats_.load(std::memory_order_relaxed); }
  uint64_t flushes() const { return flushes_.load(std::memory_order_relaxed); }
  // The mirror knows of a change that the sets do not show yet.
  bool behind() const;

 private:
  FastPath(const Mirror* mirror, const Steering* steering, const EventFd* changed,
           std::vector<uint16_t> on_ports, DiagClient client, EventFd stop)
      : mirror_(mirror),
        steering_(steering),
        changed_(changed),
        on_ports_(std::move(on_ports)),
        client_(std::move(client)),
        stop_(std::move(stop)) {}

  static constexpr uint64_t kNever = UINT64_MAX;

  bool unsettled() const;
  void Loop();
  void Round(int64_t now_ns);
  void FollowListeners(int64_t now_ns);
  bool OthersChangedRules(int64_t now_ns);
  void FollowFlows(int64_t now_ns);
  uint64_t Circumstances() const;
  absl::StatusOr<std::vector<ListenerPlace>> BoundListeners();

  const Mirror* const mirror_;
  const Steering* const steering_;
  const EventFd* const changed_;
  const std::vector<uint16_t> on_ports_;
  DiagClient client_;
  EventFd stop_;
  std::optional<NetlinkSocket> own_nft_;
  NetlinkSocket* nft_ = nullptr;

  // Of the thread.
  TokenBucket flush_tokens_{kFlushesPerSecond, kFlushBurst};
  std::optional<uint64_t> listeners_seen_;  // nullopt: the sets are not up to date
  std::optional<std::vector<ListenerPlace>> listed_;
  std::optional<uint64_t> circumstances_;  // nullopt: the flows' sets are to be emptied
  bool flush_again_ = false;
  uint32_t generation_ = 0;  // of nftables, as this has left it
  int64_t looked_ns_ = 0;    // 0: never
  int64_t retry_ns_ = 0;     // no earlier than this after an error
  std::atomic<uint64_t> beats_{0};
  std::atomic<uint64_t> flushes_{0};
  // What the sets show: of Listeners(), and of Circumstances().
  std::atomic<uint64_t> settled_listeners_{kNever}, settled_flows_{kNever};
  std::thread thread_;
};

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_FAST_PATH_H_
