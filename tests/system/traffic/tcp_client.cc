// SPDX-License-Identifier: GPL-3.0-or-later
// Opens TCP connections, `--concurrency` at a time, sends and receives pseudo-random bytes at once
// and checks every one. `--report` prints a line per connection, the summary comes last.
#include <fcntl.h>
#include <netinet/tcp.h>
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
  int64_t number = 0;
  int64_t started_ms = 0;
  Head head;
  size_t head_sent = 0;
  uint64_t sent = 0;
  uint64_t received = 0;
  Trailer trailer;
  size_t trailer_got = 0;
  bool connected = false;
  bool shut = false;
  std::string local, peer;
};

enum class Step { kGoOn, kDone, kFailed };

class Client {
 public:
  explicit Client(const Args& args)
      : to_(ParseEndpoints(args.Get("to"))),
        from_(ParseEndpoints(args.Get("from"))),
        total_(args.Int("connections", 1)),
        concurrency_(args.Int("concurrency", 1)),
        low_(static_cast<uint64_t>(args.Int("min", 1000))),
        high_(static_cast<uint64_t>(args.Int("max", 1000))),
        skew_(static_cast<double>(args.Int("skew-percent", 100)) / 100),
        seed_(static_cast<uint64_t>(args.Int("seed", 1))),
        timeout_ms_(args.Int("timeout-ms", 20000)),
        deadline_ms_(NowMs() + args.Int("seconds", 600) * 1000),
        report_(args.Flag("report")),
        peer_closes_(args.Flag("peer-closes")),
        keep_going_(args.Flag("keep-going")) {
    if (to_.empty()) DieUsage("tcp-client needs --to");
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
  }

  int Run() {
    int64_t started = NowMs();
    epoll_event events[256];
    while (!Stopped() && NowMs() < deadline_ms_ && (next_ < total_ || !connections_.empty())) {
      while (next_ < total_ && static_cast<int64_t>(connections_.size()) < concurrency_) Open();
      int count = epoll_wait(epoll_, events, 256, 100);
      for (int i = 0; i < count; ++i) Handle(events[i].data.fd);
      ExpireOld();
    }
    int64_t unfinished = static_cast<int64_t>(connections_.size()) + total_ - next_;
    JsonLine("summary")
        .Add("connections", total_)
        .Add("ok", ok_)
        .Add("failed", failed_)
        .Add("unfinished", unfinished)
        .Add("most_at_once", most_at_once_)
        .Add("bytes_up", static_cast<int64_t>(bytes_up_))
        .Add("bytes_down", static_cast<int64_t>(bytes_down_))
        .Add("elapsed_ms", NowMs() - started)
        .Add("slowest_ms", slowest_ms_)
        .Add("errors", errors_)
        .Print();
    return ok_ == total_ || keep_going_ ? 0 : 1;
  }

