// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_STEER_STEERING_H_
#define UTPROXY_STEER_STEERING_H_

#include <absl/container/inlined_vector.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/event_fd.h"
#include "steer/bpf_flow_map.h"
#include "steer/flow_index.h"
#include "steer/listener_sockets.h"
#include "steer/program.h"
#include "utproxy/flow.h"

namespace utproxy {

// A flow whose unestablished packets are to reach a listener that their own port and address need
// not lead to. `flow` as the packet has it: local is its destination. `iif`: the index of the
// interface that the packet came in by.
struct SteerRequest {
  FlowKey flow;
  uint64_t listener_cookie = 0;
  uint32_t listener_inode = 0;
  uint32_t iif = 0;
  // The entry may be for all flows to this destination that come in by this interface and have none
  // of their own, until five seconds after its last use. Costs less than an entry each, but leads
  // packets that nobody has decided for: only where every packet to the destination that is
  // delivered here would be decided the same.
  bool whole_destination = false;
};

enum class SteerResult : uint8_t {
  kSteered,              // the entry stands and the listener's socket is held
  kListenerGone,         // the listener has closed since it was decided for
  kListenerUnreachable,  // the listener's socket cannot be had (see Steering::listener_error)
  kFull,                 // no room, and every entry has been used a moment ago
  kFailed,               // the kernel refused the entry
};

// Pins packets to listeners as the kernel's TPROXY does by assigning a socket to the packet: by an
// entry for each flow that an sk_lookup program reads. Established connections and connected UDP
// sockets are found before the program runs and need no entry any more.
//
// The program sees neither marks nor TCP flags, so the key is the whole flow: only packets that
// were decided for are affected. A flow without an entry, or whose listener has closed, is left to
// the kernel's own lookup, and counted.
//
// Nothing is pinned in /sys/fs/bpf: all of it ends with this object or with the process, but for
// what another process has inherited.
//
// Any thread may call any function at any time, except where it says otherwise.
class Steering {
 public:
  struct Options {
    // About 110 bytes each in the kernel, taken at once (29 MB by default), and as many in user
    // space when they are used.
    uint32_t max_flows = 262144;
    uint32_t max_listeners = 4096;
    // How long entries live after their last Steer(). Strictly, an entry has done its work when its
    // packet has been delivered, for the next one passes Steer() again unless it finds a socket of
    // its own; but a rule such as nft's `socket transparent` that keeps packets from the queue
    // finds sockets by the entries too. TCP: until the handshake must be over, with all
    // retransmissions of the SYN-ACK, after which the client's ACK still needs the listener where
    // SYN cookies are in use. 0: computed from net.ipv4.tcp_synack_retries, 75 s with its default
    // of 5.
    int64_t tcp_lifetime_ns = 0;
    // UDP: as conntrack long kept a flow that goes both ways (120 s in newer kernels).
    int64_t udp_lifetime_ns = 180'000'000'000;
    // Where there is no room the least recently used entry is evicted, but none that was used
    // within this time: its packet may not have been delivered yet. With it, and the default size,
    // a quarter of a million new flows a second find room. No less than a flow is remembered for
    // without Steer() being called again (FlowCache::kSettledNs).
    int64_t evict_idle_ns = 1'000'000'000;
    // Whether listeners are found by iterating over the kernel's sockets, where the kernel can do
    // that. Otherwise they are had from their owners, for which there must be the right.
    bool find_in_kernel = true;
  };

  // Of an entry for a whole destination, since the last Steer() that it served. Longer than the
  // fast path's rules carry a flow by one decision, whose datagrams Steer() does not see meanwhile.
  static constexpr int64_t kWholeUdpLifetimeNs = 25'000'000'000;

  struct Stats {
    FlowIndex::Stats flows;
    ListenerSockets::Stats listeners;
    SkLookupProgram::Counters program;
  };

  // Loads the program and attaches it to the calling thread's network namespace. Errors carry a
  // remedy: kUnimplemented before Linux 5.9, kPermissionDenied without CAP_BPF and CAP_NET_ADMIN.
  static absl::StatusOr<std::unique_ptr<Steering>> Open(const Options& options);
  // The same with the maps of another process, whose program goes on doing the work until
  // TakeOver(), and is then replaced. FailedPrecondition where the other is of a version whose maps
  // are not laid out as this one's.
  static absl::StatusOr<std::unique_ptr<Steering>> Inherit(const Options& options,
                                                           SteeringParts parts);
  // Takes the other process's entries in, as used now. It may not steer any more by then, and
  // nothing else may be called here before.
  absl::Status TakeOver();
  // What Inherit() takes: borrowed descriptors, by what they are.
  std::vector<std::pair<std::string, int>> Parts() const;

