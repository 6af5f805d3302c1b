// SPDX-License-Identifier: GPL-3.0-or-later
#include "steer/steering.h"

#include <absl/strings/numbers.h>
#include <absl/strings/string_view.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "base/fd.h"
#include "base/status.h"

namespace utproxy {
namespace {

constexpr int kDefaultSynackRetries = 5;
constexpr int64_t kWholeTcpLifetimeNs = 5 * kNsPerSec;

// Of the calling thread's network namespace.
int SynackRetries() {
  const UniqueFd file(::open("/proc/sys/net/ipv4/tcp_synack_retries", O_RDONLY | O_CLOEXEC));
  char text[16];
  const ssize_t len = file.valid() ? ::read(file.get(), text, sizeof text) : -1;
  int retries = 0;
  if (len <= 0 || !absl::SimpleAtoi(absl::string_view(text, static_cast<size_t>(len)), &retries)) {
    return kDefaultSynackRetries;
  }
  return retries;
}

// A listener that a batch names.
struct BatchListener {
  uint64_t cookie;
  uint32_t inode;
  Proto proto;
  bool has_new_flow;
  ListenerSockets::Held held;
};
using BatchListeners = absl::InlinedVector<BatchListener, 4>;

// Batches name few listeners, mostly one.
BatchListener& Find(BatchListeners& listeners, const SteerRequest& request) {
  for (BatchListener& listener : listeners) {
    if (listener.cookie == request.listener_cookie) return listener;
  }
  return listeners.emplace_back(BatchListener{.cookie = request.listener_cookie,
                                              .inode = request.listener_inode,
                                              .proto = request.flow.proto});
}

SteerResult ResultOf(ListenerSockets::Held held) {
  switch (held) {
    case ListenerSockets::Held::kHeld:
      return SteerResult::kSteered;
    case ListenerSockets::Held::kGone:
      return SteerResult::kListenerGone;
    case ListenerSockets::Held::kUnreachable:
      break;
  }
  return SteerResult::kListenerUnreachable;
}

SteerResult ResultOf(FlowIndex::PutResult put) {
  switch (put) {
    case FlowIndex::PutResult::kStands:
      return SteerResult::kSteered;
    case FlowIndex::PutResult::kFull:
      return SteerResult::kFull;
    case FlowIndex::PutResult::kFailed:
      break;
  }
  return SteerResult::kFailed;
}

}  // namespace

int64_t TcpLifetimeNs(int synack_retries) {
  int64_t seconds = 12;
  int64_t timeout = 1;
  for (int i = 0; i <= std::clamp(synack_retries, 0, 255); ++i) {
    seconds += timeout;
    timeout = std::min<int64_t>(2 * timeout, 120);
  }
  return std::min<int64_t>(seconds, 600) * kNsPerSec;
}

absl::StatusOr<std::unique_ptr<Steering>> Steering::Open(const Options& options) {
  if (options.max_flows == 0 || options.max_listeners == 0) {
    return absl::InvalidArgumentError("open steering: room for no flow or no listener");
  }
  ASSIGN_OR_RETURN(SkLookupProgram program,
                   SkLookupProgram::Load(options.max_flows, options.max_listeners));
  return Make(options, std::move(program));
}

absl::StatusOr<std::unique_ptr<Steering>> Steering::Inherit(const Options& options,
                                                            SteeringParts parts) {
  ASSIGN_OR_RETURN(
      SkLookupProgram program,
      SkLookupProgram::Inherit(options.max_flows, options.max_listeners, std::move(parts)));
  return Make(options, std::move(program));
}

absl::Status Steering::TakeOver() {
  const int64_t now_ns = MonotonicCoarseNs();
  RETURN_IF_ERROR(map_.ReadAll([&](const FlowKey& flow, uint64_t cookie) {
    index_.Adopt({.flow = flow, .cookie = cookie}, now_ns);
  }));
  return program_.Replace();
}

std::vector<std::pair<std::string, int>> Steering::Parts() const {
  return {{"link", program_.link_fd()},
          {"flows", program_.flows_fd()},
          {"listeners", program_.listeners_fd()},
          {"counters", program_.counters_fd()}};
}

std::unique_ptr<Steering> Steering::Make(const Options& options, SkLookupProgram program) {
  const FlowIndex::Options index{.max_flows = options.max_flows,
                                 .tcp_lifetime_ns = options.tcp_lifetime_ns != 0
                                                        ? options.tcp_lifetime_ns
                                                        : TcpLifetimeNs(SynackRetries()),
                                 .udp_lifetime_ns = options.udp_lifetime_ns,
                                 .whole_tcp_lifetime_ns = kWholeTcpLifetimeNs,
                                 .whole_udp_lifetime_ns = kWholeUdpLifetimeNs,
                                 .evict_idle_ns = options.evict_idle_ns};
  std::optional<ListenerFinder> finder;
  if (options.find_in_kernel) {
    absl::StatusOr<ListenerFinder> loaded = ListenerFinder::Load(program.listeners_fd());
    if (loaded.ok()) finder = *std::move(loaded);
  }
  return std::unique_ptr<Steering>(new Steering(std::move(program), std::move(finder), index));
}

Steering::Steering(SkLookupProgram program, std::optional<ListenerFinder> finder,
                   const FlowIndex::Options& options)
    : program_(std::move(program)),
      map_(program_.flows_fd()),
      index_(&map_, options),
      listeners_(program_.listeners_fd(), std::move(finder)) {}

// As struct steer_flow has it.
FlowKey Steering::KeyOf(const FlowKey& flow, uint32_t iif) const {
  FlowKey key = flow;
  if (!program_.knows_iif()) return key;
  key.zero[0] = static_cast<uint8_t>(iif);
  key.zero[1] = static_cast<uint8_t>(iif >> 8);
  key.zero[2] = static_cast<uint8_t>(iif >> 16);
  return key;
}

// An entry of the flow's own is found first: where there is one, it has to be right.
FlowKey Steering::KeyOf(const SteerRequest& request, int64_t now_ns) {
  const FlowKey key = KeyOf(request.flow, request.iif);
  const bool whole = request.whole_destination && MayLeadDestinations(now_ns);
  return whole && !index_.Contains(key) ? WholeDestination(key) : key;
}

// Looked at once a second. Relaxed: whichever thread does, the answer is good for all.
bool Steering::MayLeadDestinations(int64_t now_ns) {
  if (!program_.knows_iif() || !one_policy_.load(std::memory_order_relaxed)) return false;
  const int64_t last_ns = alone_at_ns_.load(std::memory_order_relaxed);
  if (last_ns == 0 || now_ns - last_ns >= kNsPerSec) {
    alone_.store(program_.IsAlone(), std::memory_order_relaxed);
    alone_at_ns_.store(now_ns, std::memory_order_relaxed);
  }
  return alone_.load(std::memory_order_relaxed);
}

void Steering::Steer(absl::Span<const SteerRequest> requests, absl::Span<SteerResult> results) {
  const int64_t now_ns = MonotonicCoarseNs();
  BatchListeners listeners;
  Keys keys;
  Positions fresh;
  bool stands = false;  // the entry of the request before this one
  for (uint32_t i = 0; i < requests.size(); ++i) {
    const SteerRequest& request = requests[i];
    BatchListener& listener = Find(listeners, request);
    results[i] = SteerResult::kSteered;
    keys.push_back(KeyOf(request, now_ns));
    // In a flood most are for the same destination.
    const bool same = i > 0 && keys[i] == keys[i - 1] &&
                      request.listener_cookie == requests[i - 1].listener_cookie;
    stands = (same && stands) || index_.Refresh(keys[i], request.listener_cookie, now_ns);
    if (stands) continue;
    listener.has_new_flow = true;
    fresh.push_back(i);
  }
  bool all_held = true;
  for (BatchListener& listener : listeners) {
    listener.held = listeners_.Ensure(listener.cookie, listener.inode, listener.proto,
                                      listener.has_new_flow, now_ns);
    all_held &= listener.held == ListenerSockets::Held::kHeld;
  }
  for (uint32_t i = 0; !all_held && i < requests.size(); ++i) {
    results[i] = ResultOf(Find(listeners, requests[i]).held);
  }
  if (!fresh.empty()) PutFresh(requests, keys, fresh, results, now_ns);
}

// Makes entries for the requests at these positions whose listener is held.
void Steering::PutFresh(absl::Span<const SteerRequest> requests, const Keys& keys,
                        const Positions& fresh, absl::Span<SteerResult> results, int64_t now_ns) {
  absl::InlinedVector<FlowIndex::Target, 32> targets;
  Positions positions;
  bool destinations = false;
  for (const uint32_t i : fresh) {
    if (results[i] != SteerResult::kSteered) continue;
    targets.push_back({.flow = keys[i], .cookie = requests[i].listener_cookie});
    positions.push_back(i);
    destinations |= requests[i].whole_destination;
  }
  program_.LookForEntries(destinations);
  absl::InlinedVector<FlowIndex::PutResult, 32> put(targets.size());
  const uint64_t gone = index_.gone_early();
  index_.Put(targets, absl::MakeSpan(put), now_ns);
  TellGoneEarly(gone);
  for (size_t i = 0; i < put.size(); ++i) results[positions[i]] = ResultOf(put[i]);
}

// Who misses the first entry for a destination is as if it had come earlier.
uint64_t Steering::ListenerOf(const FlowKey& flow, uint32_t iif) const {
  const FlowKey key = KeyOf(flow, iif);
  const uint64_t cookie = index_.CookieOf(key);
  if (cookie != 0 || !program_.looks_for_destinations()) return cookie;
  return index_.CookieOf(WholeDestination(key));
}

void Steering::Release(const FlowKey& flow, uint32_t iif) {
  const FlowKey key = KeyOf(flow, iif);
  const int64_t now_ns = MonotonicCoarseNs();
  const uint64_t gone = index_.gone_early();
  index_.Remove(key, now_ns);
  if (program_.looks_for_destinations()) index_.Remove(WholeDestination(key), now_ns);
  TellGoneEarly(gone);
}

void Steering::TellGoneEarly(uint64_t before) const {
  if (gone_early_event_ != nullptr && index_.gone_early() != before) gone_early_event_->Raise();
}

absl::Status Steering::Reach(uint64_t listener_cookie, uint32_t listener_inode, Proto proto) {
  const ListenerSockets::Held held =
      listeners_.Ensure(listener_cookie, listener_inode, proto, /*recheck=*/true, MonotonicNs());
  if (held == ListenerSockets::Held::kHeld) return absl::OkStatus();
  const absl::Status error = listeners_.last_error();
  return error.ok() ? absl::UnavailableError("its owner was not found a moment ago") : error;
}

void Steering::Expire(int64_t now_ns) {
  index_.Expire(now_ns);
  listeners_.Expire(now_ns);
}

Steering::Stats Steering::stats() const {
  return {.flows = index_.stats(), .listeners = listeners_.stats(), .program = program_.counters()};
}

}  // namespace utproxy
