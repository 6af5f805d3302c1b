// SPDX-License-Identifier: GPL-3.0-or-later
// A transparent TCP listener. Each connection opens with a Head; the listener verifies `up` bytes,
// sends `down` bytes at the same time, then says in a Trailer whether all was well.
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <unordered_map>

#include "common.h"

namespace traffic {
namespace {

constexpr size_t kChunk = 65536;

struct Connection {
  int fd = -1;
  Head head;
  size_t head_got = 0;
  uint64_t received = 0;
  uint64_t sent = 0;
  size_t trailer_sent = 0;
  bool saw_end = false;
  bool intact = true;
  bool want_write = false;
  std::string local, peer;

  bool has_head() const { return head_got == sizeof(head); }
  bool received_all() const {
    return has_head() && received >= head.up && (saw_end || (head.flags & kPeerCloses) != 0);
  }
};

class Listener {
 public:
  explicit Listener(const Args& args)
      : listener_(OpenListener(args, SOCK_STREAM)),
        report_(args.Flag("report")),
        deadline_ms_(NowMs() + args.Int("seconds", 600) * 1000) {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    Watch(EPOLL_CTL_ADD, listener_, EPOLLIN);
  }

  int Run() {
    JsonLine("ready").Add("local", LocalOf(listener_)).Print();
    epoll_event events[256];
    while (!Stopped() && NowMs() < deadline_ms_) {
      int count = epoll_wait(epoll_, events, 256, 200);
      for (int i = 0; i < count; ++i) Handle(events[i]);
    }
    JsonLine("summary")
        .Add("accepted", accepted_)
        .Add("ok", ok_)
        .Add("broken", broken_)
        .Add("open", static_cast<int64_t>(connections_.size()))
        .Add("locals", locals_)
        .Print();
    return 0;
  }

 private:
  void Watch(int operation, int fd, uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (epoll_ctl(epoll_, operation, fd, &event) != 0) DieErrno("epoll_ctl");
  }

  void Handle(const epoll_event& event) {
    if (event.data.fd == listener_) return AcceptAll();
    auto found = connections_.find(event.data.fd);
    if (found == connections_.end()) return;
    Connection& connection = *found->second;
    bool alive = Receive(connection) && Send(connection);
    if (!alive) return Finish(connection);
    bool want_write = connection.has_head() && !DoneSending(connection) &&
                      (connection.sent < connection.head.down || connection.received_all());
    if (want_write != connection.want_write) {
      connection.want_write = want_write;
      uint32_t readable = connection.saw_end ? 0u : EPOLLIN;
      Watch(EPOLL_CTL_MOD, connection.fd, readable | (want_write ? EPOLLOUT : 0u));
    }
  }

  void AcceptAll() {
    for (;;) {
      int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      auto connection = std::make_unique<Connection>();
      connection->fd = fd;
      connection->local = LocalOf(fd);
      connection->peer = PeerOf(fd);
      ++accepted_;
      ++locals_[connection->local];
      Watch(EPOLL_CTL_ADD, fd, EPOLLIN);
      connections_[fd] = std::move(connection);
    }
  }

  bool ReceiveHead(Connection& connection) {
    auto* bytes = reinterpret_cast<uint8_t*>(&connection.head);
    ssize_t got =
        recv(connection.fd, bytes + connection.head_got, sizeof(Head) - connection.head_got, 0);
    if (got <= 0) return got < 0 && errno == EAGAIN;
    connection.head_got += static_cast<size_t>(got);
    return !connection.has_head() || connection.head.magic == kTcpMagic;
  }

  // False where the connection cannot go on.
  bool Receive(Connection& connection) {
    if (connection.saw_end) return true;
    if (!connection.has_head() && !ReceiveHead(connection)) return false;
    if (!connection.has_head()) return true;
    static uint8_t buffer[kChunk];
    ssize_t got = recv(connection.fd, buffer, sizeof(buffer), 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) {
      connection.saw_end = true;
      connection.want_write = !connection.want_write;  // the interest in EPOLLIN must go
      return true;
    }
    size_t size = static_cast<size_t>(got);
    connection.intact &= connection.received + size <= connection.head.up &&
                         Pattern(connection.head.key).Matches(connection.received, buffer, size);
    connection.received += size;
    return true;
  }

  static bool DoneSending(const Connection& connection) {
    return connection.trailer_sent == sizeof(Trailer);
  }

  // False where all is said, or where the connection cannot go on.
  bool Send(Connection& connection) {
    if (!connection.has_head()) return true;
    static uint8_t buffer[kChunk];
    if (connection.sent < connection.head.down) {
      size_t size = std::min<uint64_t>(kChunk, connection.head.down - connection.sent);
      Pattern(connection.head.key ^ kDownKey).Fill(connection.sent, buffer, size);
      ssize_t put = send(connection.fd, buffer, size, MSG_NOSIGNAL);
      if (put < 0) return errno == EAGAIN || errno == EINTR;
      connection.sent += static_cast<uint64_t>(put);
    }
    if (connection.sent < connection.head.down || !connection.received_all()) return true;
    return SendTrailer(connection);
  }

  bool SendTrailer(Connection& connection) {
    connection.intact &= connection.received == connection.head.up;
    Trailer trailer{connection.intact ? uint64_t{1} : 0, connection.received};
    const auto* bytes = reinterpret_cast<const uint8_t*>(&trailer);
    ssize_t put = send(connection.fd, bytes + connection.trailer_sent,
                       sizeof(trailer) - connection.trailer_sent, MSG_NOSIGNAL);
    if (put < 0) return errno == EAGAIN || errno == EINTR;
    connection.trailer_sent += static_cast<size_t>(put);
    return !DoneSending(connection);
  }

  void Finish(Connection& connection) {
    bool good = connection.intact && DoneSending(connection);
    ++(good ? ok_ : broken_);
    if (report_) {
      JsonLine("connection")
          .Add("local", connection.local)
          .Add("peer", connection.peer)
          .Add("up", static_cast<int64_t>(connection.received))
          .Add("down", static_cast<int64_t>(connection.sent))
          .Add("ok", good)
          .Print();
    }
    int fd = connection.fd;
    connections_.erase(fd);
    close(fd);
  }

  int listener_;
  int epoll_ = -1;
  bool report_;
  int64_t deadline_ms_;
  int64_t accepted_ = 0, ok_ = 0, broken_ = 0;
  std::map<std::string, int64_t> locals_;
  std::unordered_map<int, std::unique_ptr<Connection>> connections_;
};

}  // namespace

int TcpListen(int argc, char** argv) {
  std::set<std::string> flags = kListenFlags;
  flags.insert("report");
  return Listener(Args(argc, argv, kListenValues, flags)).Run();
}

}  // namespace traffic
