// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/fast_path.h"

#include <poll.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "ruleset/nft_batch.h"
#include "ruleset/plan.h"

namespace utproxy {
namespace {

// Between two looks at changes, and before the second emptying of the sets of flows; longer than a
// batch is decided.
constexpr int kRoundMs = 10;
// Where nothing changes.
constexpr int kIdleMs = 500;
// Between two looks at whether others have changed the rules.
constexpr int64_t kLookNs = 400'000'000;

// The rules carry a flow for so long by one decision, and its datagrams are not seen meanwhile.
static_assert(Steering::kWholeUdpLifetimeNs > int64_t{kFlowTimeoutMs} * 1'000'000);

}  // namespace

absl::StatusOr<std::unique_ptr<FastPath>> FastPath::Start(const Mirror* mirror,
                                                          const Steering* steering,
                                                          const EventFd* changed,
                                                          std::vector<uint16_t> on_ports,
                                                          NetlinkSocket* nft) {
  ASSIGN_OR_RETURN(DiagClient client, DiagClient::Open());
  ASSIGN_OR_RETURN(EventFd stop, EventFd::Create());
  auto fast = std::unique_ptr<FastPath>(new FastPath(mirror, steering, changed, std::move(on_ports),
                                                     std::move(client), std::move(stop)));
  fast->nft_ = nft;
  if (nft == nullptr) {
    ASSIGN_OR_RETURN(NetlinkSocket own, OpenNftSocket());
    fast->own_nft_.emplace(std::move(own));
    fast->nft_ = &*fast->own_nft_;
  }
  fast->Round(MonotonicNs());
  fast->thread_ = std::thread([f = fast.get()] { f->Loop(); });
  return fast;
}

void FastPath::Stop() {
  if (!thread_.joinable()) return;
  stop_.Raise();
  thread_.join();
  // Without this daemon's entries a flow could lead to another socket.
  (void)ForgetDecidedFlows(*nft_);
}

void FastPath::Loop() {
  ::prctl(PR_SET_NAME, "utproxy-fast");
  std::array<pollfd, 2> fds{{{.fd = stop_.fd(), .events = POLLIN, .revents = 0},
                             {.fd = changed_->fd(), .events = POLLIN, .revents = 0}}};
  while (true) {
    // Who wakes up without need takes more from the traffic beside than the time that it runs.
    if (!unsettled()) (void)::poll(fds.data(), fds.size(), kIdleMs);
    changed_->Clear();
    Round(MonotonicNs());
    beats_.fetch_add(1, std::memory_order_relaxed);
    (void)::poll(fds.data(), 1, kRoundMs);
    if ((fds[0].revents & POLLIN) != 0) return;
  }
}

void FastPath::Round(int64_t now_ns) {
  if (now_ns < retry_ns_) return;
  FollowListeners(now_ns);
  FollowFlows(now_ns);
  settled_flows_.store(flush_again_ ? kNever : circumstances_.value_or(kNever),
                       std::memory_order_relaxed);
  settled_listeners_.store(listeners_seen_.value_or(kNever), std::memory_order_relaxed);
}

bool FastPath::behind() const {
  return settled_listeners_.load(std::memory_order_relaxed) != mirror_->udp_epochs().Listeners() ||
         settled_flows_.load(std::memory_order_relaxed) != Circumstances();
}

// There is something to do again although nothing more changes.
bool FastPath::unsettled() const {
  return !listeners_seen_ || flush_again_ || circumstances_ != Circumstances();
}

void FastPath::FollowListeners(int64_t now_ns) {
  // Read before the sockets are: a change in between is then seen the next time.
  const uint64_t seen = mirror_->udp_epochs().Listeners();
  const bool others = OthersChangedRules(now_ns);
  if (listeners_seen_ == seen && !others) return;
  absl::StatusOr<std::vector<ListenerPlace>> places = BoundListeners();
  absl::Status status = places.status();
  if (status.ok() && (listed_ != *places || (others && !places->empty()))) {
    listed_.reset();
    status = ReplaceListeners(*nft_, *places);
    if (status.ok()) ++generation_;
  }
  if (!status.ok()) {
    listeners_seen_.reset();
    retry_ns_ = now_ns + kNsPerSec;
    return;
  }
  listed_ = std::move(*places);
  listeners_seen_ = seen;
}

// They may have made the sets anew, or emptied them. The first look counts as a change.
bool FastPath::OthersChangedRules(int64_t now_ns) {
  if (looked_ns_ != 0 && now_ns - looked_ns_ < kLookNs) return false;
  looked_ns_ = now_ns;
  const absl::StatusOr<uint32_t> generation = RulesetGeneration(*nft_);
  return generation.ok() && std::exchange(generation_, *generation) != *generation;
}

absl::StatusOr<std::vector<ListenerPlace>> FastPath::BoundListeners() {
  std::vector<ListenerPlace> places;
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    RETURN_IF_ERROR(client_.Dump(family, Proto::kTcp, kListenStates, [&](const Socket& socket) {
      if (!socket.transparent() || socket.local.IsUnspecified()) return;
      places.push_back({socket.local, socket.local_port});
    }));
  }
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());
  return places;
}

void FastPath::FollowFlows(int64_t now_ns) {
  const uint64_t circumstances = Circumstances();
  flush_tokens_.Refill(now_ns);
  const bool changed = circumstances_ != circumstances;
  if (!flush_again_ && !(changed && flush_tokens_.Take())) return;
  if (!ForgetDecidedFlows(*nft_).ok()) {
    circumstances_.reset();
    retry_ns_ = now_ns + kNsPerSec;
    return;
  }
  ++generation_;
  flushes_.fetch_add(1, std::memory_order_relaxed);
  flush_again_ = changed;
  circumstances_ = circumstances;
}

// A number that changes with all that a decision about a flow rests on.
uint64_t FastPath::Circumstances() const {
  const UdpEpochs& epochs = mirror_->udp_epochs();
  uint64_t sum = mirror_->interfaces().generation() + epochs.Left();
  for (const uint16_t port : on_ports_) sum += port != 0 ? epochs.Get(port) : epochs.Sum();
  if (steering_ != nullptr) sum += steering_->gone_early();
  return sum;
}

}  // namespace utproxy
