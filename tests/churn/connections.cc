// SPDX-License-Identifier: GPL-3.0-or-later
#include "churn/connections.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace utproxy::churn {
namespace {

constexpr size_t kMostFlows = 24;
constexpr int kBacklog = 64;
constexpr int64_t kOpenWithinNs = 3 * kNsPerSec;
constexpr int64_t kClientClosesAfterNs = 5 * kNsPerMs;
constexpr int64_t kForgetAfterNs = 300 * kNsPerMs;
constexpr int64_t kAbortWithinNs = 50 * kNsPerMs;
constexpr uint16_t kFirstSport = 10000, kLastSport = 65000;

Family FamilyOf(const sockaddr_in6& peer) {
  return IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr) ? Family::kIpv4 : Family::kIpv6;
}

SocketState* FindPeer(PlaceState* state, uint16_t peer, Family family) {
  const auto it = std::find_if(state->begin(), state->end(), [&](const SocketState& socket) {
    return socket.peer == peer && socket.serves_family(family);
  });
  return it == state->end() ? nullptr : &*it;
}

}  // namespace

ConnectionPlace::ConnectionPlace(World* world, uint16_t port, const UniqueFd* client)
    : Place(world, Proto::kTcp, port), client_(*client), listener_mark_(world->NewMark()) {
  listener_ = NewSocket(Proto::kTcp, Serves::kBoth, listener_mark_);
  const bool listens = Change(
      "listening",
      [&] {
        return BindTo(listener_, Serves::kBoth, Address(), port) &&
               ::listen(listener_.get(), kBacklog) == 0;
      },
      [&](PlaceState* state) {
        state->push_back({.mark = listener_mark_, .serves = Serves::kBoth, .transparent = true});
      });
  if (!listens) Die("listen for connections");
}

void ConnectionPlace::ChangeSomething() {
  if (flows_.size() < kMostFlows && (flows_.empty() || world_.Chance(25))) return OpenOne();
  for (int attempt = 0; attempt < 8; ++attempt) {
    Flow& flow = flows_[world_.Below(flows_.size())];
    if (flow.phase == Phase::kOpen) return ChangeFlow(&flow);
  }
}

void ConnectionPlace::OpenOne() {
  Flow flow{.family = AnyFamily(), .mark = world_.NewMark()};
  uint16_t& next = next_sport_[Index(flow.family)];
  flow.sport = next;
  next = next == kLastSport ? kFirstSport : static_cast<uint16_t>(next + 1);
  const Serves serves = flow.family == Family::kIpv4 ? Serves::kIpv4 : Serves::kIpv6;
  InNamespace(client_, [&] { flow.client = NewSocket(Proto::kTcp, serves, 0); });
  // Until it is accepted the connection has its listener's mark.
  const auto add = [&](PlaceState* state) {
    state->push_back({.mark = listener_mark_,
                      .bound = Bound::kAsked,
                      .serves = serves,
                      .peer = flow.sport,
                      .transparent = true,
                      .may_be = kFull | kRequest | kGone});
  };
  const Address& from = world_.addresses.client[Index(flow.family)];
  const Address& to = world_.addresses.asked[Index(flow.family)];
  if (!BindTo(flow.client, serves, from, flow.sport)) return;
  Enter(&flow, Phase::kOpening);
  if (Change(
          "connecting", [&] { return ConnectTo(flow.client, flow.family, to, port_); }, add)) {
    flows_.push_back(std::move(flow));
  }
}

void ConnectionPlace::Enter(Flow* flow, Phase phase) {
  flow->phase = phase;
  flow->since_ns = MonotonicNs();
}

