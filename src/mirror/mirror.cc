// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/mirror.h"

#include <absl/container/flat_hash_set.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/clock.h"
#include "base/status.h"
#include "mirror/socket_count.h"

namespace utproxy {
namespace {

constexpr int kEventBufferBytes = 16 << 20;
constexpr size_t kFeedCapacity = 1 << 16;
// Waking up for every socket that comes or goes would cost more than the news is worth: what comes
// within this time is taken together. A worker that misses a socket meanwhile asks the kernel.
constexpr int kGatherMs = 1;
constexpr int kRetryMs = 100;
constexpr std::array kFamilies = {Family::kIpv4, Family::kIpv6};

absl::StatusOr<NetlinkSocket> OpenEvents() {
  ASSIGN_OR_RETURN(NetlinkSocket events, NetlinkSocket::Open(NETLINK_SOCK_DIAG));
  RETURN_IF_ERROR(events.SetReceiveBuffer(kEventBufferBytes).status());
  for (const unsigned group : {SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET_UDP_DESTROY,
                               SKNLGRP_INET6_TCP_DESTROY, SKNLGRP_INET6_UDP_DESTROY}) {
    RETURN_IF_ERROR(events.JoinGroup(group));
  }
  return events;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Mirror>> Mirror::Start(const Options& options) {
  // Events first: whatever ends while the first dumps run is then known to have ended.
  ASSIGN_OR_RETURN(NetlinkSocket events, OpenEvents());
  ASSIGN_OR_RETURN(std::unique_ptr<SocketTable> table,
                   SocketTable::Create({.max_sockets = options.max_sockets}));
  ASSIGN_OR_RETURN(std::unique_ptr<Interfaces> interfaces, Interfaces::Open());
  ASSIGN_OR_RETURN(std::unique_ptr<Feed> feed, Feed::Create(kFeedCapacity));
  ASSIGN_OR_RETURN(DiagClient client, DiagClient::Open());
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return ErrnoStatus(errno, "create eventfd");
  auto mirror = std::unique_ptr<Mirror>(new Mirror(options, std::move(table), std::move(interfaces),
                                                   std::move(feed), std::move(events),
                                                   std::move(client), std::move(stop)));
  RETURN_IF_ERROR(mirror->RunDue(MonotonicNs()));
  mirror->thread_ = std::thread([m = mirror.get()] { m->Loop(); });
  mirror->interface_thread_ = std::thread([m = mirror.get()] { m->FollowInterfaces(); });
  return mirror;
}

Mirror::Mirror(const Options& options, std::unique_ptr<SocketTable> table,
               std::unique_ptr<Interfaces> interfaces, std::unique_ptr<Feed> feed,
               NetlinkSocket events, DiagClient client, UniqueFd stop)
    : options_(options),
      table_(std::move(table)),
      interfaces_(std::move(interfaces)),
      feed_(std::move(feed)),
      events_(std::move(events)),
      client_(std::move(client)),
      stop_(std::move(stop)),
      writer_(table_.get(), &epochs_) {}

Mirror::~Mirror() {
  (void)::eventfd_write(stop_.get(), 1);
  if (thread_.joinable()) thread_.join();
  if (interface_thread_.joinable()) interface_thread_.join();
}

void Mirror::FollowInterfaces() {
  ::prctl(PR_SET_NAME, "utproxy-ifaces");
  std::array<pollfd, 2> fds{{{.fd = stop_.get(), .events = POLLIN, .revents = 0},
                             {.fd = interfaces_->event_fd(), .events = POLLIN, .revents = 0}}};
  bool current = true;
  while (true) {
    (void)::poll(fds.data(), fds.size(), current ? -1 : kRetryMs);
    if ((fds[0].revents & POLLIN) != 0) return;
    const absl::Status status = interfaces_->Update();
    Note(status);
    current = status.ok();
  }
}

void Mirror::Loop() {
  ::prctl(PR_SET_NAME, "utproxy-mirror");
  std::array<pollfd, 3> fds{{{.fd = stop_.get(), .events = POLLIN, .revents = 0},
                             {.fd = feed_->fd(), .events = POLLIN, .revents = 0},
                             {.fd = events_.fd(), .events = POLLIN, .revents = 0}}};
  while (true) {
    (void)::poll(fds.data(), fds.size(), PollTimeoutMs());
    if ((fds[0].revents & POLLIN) != 0) return;
    // The feed before the events: an answer from before a socket's end must not follow its end.
    if ((fds[1].revents & POLLIN) != 0) TakeFeed();
    if (fds[2].revents != 0) TakeEvents();
    const int64_t now = MonotonicNs();
    Note(RunDue(now));
    writer_.Expire(now);
    counters_.rejected.store(writer_.rejected(), std::memory_order_relaxed);
    (void)::poll(fds.data(), 1, kGatherMs);
  }
}

int Mirror::PollTimeoutMs() const {
  const int64_t next = std::min({next_tcp_ns_, next_udp_ns_, next_sweep_ns_});
  return static_cast<int>(std::clamp<int64_t>((next - MonotonicNs()) / kNsPerMs + 1, 0, 1000));
}

absl::Status Mirror::RunDue(int64_t now_ns) {
  absl::Status status;
  if (now_ns >= next_tcp_ns_) {
    status.Update(RefreshBound(Proto::kTcp));
    next_tcp_ns_ = NextRefresh(now_ns, options_.tcp_listener_refresh_ns);
  }
  if (now_ns >= next_udp_ns_) {
    const int64_t start = MonotonicNs();
    status.Update(RefreshBound(Proto::kUdp));
    next_udp_ns_ = NextRefresh(start, options_.udp_refresh_ns);
  }
  if (now_ns >= next_sweep_ns_) {
    status.Update(Sweep());
    const int64_t cost = counters_.sweep_cost_ns.load(std::memory_order_relaxed);
    next_sweep_ns_ =
        MonotonicNs() + std::max(options_.min_sweep_ns, options_.sweep_cost_factor * cost);
  }
  return status;
}

int64_t Mirror::NextRefresh(int64_t start_ns, int64_t interval_ns) const {
  const int64_t now = MonotonicNs();
  return now + std::max(interval_ns, options_.refresh_cost_factor * (now - start_ns));
}

absl::Status Mirror::RefreshBound(Proto proto) {
  const uint32_t states = proto == Proto::kTcp ? kListenStates : kAllStates;
  for (const Family family : kFamilies) {
    scratch_.clear();
    RETURN_IF_ERROR(client_.Dump(family, proto, states,
                                 [&](const Socket& socket) { scratch_.push_back(socket); }));
    writer_.ReplaceBound(family, proto, scratch_);
  }
  counters_.last_refresh_ns.store(MonotonicNs(), std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status Mirror::Sweep() {
  const int64_t start = MonotonicNs();
  const std::shared_ptr<const InterfaceSnapshot> interfaces = interfaces_->Get();
  const size_t expected = CountTcpSockets();
  table_->Reserve(expected);
  absl::flat_hash_set<uint64_t> cookies;
  cookies.reserve(expected);
  const auto learn = [&] {
    writer_.LearnAll(scratch_, *interfaces, start);
    scratch_.clear();
  };
  scratch_.clear();
  for (const Family family : kFamilies) {
    RETURN_IF_ERROR(
        client_.Dump(family, Proto::kTcp, kAllStates & ~kListenStates, [&](const Socket& socket) {
          cookies.insert(socket.cookie);
          scratch_.push_back(socket);
          if (scratch_.size() == TableWriter::kTogether) learn();
        }));
  }
  learn();
  RETURN_IF_ERROR(VerifyMissing(writer_.Missing(cookies)));
  const int64_t end = MonotonicNs();
  counters_.sweep_cost_ns.store(end - start, std::memory_order_relaxed);
  counters_.last_sweep_ns.store(end, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status Mirror::VerifyMissing(const std::vector<Socket>& missing) {
  for (const Socket& socket : missing) {
    const bool v4 = socket.local.IsV4Mapped();
    client_.AddQuery(v4 ? Family::kIpv4 : Family::kIpv6, socket.key(), socket.ifindex);
  }
  const absl::Span<const ExactReply> replies = client_.Ask();
  for (size_t i = 0; i < missing.size(); ++i) {
    if (!replies[i].answered) continue;
    const bool there = replies[i].socket && replies[i].socket->cookie == missing[i].cookie;
    if (!there) writer_.Forget(missing[i]);
  }
  return absl::OkStatus();
}

void Mirror::TakeFeed() {
  feed_->Take(&scratch_);
  const std::shared_ptr<const InterfaceSnapshot> interfaces = interfaces_->Get();
  const int64_t now = MonotonicNs();
  writer_.LearnAll(scratch_, *interfaces, now);
  counters_.learned.fetch_add(scratch_.size(), std::memory_order_relaxed);
}

void Mirror::TakeEvents() {
  const int64_t now = MonotonicNs();
  const auto handle = [&](const nlmsghdr& message) {
    const std::optional<Socket> socket = ReadDiagMessage(message, Proto::kTcp);
    if (!socket) return;
    counters_.destroy_events.fetch_add(1, std::memory_order_relaxed);
    writer_.Destroyed(*socket, now);
  };
  while (true) {
    const absl::StatusOr<bool> read = events_.ReceiveEvents(handle);
    if (absl::IsResourceExhausted(read.status())) {
      // What was lost is found by dumping everything again.
      counters_.lost_events.fetch_add(1, std::memory_order_relaxed);
      next_tcp_ns_ = next_udp_ns_ = next_sweep_ns_ = 0;
      continue;
    }
    if (!read.ok() || !*read) return Note(read.status());
  }
}

void Mirror::Note(const absl::Status& status) {
  if (!status.ok()) counters_.failures.fetch_add(1, std::memory_order_relaxed);
}

MirrorStats Mirror::stats() const {
  MirrorStats s;
  s.sockets = table_->size();
  s.bytes = table_->stats().bytes;
  s.destroy_events = counters_.destroy_events.load(std::memory_order_relaxed);
  s.lost_events = counters_.lost_events.load(std::memory_order_relaxed);
  s.learned = counters_.learned.load(std::memory_order_relaxed);
  s.feed_dropped = feed_->dropped();
  s.rejected = counters_.rejected.load(std::memory_order_relaxed);
  s.failures = counters_.failures.load(std::memory_order_relaxed);
  s.last_refresh_ns = counters_.last_refresh_ns.load(std::memory_order_relaxed);
  s.last_sweep_ns = counters_.last_sweep_ns.load(std::memory_order_relaxed);
  s.sweep_cost_ns = counters_.sweep_cost_ns.load(std::memory_order_relaxed);
  return s;
}

}  // namespace utproxy
