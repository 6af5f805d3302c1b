// SPDX-License-Identifier: GPL-3.0-or-later
// A transparent TCP server, one thread: what a connection is for its first byte tells (load.h).
//
//   load serve --port PORT
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <unordered_map>
#include <vector>

#include "load.h"

namespace lab {
namespace {

using namespace traffic;

class Server {
 public:
  explicit Server(const Args& args) : buffer_(256 << 10) {
    listener_ = OpenListener(args, SOCK_STREAM);
    SetNonBlocking(listener_);
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    Watch(listener_);
  }

  void Run() {
    epoll_event events[256];
    while (!Stopped()) {
      const int n = epoll_wait(epoll_, events, 256, 200);
      for (int i = 0; i < n; ++i) {
        const int fd = events[i].data.fd;
        if (fd == listener_) {
          Accept();
        } else {
          Read(fd, &connections_[fd]);
        }
      }
    }
  }

 private:
  struct Connection {
    char kind = 0;
    uint64_t received = 0;
  };

  void Watch(int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) DieErrno("epoll_ctl");
  }

  void Accept() {
    int fd;
    while ((fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
      SetIntOption(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY");
      connections_[fd] = {};
      Watch(fd);
    }
  }

  // One read an event: connections take turns.
  void Read(int fd, Connection* connection) {
    const ssize_t n = recv(fd, buffer_.data(), buffer_.size(), 0);
    if (n <= 0) return End(fd, *connection);
    if (connection->kind == 0) connection->kind = buffer_[0];
    connection->received += static_cast<uint64_t>(n);
    if (connection->kind == kPing) (void)send(fd, buffer_.data(), static_cast<size_t>(n), 0);
    if (connection->kind == kRequest && connection->received == kRequestBytes) {
      (void)send(fd, buffer_.data(), kRequestBytes, 0);
    }
  }

  void End(int fd, const Connection& connection) {
    if (connection.kind == kBulk) {
      (void)send(fd, &connection.received, sizeof connection.received, 0);
    }
    close(fd);
    connections_.erase(fd);
  }

  int listener_ = -1;
  int epoll_ = -1;
  std::vector<char> buffer_;
  std::unordered_map<int, Connection> connections_;
};

}  // namespace

int Serve(int argc, char** argv) {
  const Args args(argc, argv, kListenValues, kListenFlags);
  RaiseFileLimit();
  InstallStopSignals();
  Server server(args);
  JsonLine("ready").Print();
  server.Run();
  return 0;
}

}  // namespace lab
