// SPDX-License-Identifier: GPL-3.0-or-later
// Small datagrams end to end: a sender in one network namespace, a transparent socket that takes
// them in another, a thread each of one process.
//
//   load datagrams --client NS_PATH --router NS_PATH --to ADDR:PORT --port LISTEN_PORT --from
//   ADDR,...
//                  --flows N --seconds-ms N [--rate PPS] [--bytes N]
//
// Without --rate the sender has no more than kWindow datagrams on the way, so that what is counted
// are datagrams that none was lost for; where the receiver falls silent, those on the way are given
// up as lost. A rate is a background load that nobody waits for. --bytes: of the IPv4 packet.
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <thread>
#include <vector>

#include "load.h"

namespace lab {
namespace {

using namespace traffic;

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kNsPerSec = 1'000'000'000;
constexpr int64_t kWindow = 2048;
constexpr int64_t kBurst = 32;
constexpr int64_t kGiveUpNs = 50 * kNsPerMs;
constexpr int64_t kHeaders = 28;  // IPv4 and UDP

void Enter(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) DieErrno("enter " + path);
  close(fd);
}

int OpenSink(int port) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const Endpoint at = MakeEndpoint("0.0.0.0", static_cast<uint16_t>(port));
  SetTransparent(fd, AF_INET);
  const int bytes = 16 << 20;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
  const timeval wait{.tv_sec = 0, .tv_usec = 20000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  if (bind(fd, at.raw(), at.length) != 0) DieErrno("bind");
  return fd;
}

void Receive(int fd, const std::atomic<bool>& stop, std::atomic<int64_t>* received) {
  char data[64][2048];
  iovec parts[64];
  mmsghdr messages[64] = {};
  for (int i = 0; i < 64; ++i) {
    parts[i] = {.iov_base = data[i], .iov_len = sizeof data[i]};
    messages[i].msg_hdr.msg_iov = &parts[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  while (!stop.load(std::memory_order_relaxed)) {
    const int n = recvmmsg(fd, messages, 64, MSG_WAITFORONE, nullptr);
    if (n > 0) received->fetch_add(n, std::memory_order_relaxed);
  }
}

std::vector<int> OpenFlows(const Args& args) {
  const Endpoint to = ParseEndpoint(args.Get("to"));
  const std::vector<std::string> from = Split(args.Get("from"), ',');
  std::vector<int> flows;
  for (size_t i = 0; i < static_cast<size_t>(args.Int("flows", 1)); ++i) {
    const Endpoint source = MakeEndpoint(from[i % from.size()], 0);
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, source.raw(), source.length) != 0) DieErrno("bind");
    if (connect(fd, to.raw(), to.length) != 0) DieErrno("connect");
    flows.push_back(fd);
  }
  return flows;
}

void Sleep(int64_t ns) {
  const timespec pause{.tv_sec = ns / kNsPerSec, .tv_nsec = ns % kNsPerSec};
  nanosleep(&pause, nullptr);
}

class Sender {
 public:
  Sender(const Args& args, const std::atomic<int64_t>* received)
      : flows_(OpenFlows(args)),
        data_(static_cast<size_t>(args.Int("bytes", 64) - kHeaders)),
        rate_(args.Int("rate", 0)),
        received_(received) {}

  void Run(int64_t duration_ns) {
    const int64_t began = NowNs();
    for (int64_t now = began; now < began + duration_ns; now = NowNs()) {
      const bool may = rate_ > 0 ? sent_ < (now - began) * rate_ / kNsPerSec : HasRoom(now);
      if (may) {
        Burst();
      } else if (rate_ > 0) {
        Sleep(kBurst * kNsPerSec / rate_);
      } else {
        Sleep(20'000);
      }
    }
  }
  int64_t sent() const { return sent_; }
  int64_t lost() const { return lost_; }

 private:
  bool HasRoom(int64_t now) {
    const int64_t received = received_->load(std::memory_order_relaxed);
    if (received != last_received_) {
      last_received_ = received;
      last_change_ns_ = now;
    }
    if (sent_ - lost_ - received + kBurst <= kWindow) return true;
    if (last_change_ns_ == 0) last_change_ns_ = now;
    if (now - last_change_ns_ < kGiveUpNs) return false;
    lost_ = sent_ - received;
    last_change_ns_ = now;
    return true;
  }

  void Burst() {
    for (int64_t i = 0; i < kBurst; ++i, ++sent_) {
      const int fd = flows_[static_cast<size_t>(sent_) % flows_.size()];
      (void)send(fd, data_.data(), data_.size(), 0);
    }
  }

  const std::vector<int> flows_;
  const std::vector<char> data_;
  const int64_t rate_;
  const std::atomic<int64_t>* const received_;
  int64_t sent_ = 0, lost_ = 0, last_received_ = 0, last_change_ns_ = 0;
};

}  // namespace

int Datagrams(int argc, char** argv) {
  const Args args(
      argc, argv,
      {"client", "router", "to", "port", "from", "flows", "seconds-ms", "rate", "bytes"}, {});
  RaiseFileLimit();
  std::atomic<bool> stop{false};
  std::atomic<int64_t> received{0};
  Enter(args.Get("router"));
  const int sink = OpenSink(static_cast<int>(args.Int("port", 0)));
  std::thread receiver([&] { Receive(sink, stop, &received); });
  Enter(args.Get("client"));
  Sender sender(args, &received);
  JsonLine("ready").Print();
  const int64_t began = NowNs();
  sender.Run(args.Int("seconds-ms", 1000) * kNsPerMs);
  const int64_t took = NowNs() - began, in_time = received.load();
  Sleep(100 * kNsPerMs);  // what is still on the way is not lost
  stop = true;
  receiver.join();
  JsonLine("summary")
      .Add("sent", sender.sent())
      .Add("received", in_time)
      .Add("lost", std::max(sender.lost(), sender.sent() - received.load()))
      .Add("ns", took)
      .Print();
  return 0;
}

}  // namespace lab
