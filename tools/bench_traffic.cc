// SPDX-License-Identifier: GPL-3.0-or-later
#include "bench_traffic.h"

#include <absl/functional/any_invocable.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/status.h"

namespace utproxy::tools {
namespace {

constexpr size_t kDatagramPayload = 64 - 28;  // behind the headers of IPv4 and UDP
constexpr int kSinkBuffer = 256 << 20;        // 65,536 small datagrams, with what the kernel adds
constexpr int kPollMs = 50;

sockaddr_in AddressOf(const char* address, uint16_t port) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons(port);
  (void)::inet_pton(AF_INET, address, &a.sin_addr);
  return a;
}

absl::StatusOr<UniqueFd> BindTransparent(int type, uint16_t port) {
  UniqueFd fd(::socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  const sockaddr_in at = AddressOf("0.0.0.0", port);
  if (!fd.valid() || ::setsockopt(fd.get(), IPPROTO_IP, IP_TRANSPARENT, &on, sizeof on) != 0 ||
      ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0) {
    return ErrnoStatus(errno, "open the benchmark's listener");
  }
  return fd;
}

absl::StatusOr<UniqueFd> Connect(int type) {
  UniqueFd fd(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
  const sockaddr_in to = AddressOf(kBenchAsked, kBenchPort);
  const timeval patience{.tv_sec = 5, .tv_usec = 0};
  if (fd.valid()) {
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  }
  if (!fd.valid() || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
    return ErrnoStatus(errno, "connect the benchmark's client");
  }
  return fd;
}

// Runs it in a thread in the client's namespace, to its end: the calling thread stays where it is.
absl::Status InClient(const BenchSpace& space, absl::AnyInvocable<absl::Status()> what) {
  absl::Status status;
  std::thread([&] {
    status = space.EnterClient();
    if (status.ok()) status = what();
  }).join();
  return status;
}

void RaiseFileLimit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 65536);
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

UniqueFd Watching(const std::vector<UniqueFd>& sockets, uint32_t what) {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  for (const UniqueFd& fd : sockets) {
    epoll_event event{.events = what, .data = {.fd = fd.get()}};
    (void)::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd.get(), &event);
  }
  return epoll;
}

}  // namespace

absl::StatusOr<UniqueFd> BindSink(uint16_t port) {
  ASSIGN_OR_RETURN(UniqueFd fd, BindTransparent(SOCK_DGRAM, port));
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kSinkBuffer, sizeof kSinkBuffer);
  return fd;
}

size_t TakeAll(const UniqueFd& sink) {
  std::array<char, 64> data;
  size_t count = 0;
  while (::recv(sink.get(), data.data(), data.size(), MSG_DONTWAIT) >= 0) ++count;
  return count;
}

absl::Status SendDatagrams(const BenchSpace& space, size_t count, size_t flows) {
  RaiseFileLimit();
  return InClient(space, [&]() -> absl::Status {
    std::vector<UniqueFd> sockets;
    for (size_t i = 0; i < flows; ++i) {
      ASSIGN_OR_RETURN(UniqueFd fd, Connect(SOCK_DGRAM));
      sockets.push_back(std::move(fd));
    }
    const std::array<char, kDatagramPayload> data{};
    for (size_t i = 0; i < count; ++i) {
      if (::send(sockets[i % flows].get(), data.data(), data.size(), 0) < 0) {
        return ErrnoStatus(errno, "send the benchmark's datagrams");
      }
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::unique_ptr<BulkSink>> BulkSink::Start(uint16_t port) {
  ASSIGN_OR_RETURN(UniqueFd listener, BindTransparent(SOCK_STREAM, port));
  if (::listen(listener.get(), 128) != 0) {
    return ErrnoStatus(errno, "open the benchmark's listener");
  }
  std::unique_ptr<BulkSink> sink(new BulkSink(std::move(listener)));
  sink->thread_ = std::thread([raw = sink.get()] { raw->Loop(); });
  return sink;
}

BulkSink::~BulkSink() {
  stop_ = true;
  thread_.join();
}

void BulkSink::Loop() {
  std::vector<UniqueFd> accepted;
  std::vector<char> buffer(256 << 10);
  std::array<epoll_event, 64> events;
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  const auto watch = [&](int fd) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    (void)::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event);
  };
  watch(listener_.get());
  while (!stop_.load(std::memory_order_relaxed)) {
    const int n = ::epoll_wait(epoll.get(), events.data(), events.size(), kPollMs);
    for (int i = 0; i < n; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == listener_.get()) {
        UniqueFd one(::accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!one.valid()) continue;
        watch(one.get());
        accepted.push_back(std::move(one));
        continue;
      }
      const ssize_t got = ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got > 0) received_.fetch_add(static_cast<uint64_t>(got), std::memory_order_relaxed);
      if (got == 0) (void)::epoll_ctl(epoll.get(), EPOLL_CTL_DEL, fd, nullptr);
    }
  }
}

absl::StatusOr<std::unique_ptr<BulkSource>> BulkSource::Start(const BenchSpace& space,
                                                              size_t connections) {
  std::unique_ptr<BulkSource> source(new BulkSource);
  RETURN_IF_ERROR(InClient(space, [&]() -> absl::Status {
    for (size_t i = 0; i < connections; ++i) {
      ASSIGN_OR_RETURN(UniqueFd fd, Connect(SOCK_STREAM));
      source->sockets_.push_back(std::move(fd));
    }
    return absl::OkStatus();
  }));
  source->thread_ = std::thread([raw = source.get()] { raw->Loop(); });
  return source;
}

BulkSource::~BulkSource() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void BulkSource::Loop() {
  const std::vector<char> data(128 << 10);
  std::array<epoll_event, 64> events;
  const UniqueFd epoll = Watching(sockets_, EPOLLOUT);
  while (!stop_.load(std::memory_order_relaxed)) {
    const int n = ::epoll_wait(epoll.get(), events.data(), events.size(), kPollMs);
    for (int i = 0; i < n; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      (void)::send(fd, data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
  }
}

}  // namespace utproxy::tools
