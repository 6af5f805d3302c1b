// SPDX-License-Identifier: GPL-3.0-or-later
// The clients of `load serve`.
//
//   load bulk    --to ADDR:PORT --from ADDR,... --connections N --seconds-ms N
//   load connect --to ADDR:PORT --from ADDR,... --threads N --seconds-ms N
//   load ping    --to ADDR:PORT --from ADDR,... --seconds-ms N
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

#include "load.h"

namespace lab {
namespace {

using namespace traffic;

constexpr int64_t kNsPerMs = 1'000'000;

struct Plan {
  explicit Plan(const Args& args)
      : to(ParseEndpoint(args.Get("to"))), duration_ns(args.Int("seconds-ms", 1000) * kNsPerMs) {
    for (const std::string& address : Split(args.Get("from"), ',')) {
      from.push_back(MakeEndpoint(address, 0));
    }
  }
  Endpoint to;
  std::vector<Endpoint> from;
  int64_t duration_ns;
};

// A blocking connection from the `number`-th address, or -1. Nobody waits for answers longer than
// five seconds.
int Open(const Plan& plan, size_t number) {
  const int fd = socket(plan.to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) DieErrno("socket");
  SetIntOption(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1, "IP_BIND_ADDRESS_NO_PORT");
  SetIntOption(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY");
  const timeval patience{.tv_sec = 5, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const Endpoint& from = plan.from[number % plan.from.size()];
  if (bind(fd, from.raw(), from.length) != 0) DieErrno("bind");
  if (connect(fd, plan.to.raw(), plan.to.length) == 0) return fd;
  close(fd);
  return -1;
}

// Ends its connections and returns how many bytes the server had of them.
uint64_t Collect(const std::vector<int>& fds) {
  uint64_t total = 0;
  for (const int fd : fds) shutdown(fd, SHUT_WR);
  for (const int fd : fds) {
    uint64_t received = 0;
    // The socket does not block: it is waited for here.
    pollfd answer{.fd = fd, .events = POLLIN, .revents = 0};
    if (poll(&answer, 1, 5000) != 1 || recv(fd, &received, sizeof received, 0) != sizeof received) {
      DieErrno("bulk: no answer");
    }
    total += received;
    close(fd);
  }
  return total;
}

void SendUntil(int64_t end_ns, const std::vector<int>& fds) {
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  for (const int fd : fds) {
    SetNonBlocking(fd);
    epoll_event event{};
    event.events = EPOLLOUT;
    event.data.fd = fd;
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  }
  const std::vector<char> data(128 << 10, kBulk);
  epoll_event events[64];
  while (NowNs() < end_ns) {
    const int n = epoll_wait(epoll, events, 64, 100);
    for (int i = 0; i < n; ++i) (void)send(events[i].data.fd, data.data(), data.size(), 0);
  }
  close(epoll);
}

// One connection with a request and its answer. False where anything failed.
bool Converse(const Plan& plan, size_t number) {
  const int fd = Open(plan, number);
  if (fd < 0) return false;
  char data[kRequestBytes] = {kRequest};
  bool good = send(fd, data, sizeof data, 0) == sizeof data;
  good = good && recv(fd, data, sizeof data, MSG_WAITALL) == sizeof data;
  close(fd);
  return good;
}

double At(const std::vector<int64_t>& sorted, double share) {
  const auto i = static_cast<size_t>(share * static_cast<double>(sorted.size()));
  return static_cast<double>(sorted[std::min(i, sorted.size() - 1)]);
}

}  // namespace

int Bulk(int argc, char** argv) {
  const Args args(argc, argv, {"to", "from", "connections", "seconds-ms"}, {});
  const Plan plan(args);
  std::vector<int> fds;
  for (int64_t i = 0; i < args.Int("connections", 1); ++i) {
    fds.push_back(Open(plan, static_cast<size_t>(i)));
    if (fds.back() < 0) DieErrno("connect");
  }
  const int64_t began = NowNs();
  SendUntil(began + plan.duration_ns, fds);
  const uint64_t bytes = Collect(fds);
  // What was on the way when sending ended is counted, and so is the time that it took.
  JsonLine("summary").Add("bytes", static_cast<int64_t>(bytes)).Add("ns", NowNs() - began).Print();
  return 0;
}

int Connect(int argc, char** argv) {
  const Args args(argc, argv, {"to", "from", "threads", "seconds-ms"}, {});
  const Plan plan(args);
  std::atomic<int64_t> done{0}, failed{0};
  std::atomic<size_t> next{0};
  const int64_t began = NowNs();
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < args.Int("threads", 1); ++i) {
    threads.emplace_back([&] {
      while (NowNs() < began + plan.duration_ns) ++(Converse(plan, next++) ? done : failed);
    });
  }
  for (std::thread& thread : threads) thread.join();
  JsonLine("summary")
      .Add("count", done.load())
      .Add("failed", failed.load())
      .Add("ns", NowNs() - began)
      .Print();
  return 0;
}

int Ping(int argc, char** argv) {
  const Args args(argc, argv, {"to", "from", "seconds-ms"}, {});
  const Plan plan(args);
  const int fd = Open(plan, 0);
  if (fd < 0) DieErrno("connect");
  std::vector<int64_t> took_ns;
  took_ns.reserve(1 << 18);
  const int64_t began = NowNs();
  for (int64_t now = began; now < began + plan.duration_ns;) {
    char byte = kPing;
    if (send(fd, &byte, 1, 0) != 1 || recv(fd, &byte, 1, 0) != 1) DieErrno("ping");
    const int64_t after = NowNs();
    took_ns.push_back(after - now);
    now = after;
  }
  std::sort(took_ns.begin(), took_ns.end());
  JsonLine("summary")
      .Add("count", static_cast<int64_t>(took_ns.size()))
      .Add("p50_ns", static_cast<int64_t>(At(took_ns, 0.5)))
      .Add("p99_ns", static_cast<int64_t>(At(took_ns, 0.99)))
      .Add("p999_ns", static_cast<int64_t>(At(took_ns, 0.999)))
      .Print();
  return 0;
}

}  // namespace lab
