// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_QUEUE_LOOPBACK_H_
#define UTPROXY_TESTS_QUEUE_LOOPBACK_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"

#ifndef SO_RCVMARK
#define SO_RCVMARK 75
#endif

// Loopback UDP in a network namespace of the calling thread's own, for what needs real packets.
namespace utproxy::loopback {

// Runs a shell command in the calling thread's namespace.
inline bool Shell(const std::string& command) {
  return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

inline constexpr uint16_t kPort = 5000;

// Queues what goes to kPort, as it arrives on lo. `queues`: "--queue-num 0".
inline bool QueueRule(const std::string& queues, const char* iptables = "iptables-nft") {
  return Shell(std::string(iptables) + " -t mangle -A PREROUTING -i lo -p udp --dport " +
               std::to_string(kPort) + " -j NFQUEUE " + queues);
}

class Receiver {
 public:
  explicit Receiver(int family = AF_INET) : fd_(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    const int on = 1;
    const int bytes = 256 << 20;
    const timeval timeout{.tv_sec = 10, .tv_usec = 0};
    rcvmark_ = ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVMARK, &on, sizeof on) == 0;
    bool ok = ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) == 0;
    ok = ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0 && ok;
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(kPort);
    v6.sin6_addr = in6addr_loopback;
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(kPort);
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ok_ = ok &&
          (family == AF_INET ? ::bind(fd_.get(), reinterpret_cast<sockaddr*>(&v4), sizeof v4) == 0
                             : ::bind(fd_.get(), reinterpret_cast<sockaddr*>(&v6), sizeof v6) == 0);
  }
  bool ok() const { return ok_; }
  bool rcvmark() const { return rcvmark_; }

  // Waits up to ten seconds for a datagram; its mark, or nullopt where none came.
  std::optional<uint32_t> Wait() { return Receive(0); }
  // Takes what is there.
  std::optional<uint32_t> Poll() { return Receive(MSG_DONTWAIT); }
  size_t Count() {
    size_t n = 0;
    while (Poll()) ++n;
    return n;
  }

 private:
  std::optional<uint32_t> Receive(int flags) {
    char data[2048];
    alignas(cmsghdr) char control[64];
    iovec iov{.iov_base = data, .iov_len = sizeof data};
    msghdr message{};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (::recvmsg(fd_.get(), &message, flags) < 0) return std::nullopt;
    uint32_t mark = 0;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_MARK) {
        std::memcpy(&mark, CMSG_DATA(c), sizeof mark);
      }
    }
    return mark;
  }

  UniqueFd fd_;
  bool ok_ = false;
  bool rcvmark_ = false;
};

// Sends to the receiver from 127.0.0.`source`, or from ::1.
class Sender {
 public:
  explicit Sender(uint32_t mark = 0, int family = AF_INET, uint8_t source = 1)
      : fd_(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    ok_ = ::setsockopt(fd_.get(), SOL_SOCKET, SO_MARK, &mark, sizeof mark) == 0;
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(kPort);
    v6.sin6_addr = in6addr_loopback;
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_addr.s_addr = htonl((INADDR_LOOPBACK & ~0xffu) | source);
    if (family == AF_INET) {
      ok_ = ::bind(fd_.get(), reinterpret_cast<sockaddr*>(&v4), sizeof v4) == 0 && ok_;
      v4.sin_port = htons(kPort);
      v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      ok_ = ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&v4), sizeof v4) == 0 && ok_;
    } else {
      ok_ = ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&v6), sizeof v6) == 0 && ok_;
    }
  }
  bool ok() const { return ok_; }
  // Returns how many of `n` datagrams of `size` bytes were sent.
  size_t Send(size_t n, size_t size = 22) {
    const std::vector<char> data(size, 'x');
    size_t sent = 0;
    for (size_t i = 0; i < n; ++i) {
      if (::send(fd_.get(), data.data(), data.size(), 0) == static_cast<ssize_t>(size)) ++sent;
    }
    return sent;
  }

 private:
  UniqueFd fd_;
  bool ok_ = false;
};

}  // namespace utproxy::loopback

#endif  // UTPROXY_TESTS_QUEUE_LOOPBACK_H_
