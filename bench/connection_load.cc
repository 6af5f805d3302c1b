// SPDX-License-Identifier: GPL-3.0-or-later
#include "connection_load.h"

#include <absl/strings/str_cat.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "base/clock.h"
#include "support/sockets.h"

namespace utproxy::bench {
namespace {

constexpr size_t kAtOnce = 32;
// As many client addresses, since a port is not free again before its TIME_WAIT is over.
constexpr uint32_t kSources = 200;
constexpr uint32_t kFirstSource = 0x7f000a01;  // 127.0.10.1
constexpr int kWaitMs = 5000;

void Check(bool ok, const char* what) {
  if (ok) return;
  std::perror(what);
  std::exit(1);
}

UniqueFd Begin(uint32_t source, uint16_t port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int yes = 1;
  Check(::setsockopt(fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes) == 0,
        "IP_BIND_ADDRESS_NO_PORT");
  sockaddr_in from{.sin_family = AF_INET};
  from.sin_addr.s_addr = htonl(kFirstSource + source);
  Check(::bind(fd.get(), reinterpret_cast<sockaddr*>(&from), sizeof from) == 0, "bind");
  sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  Check(
      ::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0 || errno == EINPROGRESS,
      "connect");
  return fd;
}

}  // namespace

ConnectionLoad::ConnectionLoad(uint16_t port, double rate)
    : port_(port),
      rate_(rate),
      listener_(testing::Listen(absl::StrCat("127.0.0.1:", port).c_str(), {.transparent = true})) {
  Check(::listen(listener_.get(), 4096) == 0, "listen");
  if (rate > 0) thread_ = std::thread([this] { Loop(); });
}

void ConnectionLoad::Stop() {
  stop_.store(true, std::memory_order_relaxed);
  if (thread_.joinable()) thread_.join();
}

void ConnectionLoad::Loop() {
  const int64_t start = MonotonicNs();
  double done = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    const double due = static_cast<double>(MonotonicNs() - start) / 1e9 * rate_ - done;
    // Where the machine cannot keep up, what is not done is not made up for.
    if (due > rate_) done += due - rate_;
    if (due < 1) {
      ::usleep(1000);
      continue;
    }
    const size_t count = std::min(static_cast<size_t>(due), kAtOnce);
    Connect(count);
    done += static_cast<double>(count);
  }
}

void ConnectionLoad::Connect(size_t count) {
  clients_.clear();
  servers_.clear();
  for (size_t i = 0; i < count; ++i) {
    clients_.push_back(Begin(source_, port_));
    source_ = (source_ + 1) % kSources;
  }
  pollfd waiting{.fd = listener_.get(), .events = POLLIN, .revents = 0};
  while (servers_.size() < count) {
    Check(::poll(&waiting, 1, kWaitMs) == 1, "no connection to accept");
    servers_.emplace_back(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    Check(servers_.back().valid(), "accept");
  }
  servers_.clear();
  clients_.clear();
  connections_.fetch_add(count, std::memory_order_relaxed);
}

}  // namespace utproxy::bench
