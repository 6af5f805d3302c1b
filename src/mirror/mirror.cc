// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/mirror.h"

#include <linux/sock_diag.h>
#include <poll.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/clock.h"
#include "base/status.h"
#include "mirror/socket_count.h"
#include "mirror/sweep.h"

namespace utproxy {
namespace {

constexpr size_t kFeedCapacity = 1 << 16;
// Waking up for every socket that comes or goes would cost more than the news is worth: what comes
// within this time is taken together. A worker that misses a socket meanwhile asks the kernel.
constexpr int kGatherMs = 1;
constexpr int kRetryMs = 100;
// Between walks of the table for connections that were reset by their own end, at the least.
constexpr int64_t kNamelessNs = 2 * kNsPerMs;
// Dumps of listeners that nobody used, before they become rare.
constexpr int kRestAfterRounds = 10;
constexpr size_t kVerifyTogether = 1024;
constexpr std::array kFamilies = {Family::kIpv4, Family::kIpv6};

absl::StatusOr<NetlinkSocket> OpenEvents(int buffer_bytes) {
  ASSIGN_OR_RETURN(NetlinkSocket events, NetlinkSocket::Open(NETLINK_SOCK_DIAG));
  RETURN_IF_ERROR(events.SetReceiveBuffer(buffer_bytes).status());
  for (const unsigned group : {SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET_UDP_DESTROY,
                               SKNLGRP_INET6_TCP_DESTROY, SKNLGRP_INET6_UDP_DESTROY}) {
    RETURN_IF_ERROR(events.JoinGroup(group));
  }
  return events;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Mirror>> Mirror::Start(const Options& options) {
  // Events first: whatever ends while the first dumps run is then known to have ended.
  ASSIGN_OR_RETURN(NetlinkSocket events, OpenEvents(options.event_buffer_bytes));
  ASSIGN_OR_RETURN(std::unique_ptr<SocketTable> table,
                   SocketTable::Create({.max_sockets = options.max_sockets}));
  ASSIGN_OR_RETURN(std::unique_ptr<Interfaces> interfaces, Interfaces::Open());
  ASSIGN_OR_RETURN(std::unique_ptr<Feed> feed, Feed::Create(kFeedCapacity));
  ASSIGN_OR_RETURN(DiagClient client, DiagClient::Open());
  ASSIGN_OR_RETURN(EventFd stop, EventFd::Create());
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
               NetlinkSocket events, DiagClient client, EventFd stop)
    : options_(options),
      table_(std::move(table)),
      interfaces_(std::move(interfaces)),
      feed_(std::move(feed)),
      events_(std::move(events)),
      client_(std::move(client)),
      stop_(std::move(stop)),
      writer_(table_.get(), &epochs_) {}

Mirror::~Mirror() {
  stop_.Raise();
  if (thread_.joinable()) thread_.join();
  if (interface_thread_.joinable()) interface_thread_.join();
}

void Mirror::FollowInterfaces() {
  ::prctl(PR_SET_NAME, "utproxy-ifaces");
  std::array<pollfd, 2> fds{{{.fd = stop_.fd(), .events = POLLIN, .revents = 0},
                             {.fd = interfaces_->event_fd(), .events = POLLIN, .revents = 0}}};
  bool current = true;
  while (true) {
    (void)::poll(fds.data(), fds.size(), current ? -1 : kRetryMs);
    if ((fds[0].revents & POLLIN) != 0) return;
    const uint64_t before = interfaces_->generation();
    const absl::Status status = interfaces_->Update();
    Note(status);
    current = status.ok();
    if (options_.changed != nullptr && interfaces_->generation() != before) {
      options_.changed->Raise();
    }
  }
}

void Mirror::Loop() {
  ::prctl(PR_SET_NAME, "utproxy-mirror");
  std::array<pollfd, 3> fds{{{.fd = stop_.fd(), .events = POLLIN, .revents = 0},
                             {.fd = feed_->fd(), .events = POLLIN, .revents = 0},
                             {.fd = events_.fd(), .events = POLLIN, .revents = 0}}};
  while (true) {
    const bool news = ::poll(fds.data(), fds.size(), PollTimeoutMs()) > 0;
    if ((fds[0].revents & POLLIN) != 0) return;
    TakeNews();
    const int64_t now = MonotonicNs();
    Note(RunDue(now));
    writer_.Expire(now);
    counters_.rejected.store(writer_.rejected(), std::memory_order_relaxed);
    TellChanges();
    if (news) (void)::poll(fds.data(), 1, kGatherMs);
  }
}

void Mirror::TellChanges() {
  const uint64_t changes = epochs_.Changes();
  if (options_.changed != nullptr && changes != told_) options_.changed->Raise();
  told_ = changes;
}

int Mirror::PollTimeoutMs() const {
  int64_t next = std::min({tcp_.next_ns, udp_.next_ns, sweep_.next_ns});
  if (lost_) next = std::min(next, resync_.next_ns);
  if (writer_.has_nameless()) next = std::min(next, nameless_.next_ns);
  return static_cast<int>(std::clamp<int64_t>((next - MonotonicNs()) / kNsPerMs + 1, 0, 1000));
}

absl::Status Mirror::RunDue(int64_t now_ns) {
  absl::Status status;
  const int64_t begin = ThreadCpuNs();
  const bool resync = lost_ && now_ns >= resync_.next_ns;
  if (resync) {
    lost_ = false;  // what is lost from here on, during the dumps too, asks for further ones
    tcp_.next_ns = udp_.next_ns = sweep_.next_ns = now_ns;
  }
  const bool called = unused_rounds_ >= kRestAfterRounds && !rests_.load(std::memory_order_relaxed);
  if (called || now_ns >= tcp_.next_ns) {
    const int64_t interval = ListenerIntervalNs();
    status.Update(RefreshBound(Proto::kTcp));
    tcp_.Ended(interval, options_.tcp_cost_factor, begin);
  }
  if (now_ns >= udp_.next_ns) {
    const int64_t start = ThreadCpuNs();
    status.Update(RefreshBound(Proto::kUdp));
    udp_.Ended(options_.udp_refresh_ns, options_.udp_cost_factor, start);
  }
  if (now_ns >= sweep_.next_ns) {
    const int64_t start = ThreadCpuNs();
    status.Update(SweepConnections());
    sweep_.Ended(options_.min_sweep_ns, options_.sweep_cost_factor, start);
  }
  if (writer_.has_nameless() && now_ns >= nameless_.next_ns) {
    const int64_t start = ThreadCpuNs();
    writer_.EndNameless();
    nameless_.Ended(kNamelessNs, options_.sweep_cost_factor, start);
  }
  if (resync) resync_.Ended(0, options_.resync_cost_factor, begin);
  return status;
}

int64_t Mirror::ListenerIntervalNs() {
  const bool used = used_.exchange(false, std::memory_order_relaxed);
  unused_rounds_ = used ? 0 : std::min(unused_rounds_ + 1, kRestAfterRounds);
  const bool rests = unused_rounds_ == kRestAfterRounds;
  rests_.store(rests, std::memory_order_relaxed);
  return rests ? options_.tcp_listener_rest_ns : options_.tcp_listener_refresh_ns;
}

void Mirror::Round::Ended(int64_t interval_ns, int64_t cost_factor, int64_t begin_cpu_ns) {
  const int64_t cost = ThreadCpuNs() - begin_cpu_ns;
  next_ns = MonotonicNs() + std::max(interval_ns, cost_factor * std::min(cost, last_cost_ns));
  last_cost_ns = cost;
}

absl::Status Mirror::RefreshBound(Proto proto) {
  const uint32_t states = proto == Proto::kTcp ? kListenStates : kAllStates;
  const int64_t begin_ns = MonotonicNs();
  for (const Family family : kFamilies) {
    scratch_.clear();
    RETURN_IF_ERROR(client_.Dump(family, proto, states,
                                 [&](const Socket& socket) { scratch_.push_back(socket); }));
    writer_.ReplaceBound(family, proto, scratch_);
  }
  (proto == Proto::kTcp ? listeners_dumped_ns_ : udp_dumped_ns_) = begin_ns;
  counters_.last_refresh_ns.store(std::min(listeners_dumped_ns_, udp_dumped_ns_),
                                  std::memory_order_release);
  return absl::OkStatus();
}

absl::Status Mirror::SweepConnections() {
  const int64_t start = MonotonicNs();
  const std::shared_ptr<const InterfaceSnapshot> interfaces = interfaces_->Get();
  table_->Reserve(CountTcpSockets());
  Sweep sweep(&writer_, interfaces.get(), start);
  // What ends while the dump runs becomes known at once. A socket that the dump still shows is not
  // brought back by it: the writer remembers for a while what has ended.
  RETURN_IF_ERROR(DumpConnections(&client_, &sweep, [this] { TakeNews(); }));
  VerifyMissing(sweep.Finish());
  const int64_t end = MonotonicNs();
  counters_.sweep_cost_ns.store(end - start, std::memory_order_relaxed);
  counters_.last_sweep_ns.store(end, std::memory_order_relaxed);
  return absl::OkStatus();
}

void Mirror::VerifyMissing(absl::Span<const Socket> missing) {
  for (; !missing.empty(); missing.remove_prefix(std::min(missing.size(), kVerifyTogether))) {
    VerifySome(missing.subspan(0, kVerifyTogether));
    TakeNews();
  }
}

void Mirror::VerifySome(absl::Span<const Socket> missing) {
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
}

void Mirror::TakeNews() {
  counters_.beats.fetch_add(1, std::memory_order_relaxed);
  TakeFeed();
  TakeEvents();
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
      lost_ = true;
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
  s.last_refresh_ns = counters_.last_refresh_ns.load(std::memory_order_acquire);
  s.last_sweep_ns = counters_.last_sweep_ns.load(std::memory_order_relaxed);
  s.sweep_cost_ns = counters_.sweep_cost_ns.load(std::memory_order_relaxed);
  return s;
}

}  // namespace utproxy
