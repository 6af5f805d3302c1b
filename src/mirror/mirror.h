// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_MIRROR_MIRROR_H_
#define UTPROXY_MIRROR_MIRROR_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "base/event_fd.h"
#include "mirror/feed.h"
#include "mirror/interfaces.h"
#include "mirror/table_writer.h"
#include "netlink/diag_client.h"
#include "netlink/socket.h"
#include "utproxy/socket_table.h"

namespace utproxy {

// What the mirror has done so far. Times in CLOCK_MONOTONIC nanoseconds.
struct MirrorStats {
  uint64_t sockets = 0;
  uint64_t bytes = 0;  // of the table
  uint64_t destroy_events = 0;
  uint64_t lost_events = 0;   // times the kernel said that destroy events were lost
  uint64_t learned = 0;       // sockets taken from exact answers
  uint64_t feed_dropped = 0;  // of those, not taken for want of room
  uint64_t rejected = 0;      // sockets that found the table full
  uint64_t failures = 0;      // dumps that failed
  // The begin of the last dump of listeners or of that of UDP sockets, whichever is older: what
  // was changed before is in the mirror, but for connections. 0: there was none.
  int64_t last_refresh_ns = 0;
  int64_t last_sweep_ns = 0;  // the end of the last dump of connections
  int64_t sweep_cost_ns = 0;  // how long that took
};

// Mirrors the kernel's sockets of one network namespace, the one of the thread that starts it.
//
// One thread is the table's only writer, another follows the interfaces, whose changes must not
// wait for a long dump. It dumps listeners and UDP sockets often
// (cheap), connections seldom (a walk of the whole established hash), follows the kernel's
// destroy events, and takes in what workers learn by exact queries. The mirror may therefore lag
// behind the kernel; who uses it must ask the kernel where that could matter (see
// src/engine/decider.h).
class Mirror {
 public:
  struct Options {
    size_t max_sockets = size_t{1} << 22;
    int64_t tcp_listener_refresh_ns = 10'000'000;
    int64_t udp_refresh_ns = 50'000'000;
    // Of listeners, when nobody has called NoteUse() for a while: a thread that wakes up a hundred
    // times a second takes a tenth of what passes by the fast path meanwhile.
    int64_t tcp_listener_rest_ns = 50'000'000;
    int64_t min_sweep_ns = 5'000'000'000;
    // A dump comes after this many times its own processor time at the earliest: at most 1 % of a
    // core for listeners, 10 % for UDP sockets, 2 % for connections; and, while destroy events are
    // lost over and over, a fifth of a core for all of it.
    int64_t tcp_cost_factor = 100;
    int64_t udp_cost_factor = 10;
    int64_t sweep_cost_factor = 50;
    int64_t resync_cost_factor = 4;
    // Room for destroy events that wait; the kernel doubles it, and takes about 1 KB for each.
    int event_buffer_bytes = 16 << 20;
    // Raised when udp_epochs() or the interfaces have changed; may be null, else outlives this.
    const EventFd* changed = nullptr;
  };

  // Dumps everything once, so that the table is complete when this returns, and starts the thread.
  static absl::StatusOr<std::unique_ptr<Mirror>> Start(const Options& options);
  ~Mirror();
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  // All of these from any thread.
  const SocketTable& table() const { return *table_; }
  const Interfaces& interfaces() const { return *interfaces_; }
  const UdpEpochs& udp_epochs() const { return epochs_; }
  Feed& feed() { return *feed_; }
  // Packets are about to be decided: listeners are dumped as often as that needs, and at once where
  // they were not. Costs no system call but after a rest.
  void NoteUse() {
    if (!used_.load(std::memory_order_relaxed)) used_.store(true, std::memory_order_relaxed);
    if (!rests_.load(std::memory_order_relaxed)) return;
    if (rests_.exchange(false, std::memory_order_relaxed)) feed_->Wake();
  }
  MirrorStats stats() const;
  // Rises while the mirror's thread goes on, at least once a second or so, during dumps too.
  uint64_t beats() const { return counters_.beats.load(std::memory_order_relaxed); }

 private:
  struct Counters {
    std::atomic<uint64_t> destroy_events{0}, lost_events{0}, learned{0}, rejected{0}, failures{0},
        beats{0};
    std::atomic<int64_t> last_refresh_ns{0}, last_sweep_ns{0}, sweep_cost_ns{0};
  };

  // When something that costs processor time is due.
  struct Round {
    int64_t next_ns = 0;
    int64_t last_cost_ns = std::numeric_limits<int64_t>::max();
    // It has just ended, and began when this thread had taken `begin_cpu_ns`: next, when what the
    // options say of interval and cost factor has passed. Of the last two costs the lower counts,
    // as the kernel lets a thread pay for interrupts, too.
    void Ended(int64_t interval_ns, int64_t cost_factor, int64_t begin_cpu_ns);
  };

  Mirror(const Options& options, std::unique_ptr<SocketTable> table,
         std::unique_ptr<Interfaces> interfaces, std::unique_ptr<Feed> feed, NetlinkSocket events,
         DiagClient client, EventFd stop);

  void Loop();
  void FollowInterfaces();
  int PollTimeoutMs() const;
  absl::Status RunDue(int64_t now_ns);
  absl::Status RefreshBound(Proto proto);
  absl::Status SweepConnections();
  // Asks the kernel about sockets that a sweep did not see, and forgets those that have gone.
  void VerifyMissing(absl::Span<const Socket> missing);
  void VerifySome(absl::Span<const Socket> missing);
  // The feed before the events: an answer from before a socket's end must not follow its end.
  void TakeNews();
  void TakeFeed();
  void TakeEvents();
  int64_t ListenerIntervalNs();
  void TellChanges();
  void Note(const absl::Status& status);

  const Options options_;
  std::unique_ptr<SocketTable> table_;
  std::unique_ptr<Interfaces> interfaces_;
  std::unique_ptr<Feed> feed_;
  NetlinkSocket events_;
  DiagClient client_;
  EventFd stop_;
  UdpEpochs epochs_;
  TableWriter writer_;
  std::atomic<bool> used_{false};   // since the last dump of listeners
  std::atomic<bool> rests_{false};  // they are not dumped often
  int unused_rounds_ = 0;
  Counters counters_;
  std::vector<Socket> scratch_;
  Round tcp_, udp_, sweep_, resync_, nameless_;
  uint64_t told_ = 0;                                    // of epochs_.Changes()
  int64_t listeners_dumped_ns_ = 0, udp_dumped_ns_ = 0;  // when the last of each began
  bool lost_ = false;  // destroy events, since the last resync began
  std::thread thread_;
  std::thread interface_thread_;
};

}  // namespace utproxy

#endif  // UTPROXY_MIRROR_MIRROR_H_
