// SPDX-License-Identifier: GPL-3.0-or-later
#include "churn/driver.h"

#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/clock.h"
#include "churn/connections.h"
#include "churn/listeners.h"

namespace utproxy::churn {
namespace {

constexpr uint16_t kMarkerSport = 999;
constexpr uint16_t kTcpPorts = 100, kConnectionPorts = 200,
                   kMarkerPort = 300;  // from first_port on
// So many verdicts may be missing. With a batch of them the kernel is asked about each one still
// (see Decider::kCheckBurst).
constexpr size_t kMostOutstanding = 128;
constexpr int kPacketsAMarker = 8;
constexpr int64_t kMarkerAfterNs = 300'000;
constexpr int64_t kHousekeepingNs = 500'000;
constexpr int64_t kLateNs = 20 * kNsPerMs;  // a debt of more is not made up for
constexpr int64_t kNoVerdictNs = 10 * kNsPerSec;
constexpr int64_t kProgressNs = 10 * kNsPerSec;

// Packets of one sender that is moved between processors may overtake each other.
void StayOnThisCpu() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(::sched_getcpu()), &set);
  if (::sched_setaffinity(0, sizeof set, &set) != 0) Die("sched_setaffinity");
}

}  // namespace

uint64_t ChangesMade(const World& world) {
  uint64_t sum = 0;
  for (const auto& [what, count] : world.changes) sum += count;
  return sum;
}

Driver::Driver(const DriverOptions& options, const Addresses& addresses, UniqueFd client)
    : options_(options),
      world_{.addresses = addresses},
      client_(std::move(client)),
      judge_(options.late_ms * kNsPerMs, options.self_test) {
  const uint16_t first = options.first_port;
  const auto port = [&](int base, int i) { return static_cast<uint16_t>(first + base + i); };
  for (int i = 0; i < options.udp_places; ++i) {
    places_.push_back(std::make_unique<ListenerPlace>(&world_, Proto::kUdp, port(0, i)));
  }
  for (int i = 0; i < options.tcp_places; ++i) {
    places_.push_back(std::make_unique<ListenerPlace>(&world_, Proto::kTcp, port(kTcpPorts, i)));
  }
  for (int i = 0; i < options.connection_places; ++i) {
    places_.push_back(
        std::make_unique<ConnectionPlace>(&world_, port(kConnectionPorts, i), &client_));
  }
  marker_listener_ = NewSocket(Proto::kUdp, Serves::kIpv4, world_.NewMark());
  if (!BindTo(marker_listener_, Serves::kIpv4, Address(), port(kMarkerPort, 0))) Die("bind");
  InNamespace(client_, [&] { injector_ = std::make_unique<Injector>(world_.addresses); });
  StayOnThisCpu();
  ::prctl(PR_SET_TIMERSLACK, 1000);
}

void Driver::ReadLog() {
  log_.Read([this](const LoggedPacket& packet) {
    if (packet.group == LogReader::kArrived) {
      judge_.Arrived(packet.id);
    } else {
      judge_.Delivered(packet.id, packet.mark, MonotonicNs());
    }
  });
}

void Driver::SendProbe() {
  Place& place = *places_[world_.Below(places_.size())];
  Probe probe;
  if (!place.ChooseProbe(&probe)) return;
  const uint32_t id = judge_.Sending(probe, place.timeline(), MonotonicNs());
  if (!injector_->Send(probe, place.port(), id)) return judge_.NotSent();
  ++unmarked_;
}

void Driver::SendMarker() {
  const Probe probe{.family = Family::kIpv4, .proto = Proto::kUdp, .sport = kMarkerSport};
  marked_ns_ = MonotonicNs();
  const uint32_t id = judge_.Sending(probe, nullptr, marked_ns_);
  const auto port = static_cast<uint16_t>(options_.first_port + kMarkerPort);
  if (!injector_->Send(probe, port, id)) return judge_.NotSent();
  unmarked_ = 0;
}

