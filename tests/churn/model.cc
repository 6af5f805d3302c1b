// SPDX-License-Identifier: GPL-3.0-or-later
#include "churn/model.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <algorithm>

namespace utproxy::churn {
namespace {

using Found = absl::InlinedVector<const SocketState*, 4>;

void Add(Outcome outcome, Outcomes* outcomes) {
  if (!Contains(*outcomes, outcome)) outcomes->push_back(outcome);
}

Outcome HitOrMiss(const SocketState& socket, Outcome hit) {
  return socket.transparent ? hit : kMiss;
}

// The best of an address: those connected to the sender; else the unconnected ones, an AF_INET
// socket before an AF_INET6 one that serves both. Of equal UDP sockets it is the one bound last; of
// equal listeners, which are a SO_REUSEPORT group, any.
Found AtAddress(const Probe& probe, const PlaceState& state, Bound bound) {
  Found best;
  int best_score = -1;
  for (const SocketState& socket : state) {
    if (socket.bound != bound || !socket.serves_family(probe.family)) continue;
    if (socket.peer != 0 && (probe.proto == Proto::kTcp || socket.peer != probe.sport)) continue;
    const bool inet = socket.serves == Serves::kIpv4;
    const int score = (socket.peer != 0 ? 2 : 0) + (inet || socket.keeps_peer_address ? 1 : 0);
    if (score < best_score) continue;
    if (score > best_score || probe.proto == Proto::kUdp) best.clear();
    best_score = score;
    best.push_back(&socket);
  }
  return best;
}

// Step 6: the listener, by the interface's address or none.
void DecideByListener(const Probe& probe, const PlaceState& state, Outcomes* outcomes) {
  Found found = AtAddress(probe, state, Bound::kInterface);
  if (found.empty()) found = AtAddress(probe, state, Bound::kAny);
  if (found.empty()) Add(kMiss, outcomes);
  for (const SocketState* socket : found) {
    // A connected UDP socket hides the listener.
    Add(socket->peer != 0 ? kMiss : HitOrMiss(*socket, socket->mark), outcomes);
  }
}

void DecideUdp(const Probe& probe, const PlaceState& first, const PlaceState& second,
               Outcomes* outcomes) {
  const Found own = AtAddress(probe, first, Bound::kAsked);
  bool connected = false;
  for (const SocketState* socket : own) {
    if (socket->peer == 0) continue;
    connected = true;
    Add(HitOrMiss(*socket, socket->mark), outcomes);
  }
  if (!connected) DecideByListener(probe, second, outcomes);
}

void DecideTcp(const Probe& probe, const PlaceState& first, const PlaceState& second,
               Outcomes* outcomes) {
  const auto own = std::find_if(first.begin(), first.end(), [&](const SocketState& socket) {
    return socket.peer == probe.sport && socket.serves_family(probe.family);
  });
  const uint8_t may_be = own == first.end() ? kGone : own->may_be;
  if (may_be & kFull) Add(HitOrMiss(*own, own->mark), outcomes);
  if (may_be & kRequest) Add(HitOrMiss(*own, kHit), outcomes);
  if (may_be & kTimeWait && !probe.syn) Add(HitOrMiss(*own, kHit), outcomes);
  const bool reopens = may_be & kTimeWait && probe.syn;
  if (may_be & kGone || reopens) DecideByListener(probe, second, outcomes);
}

}  // namespace

bool Contains(const Outcomes& outcomes, Outcome outcome) {
  return std::find(outcomes.begin(), outcomes.end(), outcome) != outcomes.end();
}

void Decide(const Probe& probe, const PlaceState& first, const PlaceState& second,
            Outcomes* outcomes) {
  if (probe.proto == Proto::kTcp) {
    DecideTcp(probe, first, second, outcomes);
  } else {
    DecideUdp(probe, first, second, outcomes);
  }
}

std::string Describe(Outcome outcome) {
  if (outcome == kMiss) return "miss";
  if (outcome == kHit) return "hit";
  return absl::StrFormat("socket %#x", outcome);
}

std::string Describe(const PlaceState& state) {
  static constexpr const char* kBound[] = {"any", "interface", "asked"};
  static constexpr const char* kServes[] = {"v4", "v6", "both"};
  std::string text;
  for (const SocketState& socket : state) {
    absl::StrAppendFormat(&text, "%s%#x@%s/%s", text.empty() ? "" : ", ", socket.mark,
                          kBound[static_cast<int>(socket.bound)],
                          kServes[static_cast<int>(socket.serves)]);
    if (socket.peer != 0) absl::StrAppend(&text, " to ", socket.peer);
    if (socket.may_be != kFull) absl::StrAppendFormat(&text, " may be %#x", socket.may_be);
    if (!socket.transparent) absl::StrAppend(&text, " opaque");
  }
  return text.empty() ? "no socket" : text;
}

}  // namespace utproxy::churn