void ConnectionPlace::AcceptAll() {
  while (true) {
    sockaddr_in6 peer{};
    socklen_t length = sizeof peer;
    UniqueFd fd(::accept4(listener_.get(), reinterpret_cast<sockaddr*>(&peer), &length,
                          SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid()) return;
    const auto it = std::find_if(flows_.begin(), flows_.end(), [&](const Flow& flow) {
      return flow.phase == Phase::kOpening && flow.sport == ntohs(peer.sin6_port) &&
             flow.family == FamilyOf(peer);
    });
    if (it == flows_.end()) continue;  // given up meanwhile
    Flow& flow = *it;
    flow.router = std::move(fd);
    Note("accepted", MonotonicNs(),
         [&](PlaceState* state) { FindPeer(state, flow.sport, flow.family)->may_be = kFull; });
    const int mark = static_cast<int>(flow.mark);
    const bool marked = Change(
        "marked",
        [&] {
          return ::setsockopt(flow.router.get(), SOL_SOCKET, SO_MARK, &mark, sizeof mark) == 0;
        },
        [&](PlaceState* state) { FindPeer(state, flow.sport, flow.family)->mark = flow.mark; });
    if (!marked) Die("SO_MARK");
    Enter(&flow, Phase::kOpen);
  }
}

void ConnectionPlace::SetMayBe(const char* what, int64_t before_ns, Flow* flow, uint8_t may_be,
                               Counts counts) {
  Note(
      what, before_ns,
      [&](PlaceState* state) { FindPeer(state, flow->sport, flow->family)->may_be = may_be; },
      counts);
}

void ConnectionPlace::ChangeFlow(Flow* flow) {
  const uint64_t dice = world_.Below(100);
  const int64_t before_ns = MonotonicNs();
  if (dice < (flow->transparent ? 45 : 80)) {
    flow->transparent = !flow->transparent;
    // The accepted socket is of the listener's family.
    Change(
        flow->transparent ? "IP_TRANSPARENT on" : "IP_TRANSPARENT off",
        [&] { return SetTransparent(flow->router, Serves::kBoth, flow->transparent); },
        [&](PlaceState* state) {
          FindPeer(state, flow->sport, flow->family)->transparent = flow->transparent;
        });
  } else if (dice < 85) {
    AbortOnClose(flow->router);
    flow->router.reset();
    SetMayBe("aborted", before_ns, flow, kGone);
    flow->client.reset();
    Enter(flow, Phase::kOver);
  } else if (dice < 92) {
    AbortOnClose(flow->client);
    flow->client.reset();
    SetMayBe("aborted by the client", before_ns, flow, kFull | kGone);
    Enter(flow, Phase::kAborted);
  } else {
    flow->router.reset();
    SetMayBe("closed", before_ns, flow, kFull | kTimeWait);
    Enter(flow, Phase::kClosing);
  }
}

// The last entry of its sender's port; the place forgets the socket with it.
void ConnectionPlace::Forget(Flow* flow) {
  Note(
      "forgotten", MonotonicNs(),
      [&](PlaceState* state) {
        const SocketState* socket = FindPeer(state, flow->sport, flow->family);
        if (socket != nullptr) state->erase(state->begin() + (socket - state->data()));
      },
      Counts::kKnown);
  *flow = std::move(flows_.back());
  flows_.pop_back();
}

void ConnectionPlace::Attend(int64_t now_ns) {
  AcceptAll();
  for (size_t i = flows_.size(); i > 0; --i) AttendFlow(&flows_[i - 1], now_ns);
}

void ConnectionPlace::AttendFlow(Flow* flow, int64_t now_ns) {
  const int64_t age_ns = now_ns - flow->since_ns;
  switch (flow->phase) {
    case Phase::kOpening:
      if (age_ns > kOpenWithinNs) {
        ++world_.refused["connection in 3 s"];
        Forget(flow);
      }
      break;
    case Phase::kOpen:
      break;
    case Phase::kClosing:
      if (flow->client.valid() && age_ns > kClientClosesAfterNs) flow->client.reset();
      if (age_ns > kForgetAfterNs) Forget(flow);
      break;
    case Phase::kAborted: {
      char byte;
      const bool told = ::recv(flow->router.get(), &byte, 1, 0) < 0 && errno == ECONNRESET;
      // An opaque socket never hears of it.
      if (!told && age_ns < kAbortWithinNs) break;
      const int64_t before_ns = MonotonicNs();
      AbortOnClose(flow->router);
      flow->router.reset();
      SetMayBe("gone", before_ns, flow, kGone);
      Enter(flow, Phase::kOver);
      break;
    }
    case Phase::kOver:
      if (age_ns > kForgetAfterNs) Forget(flow);
      break;
  }
}

bool ConnectionPlace::ChooseProbe(Probe* probe) {
  if (flows_.empty()) return false;
  Flow& flow = flows_[world_.Below(flows_.size())];
  // A SYN ends a TIME_WAIT: from then on it may be there or not.
  const bool syn = world_.Chance(8);
  if (syn && flow.phase == Phase::kClosing) {
    SetMayBe("a SYN is sent", MonotonicNs(), &flow, kFull | kTimeWait | kGone, Counts::kKnown);
  }
  *probe = {.family = flow.family, .proto = Proto::kTcp, .syn = syn, .sport = flow.sport};
  return true;
}

}  // namespace utproxy::churn
