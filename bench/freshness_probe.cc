// SPDX-License-Identifier: GPL-3.0-or-later
#include "freshness_probe.h"

#include <absl/strings/str_cat.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "support/sockets.h"

namespace utproxy::bench {
namespace {

constexpr char kHost[] = "127.0.0.2";
constexpr int64_t kPatienceNs = kNsPerSec;

}  // namespace

double FreshnessProbe::Wait(absl::FunctionRef<bool()> condition) {
  const int64_t start = MonotonicNs();
  while (MonotonicNs() - start < kPatienceNs && !condition()) ::usleep(10);
  return static_cast<double>(MonotonicNs() - start) / 1e3;
}

bool FreshnessProbe::Alive(const FlowKey& key, uint64_t cookie) const {
  absl::InlinedVector<Socket, 8> found;
  table_->FindAll(key, &found);
  for (const Socket& socket : found) {
    if (socket.cookie == cookie) return !socket.time_wait();
  }
  return false;
}

void FreshnessProbe::Sample() {
  // At any moment of the mirror's rounds.
  ::usleep(static_cast<useconds_t>(random_() % 20000));
  const std::string at = absl::StrCat(kHost, ":", port_);
  const Address host = *Address::Parse(kHost);
  const FlowKey listening{.local = host, .local_port = port_};
  UniqueFd listener = testing::Listen(at.c_str(), {.transparent = true});
  listen_us_.push_back(
      Wait([&, cookie = testing::CookieOf(listener)] { return Alive(listening, cookie); }));
  UniqueFd client = testing::Connect(SOCK_STREAM, at.c_str());
  UniqueFd server = testing::Accept(listener);
  const uint64_t cookie = testing::CookieOf(server);
  const FlowKey key{.local = host,
                    .remote = *Address::Parse("127.0.0.1"),
                    .local_port = port_,
                    .remote_port = testing::LocalPort(client)};
  accept_us_.push_back(Wait([&] { return Alive(key, cookie); }));
  // With a reset, so that the socket has gone when close() returns, and not when its peer answers.
  const linger reset{.l_onoff = 1, .l_linger = 0};
  (void)::setsockopt(server.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  server.reset();
  close_us_.push_back(Wait([&] { return !Alive(key, cookie); }));
  const uint64_t gone = testing::CookieOf(listener);
  listener.reset();
  close_listener_us_.push_back(Wait([&] { return !Alive(listening, gone); }));
}

}  // namespace utproxy::bench