  // results[i] is for requests[i]; both have the same size. When it returns, every entry reported
  // kSteered stands, and a verdict may be given. A flow that has its entry already costs no system
  // call, and its lifetime begins anew; another listener than before replaces the earlier one. A
  // flow may occur more than once; with different listeners, one of them will have it.
  void Steer(absl::Span<const SteerRequest> requests, absl::Span<SteerResult> results);

  // Takes the flow's entry away, where it has one, and its destination's: its next packet is for
  // the kernel's own lookup.
  // When it returns, no packet that comes later finds the entry. A system call only where there
  // is one.
  void Release(const FlowKey& flow, uint32_t iif);

  // Whether the listener's socket can be had (and is then held in the program's map): OK, or why
  // not. What Steer() would find for a flow to it.
  absl::Status Reach(uint64_t listener_cookie, uint32_t listener_inode, Proto proto);

  // Whether all requests from now on follow one policy. Where they do not, flows to one destination
  // may have different listeners, and each has an entry of its own. True at first.
  void SetOnePolicy(bool one) { one_policy_.store(one, std::memory_order_relaxed); }

  // Whether the flow has an entry. No system call.
  bool Contains(const FlowKey& flow, uint32_t iif) const { return ListenerOf(flow, iif) != 0; }
  // The cookie of the listener that the flow's entry, or its destination's, leads to; 0 where there
  // is none.
  uint64_t ListenerOf(const FlowKey& flow, uint32_t iif) const;

  // Rises when entries go before their time: by Release(), or for want of room. No system call.
  uint64_t gone_early() const { return index_.gone_early(); }
  // Raised when that has risen; outlives this. Before anybody steers.
  void SetGoneEarlyEvent(const EventFd* event) { gone_early_event_ = event; }

  // Erases entries that have outlived their time. `now_ns`: CLOCK_MONOTONIC. About once a second,
  // by one thread.
  void Expire(int64_t now_ns);

  // Whether listeners are found in the kernel, and not taken from their owners, which needs
  // CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
  bool finds_in_kernel() const { return listeners_.finds_in_kernel(); }
  // The kernel's id of the sk_lookup program; 0 where it does not tell.
  uint32_t program_id() const { return program_.id(); }

  Stats stats() const;
  // Why a listener's socket could not be had the last time that happened; OK where it never did.
  absl::Status listener_error() const { return listeners_.last_error(); }

 private:
  using Keys = absl::InlinedVector<FlowKey, 64>;
  using Positions = absl::InlinedVector<uint32_t, 32>;

  Steering(SkLookupProgram program, std::optional<ListenerFinder> finder,
           const FlowIndex::Options& options);
  static std::unique_ptr<Steering> Make(const Options& options, SkLookupProgram program);
  FlowKey KeyOf(const FlowKey& flow, uint32_t iif) const;
  FlowKey KeyOf(const SteerRequest& request, int64_t now_ns);
  bool MayLeadDestinations(int64_t now_ns);
  void TellGoneEarly(uint64_t before) const;
  void PutFresh(absl::Span<const SteerRequest> requests, const Keys& keys, const Positions& fresh,
                absl::Span<SteerResult> results, int64_t now_ns);

  SkLookupProgram program_;
  BpfFlowMap map_;
  FlowIndex index_;
  ListenerSockets listeners_;
  const EventFd* gone_early_event_ = nullptr;
  std::atomic<bool> one_policy_{true};
  // Whether there may be one, and when that was last looked at.
  std::atomic<bool> alone_{false};
  std::atomic<int64_t> alone_at_ns_{0};
};

// The lifetime of a TCP entry for a number of SYN-ACK retransmissions (tcp_synack_retries, 0..255):
// time-outs of 1, 2, 4, … up to 120 s (TCP_RTO_MAX), the last one waited for as well, and 12 s for
// the answer to come. At most ten minutes.
int64_t TcpLifetimeNs(int synack_retries);

}  // namespace utproxy

#endif  // UTPROXY_STEER_STEERING_H_