void Driver::Run(const volatile std::sig_atomic_t* stop) {
  began_ns_ = MonotonicNs();
  const auto length_ns = static_cast<int64_t>(options_.seconds * static_cast<double>(kNsPerSec));
  change_due_ns_ = packet_due_ns_ = housekeeping_due_ns_ = marked_ns_ = began_ns_;
  progress_due_ns_ = began_ns_ + kProgressNs;
  for (int64_t now_ns = began_ns_; *stop == 0 && now_ns < began_ns_ + length_ns;
       now_ns = MonotonicNs()) {
    ReadLog();
    Step(now_ns);
  }
  seconds_run_ = static_cast<double>(MonotonicNs() - began_ns_) / static_cast<double>(kNsPerSec);
  Drain();
}

void Driver::Step(int64_t now_ns) {
  bool idle = true;
  if (now_ns >= housekeeping_due_ns_) Housekeep(now_ns);
  if (now_ns >= change_due_ns_) {
    places_[world_.Below(places_.size())]->ChangeSomething();
    change_due_ns_ =
        std::max(change_due_ns_ + kNsPerSec / options_.changes_per_second, now_ns - kLateNs);
    idle = false;
  }
  const bool full = judge_.outstanding() >= kMostOutstanding;
  if (now_ns >= packet_due_ns_ && !full) {
    SendProbe();
    packet_due_ns_ =
        std::max(packet_due_ns_ + kNsPerSec / options_.packets_per_second, now_ns - kLateNs);
    idle = false;
  }
  const bool wait_for_verdicts = judge_.outstanding() > 0 && now_ns - marked_ns_ > kMarkerAfterNs;
  if (unmarked_ >= kPacketsAMarker || (wait_for_verdicts && !full) ||
      (full && now_ns - marked_ns_ > kNsPerSec)) {
    SendMarker();
  }
  if (idle) WaitFor(full ? change_due_ns_ : std::min(change_due_ns_, packet_due_ns_));
}

void Driver::Housekeep(int64_t now_ns) {
  housekeeping_due_ns_ = now_ns + kHousekeepingNs;
  const int64_t oldest_ns = judge_.OldestNs(now_ns);
  for (const auto& place : places_) {
    place->Attend(now_ns);
    place->timeline()->Forget(oldest_ns - options_.late_ms * kNsPerMs);
  }
  if (now_ns - oldest_ns > kNoVerdictNs) {
    errno = ETIMEDOUT;
    Die("no verdict for 10 s");
  }
  if (options_.progress && now_ns >= progress_due_ns_) PrintProgress(now_ns);
}

void Driver::PrintProgress(int64_t now_ns) {
  progress_due_ns_ += kProgressNs;
  const Judge::Report& report = judge_.report();
  std::fprintf(stderr, "%4lld s: %llu changes, %llu packets judged, %llu wrong\n",
               static_cast<long long>((now_ns - began_ns_) / kNsPerSec),
               static_cast<unsigned long long>(ChangesMade(world_)),
               static_cast<unsigned long long>(report.judged),
               static_cast<unsigned long long>(report.wrong()));
}

// Until the next change or packet is due, or something is logged; 200 µs while verdicts are
// missing.
void Driver::WaitFor(int64_t until_ns) {
  int64_t wait_ns = until_ns - MonotonicNs();
  if (judge_.outstanding() > 0) wait_ns = std::min<int64_t>(wait_ns, 200'000);
  if (wait_ns <= 0) return;
  const timespec wait{.tv_sec = 0, .tv_nsec = std::min<int64_t>(wait_ns, kNsPerSec - 1)};
  pollfd log{.fd = log_.fd(), .events = POLLIN};
  ::ppoll(&log, 1, &wait, nullptr);
}

void Driver::Drain() {
  const int64_t end_ns = MonotonicNs() + kNoVerdictNs;
  while (judge_.outstanding() > 0 && MonotonicNs() < end_ns) {
    if (judge_.outstanding() < kMostOutstanding) SendMarker();
    WaitFor(MonotonicNs() + kNsPerMs);
    ReadLog();
  }
}

}  // namespace utproxy::churn
