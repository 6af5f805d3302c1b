// SPDX-License-Identifier: GPL-3.0-or-later
// Sends datagrams from an unconnected socket, at most `--window` unanswered at a time, and checks
// that every answer comes from the address that was asked and carries the right bytes.
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <unordered_map>

#include "common.h"

namespace traffic {
namespace {

constexpr size_t kLargest = 65507;

class Client {
 public:
  explicit Client(const Args& args)
      : to_(ParseEndpoints(args.Get("to"))),
        count_(args.Int("count", 1)),
        window_(args.Int("window", 1)),
        low_(static_cast<uint64_t>(args.Int("min", 200))),
        high_(static_cast<uint64_t>(args.Int("max", 200))),
        seed_(static_cast<uint64_t>(args.Int("seed", 1))),
        timeout_ms_(args.Int("timeout-ms", 3000)),
        pause_us_(args.Int("pause-us", 0)),
        no_answer_(args.Flag("no-answer")),
        keep_going_(args.Flag("keep-going")),
        deadline_ms_(NowMs() + args.Int("seconds", 300) * 1000) {
    if (to_.empty()) DieUsage("udp-client needs --to");
    if (low_ < sizeof(Head) || high_ > kLargest) DieUsage("sizes are 40 to 65507");
    fd_ = socket(to_[0].family(), SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd_ < 0) DieErrno("socket");
    int size = 8 << 20;
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    setsockopt(fd_, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
    int mark = static_cast<int>(args.Int("mark", 0));
    if (mark != 0) SetIntOption(fd_, SOL_SOCKET, SO_MARK, mark, "SO_MARK");
    if (!args.Get("from").empty()) {
      Endpoint from = ParseEndpoint(args.Get("from"));
      if (bind(fd_, from.raw(), from.length) != 0) DieErrno("bind");
    }
  }

  int Run() {
    int64_t last_news = NowMs();
    while (!Stopped() && NowMs() < deadline_ms_) {
      bool may_send =
          sent_ < count_ && (no_answer_ || static_cast<int64_t>(waiting_.size()) < window_);
      if (may_send && Ask()) last_news = NowMs();
      if (TakeAnswers()) last_news = NowMs();
      bool all_answered = waiting_.empty() || no_answer_;
      if (sent_ == count_ && all_answered) break;
      if (NowMs() - last_news > timeout_ms_ && !GiveUpOldest()) break;
      pollfd wait{fd_, POLLIN, 0};
      if (!may_send) poll(&wait, 1, 50);
    }
    JsonLine("summary")
        .Add("sent", sent_)
        .Add("answered", answered_)
        .Add("wrong", wrong_)
        .Add("lost", static_cast<int64_t>(waiting_.size()) + lost_)
        .Add("local", LocalOf(fd_))
        .Add("errors", errors_)
        .Print();
    return keep_going_ || (sent_ == count_ && (no_answer_ || answered_ == count_) && wrong_ == 0)
               ? 0
               : 1;
  }

 private:
  struct Asked {
    uint64_t key;
    uint64_t size;
    size_t to;
  };

  bool Ask() {
    static uint8_t bytes[kLargest];
    uint64_t n = Mix(seed_) ^ static_cast<uint64_t>(sent_);
    Asked asked{Mix(n), PickSize(Mix(n + 1), low_, high_, 1.0),
                static_cast<size_t>(sent_) % to_.size()};
    Head head{kUdpAsk, asked.key, static_cast<uint64_t>(sent_), asked.size, 0};
    std::memcpy(bytes, &head, sizeof(head));
    Pattern(asked.key).Fill(0, bytes + sizeof(head), asked.size - sizeof(head));
    const Endpoint& to = to_[asked.to];
    if (sendto(fd_, bytes, asked.size, 0, to.raw(), to.length) < 0) {
      if (errno != EAGAIN) ++errors_[std::string("sendto: ") + std::strerror(errno)];
      if (errno != EAGAIN) ++sent_, ++lost_;
      return false;
    }
    if (!no_answer_) waiting_[static_cast<uint64_t>(sent_)] = asked;
    ++sent_;
    if (pause_us_ > 0) usleep(static_cast<useconds_t>(pause_us_));
    return true;
  }

  bool TakeAnswers() {
    static uint8_t bytes[kLargest];
    bool any = false;
    for (;;) {
      Endpoint from;
      from.length = sizeof(from.storage);
      ssize_t got = recvfrom(fd_, bytes, sizeof(bytes), 0, from.raw(), &from.length);
      if (got < 0) {
        if (errno == EAGAIN || errno == EINTR) return any;
        ++errors_[std::string("recvfrom: ") + std::strerror(errno)];
        return any;
      }
      any = true;
      Check(bytes, static_cast<size_t>(got), FormatEndpoint(from));
    }
  }

  void Check(const uint8_t* bytes, size_t size, const std::string& from) {
    Head head;
    if (size < sizeof(head)) return Wrong("short answer");
    std::memcpy(&head, bytes, sizeof(head));
    auto found = waiting_.find(head.up);
    if (head.magic != kUdpAnswer || found == waiting_.end()) return Wrong("unexpected answer");
    Asked asked = found->second;
    waiting_.erase(found);
    if (from != FormatEndpoint(to_[asked.to])) return Wrong("answer came from " + from);
    if (size != asked.size ||
        !Pattern(asked.key ^ kDownKey).Matches(0, bytes + sizeof(head), size - sizeof(head))) {
      return Wrong("wrong bytes came back");
    }
    ++answered_;
  }

  void Wrong(const std::string& why) {
    ++wrong_;
    ++errors_[why];
  }

  // What has waited too long counts as lost, so that the rest can still be asked.
  bool GiveUpOldest() {
    if (sent_ == count_ || waiting_.empty()) return false;
    lost_ += static_cast<int64_t>(waiting_.size());
    waiting_.clear();
    return true;
  }

  std::vector<Endpoint> to_;
  int64_t count_, window_;
  uint64_t low_, high_, seed_;
  int64_t timeout_ms_, pause_us_;
  bool no_answer_, keep_going_;
  int64_t deadline_ms_;
  int fd_ = -1;
  int64_t sent_ = 0, answered_ = 0, wrong_ = 0, lost_ = 0;
  std::map<std::string, int64_t> errors_;
  std::unordered_map<uint64_t, Asked> waiting_;
};

}  // namespace

int UdpClient(int argc, char** argv) {
  return Client(Args(argc, argv,
                     {"to", "from", "count", "window", "min", "max", "seed", "timeout-ms",
                      "pause-us", "seconds", "mark"},
                     {"no-answer", "keep-going"}))
      .Run();
}

}  // namespace traffic