 private:
  void Open() {
    auto connection = std::make_unique<Connection>();
    Connection& c = *connection;
    c.number = next_++;
    c.started_ms = NowMs();
    uint64_t n = Mix(seed_) ^ static_cast<uint64_t>(c.number);
    c.head = {kTcpMagic, Mix(n), PickSize(Mix(n + 1), low_, high_, skew_),
              PickSize(Mix(n + 2), low_, high_, skew_), peer_closes_ ? kPeerCloses : 0};
    const Endpoint& to = to_[static_cast<size_t>(c.number) % to_.size()];
    c.fd = socket(to.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c.fd < 0) DieErrno("socket");
    if (!from_.empty()) BindFrom(c);
    if (connect(c.fd, to.raw(), to.length) != 0 && errno != EINPROGRESS) {
      std::string why = std::string("connect: ") + std::strerror(errno);
      return Fail(c, why);
    }
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT;
    event.data.fd = c.fd;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, c.fd, &event) != 0) DieErrno("epoll_ctl");
    connections_[c.fd] = std::move(connection);
    most_at_once_ = std::max<int64_t>(most_at_once_, static_cast<int64_t>(connections_.size()));
  }

  void BindFrom(const Connection& c) {
    const Endpoint& from = from_[static_cast<size_t>(c.number) % from_.size()];
    SetIntOption(c.fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
    SetIntOption(c.fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1, "IP_BIND_ADDRESS_NO_PORT");
    if (bind(c.fd, from.raw(), from.length) != 0) DieErrno("bind " + FormatEndpoint(from));
  }

  void Handle(int fd) {
    auto found = connections_.find(fd);
    if (found == connections_.end()) return;
    Connection& c = *found->second;
    std::string why;
    Step step = Drive(c, &why);
    if (step == Step::kGoOn) return;
    std::unique_ptr<Connection> owned = std::move(found->second);
    connections_.erase(found);
    if (step == Step::kFailed) return Fail(c, why);
    Succeed(c);
  }

  Step Drive(Connection& c, std::string* why) {
    int error = 0;
    socklen_t length = sizeof(error);
    getsockopt(c.fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) {
      *why = std::string(c.connected ? "transfer: " : "connect: ") + std::strerror(error);
      return Step::kFailed;
    }
    if (!c.connected) {
      c.peer = PeerOf(c.fd);
      if (c.peer.empty()) return Step::kGoOn;
      c.connected = true;
      c.local = LocalOf(c.fd);
      if (c.peer != FormatEndpoint(to_[static_cast<size_t>(c.number) % to_.size()])) {
        *why = "peer is not the address that was asked";
        return Step::kFailed;
      }
    }
    Step step = Send(c, why);
    return step == Step::kGoOn ? Receive(c, why) : step;
  }

  Step Send(Connection& c, std::string* why) {
    static uint8_t buffer[sizeof(Head) + kChunk];
    if (c.sent < c.head.up || c.head_sent < sizeof(Head)) {
      size_t head_part = sizeof(Head) - c.head_sent;
      std::memcpy(buffer, reinterpret_cast<const uint8_t*>(&c.head) + c.head_sent, head_part);
      size_t body_part = std::min<uint64_t>(kChunk, c.head.up - c.sent);
      Pattern(c.head.key).Fill(c.sent, buffer + head_part, body_part);
      ssize_t put = send(c.fd, buffer, head_part + body_part, MSG_NOSIGNAL);
      if (put < 0) return Retry(why, "send: ");
      size_t done = static_cast<size_t>(put);
      size_t of_head = std::min(done, head_part);
      c.head_sent += of_head;
      c.sent += done - of_head;
    }
    if (c.sent == c.head.up && c.head_sent == sizeof(Head) && !c.shut) {
      c.shut = true;
      if (!peer_closes_) shutdown(c.fd, SHUT_WR);
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.fd = c.fd;
      if (epoll_ctl(epoll_, EPOLL_CTL_MOD, c.fd, &event) != 0) DieErrno("epoll_ctl");
    }
    return Step::kGoOn;
  }

  static Step Retry(std::string* why, const char* what) {
    if (errno == EAGAIN || errno == EINTR) return Step::kGoOn;
    *why = std::string(what) + std::strerror(errno);
    return Step::kFailed;
  }

  Step Receive(Connection& c, std::string* why) {
    static uint8_t buffer[kChunk];
    if (c.received < c.head.down) {
      size_t size = std::min<uint64_t>(kChunk, c.head.down - c.received);
      ssize_t got = recv(c.fd, buffer, size, 0);
      if (got < 0) return Retry(why, "recv: ");
      if (got == 0) return Wrong(why, "ended early");
      size_t done = static_cast<size_t>(got);
      if (!Pattern(c.head.key ^ kDownKey).Matches(c.received, buffer, done)) {
        return Wrong(why, "wrong bytes came back");
      }
      c.received += done;
      return Step::kGoOn;
    }
    ssize_t got = recv(c.fd, reinterpret_cast<uint8_t*>(&c.trailer) + c.trailer_got,
                       sizeof(Trailer) - c.trailer_got + (c.trailer_got == sizeof(Trailer)), 0);
    if (got < 0) return Retry(why, "recv: ");
    if (got > 0 && c.trailer_got == sizeof(Trailer)) return Wrong(why, "bytes after the end");
    c.trailer_got += static_cast<size_t>(got);
    if (got > 0) return Step::kGoOn;
    if (c.trailer_got != sizeof(Trailer)) return Wrong(why, "ended before the trailer");
    if (c.trailer.good != 1 || c.trailer.received != c.head.up) {
      return Wrong(why, "the listener got wrong bytes");
    }
    return Step::kDone;
  }

  static Step Wrong(std::string* why, const char* what) {
    *why = what;
    return Step::kFailed;
  }

  void ExpireOld() {
    int64_t now = NowMs();
    if (now - last_expiry_ms_ < 100) return;
    last_expiry_ms_ = now;
    for (auto it = connections_.begin(); it != connections_.end();) {
      if (now - it->second->started_ms < timeout_ms_) {
        ++it;
        continue;
      }
      std::unique_ptr<Connection> owned = std::move(it->second);
      it = connections_.erase(it);
      Fail(*owned, owned->connected ? "timeout in transfer" : "timeout in connect");
    }
  }

  void Report(const Connection& c, const std::string& error) {
    if (!report_) return;
    JsonLine("connection")
        .Add("number", c.number)
        .Add("local", c.local)
        .Add("peer", c.peer)
        .Add("up", static_cast<int64_t>(c.sent))
        .Add("down", static_cast<int64_t>(c.received))
        .Add("ok", error.empty())
        .Add("error", error)
        .Print();
  }

  void Fail(const Connection& c, const std::string& why) {
    ++failed_;
    ++errors_[why];
    Report(c, why);
    close(c.fd);
  }

  void Succeed(const Connection& c) {
    ++ok_;
    bytes_up_ += c.sent;
    bytes_down_ += c.received;
    slowest_ms_ = std::max(slowest_ms_, NowMs() - c.started_ms);
    Report(c, "");
    close(c.fd);
  }

  std::vector<Endpoint> to_, from_;
  int64_t total_, concurrency_;
  uint64_t low_, high_;
  double skew_;
  uint64_t seed_;
  int64_t timeout_ms_, deadline_ms_;
  bool report_, peer_closes_, keep_going_;
  int epoll_ = -1;
  int64_t next_ = 0, ok_ = 0, failed_ = 0, most_at_once_ = 0, slowest_ms_ = 0, last_expiry_ms_ = 0;
  uint64_t bytes_up_ = 0, bytes_down_ = 0;
  std::map<std::string, int64_t> errors_;
  std::unordered_map<int, std::unique_ptr<Connection>> connections_;
};

}  // namespace

int TcpClient(int argc, char** argv) {
  return Client(Args(argc, argv,
                     {"to", "from", "connections", "concurrency", "min", "max", "skew-percent",
                      "seed", "timeout-ms", "seconds"},
                     {"report", "peer-closes", "keep-going"}))
      .Run();
}

}  // namespace traffic
