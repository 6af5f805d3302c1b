// SPDX-License-Identifier: GPL-3.0-or-later
#include "churn/idle.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "churn/wire.h"

namespace utproxy::churn {
namespace {

constexpr size_t kPerProcess = 10000;  // sockets; all of one kind connect from one address
constexpr uint16_t kFirstPort = 1;     // of the listeners, one a process

sockaddr_in Loopback(size_t host, uint16_t port) {
  sockaddr_in address{.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + static_cast<uint32_t>(host));
  return address;
}

void RaiseFileLimit() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < kPerProcess + 100) Die("RLIMIT_NOFILE is too low for idle sockets");
}

// A socket connected to `to` from the number-th loopback address.
UniqueFd Connected(int type, size_t number, const sockaddr_in& to) {
  UniqueFd fd(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
  if (!fd.valid()) Die("socket");
  const int yes = 1;
  ::setsockopt(fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
  const sockaddr_in from = Loopback(1 + number, 0);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&from), sizeof from) != 0) Die("bind");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) Die("connect");
  return fd;
}

void OpenTcp(size_t sockets, size_t number, std::vector<UniqueFd>* open) {
  if (sockets == 0) return;
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in at = Loopback(0, static_cast<uint16_t>(kFirstPort + number));
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0 ||
      ::listen(listener.get(), 64) != 0) {
    Die("listen for idle connections");
  }
  for (size_t i = 0; i < sockets; i += 2) {
    open->push_back(Connected(SOCK_STREAM, number, at));
    open->emplace_back(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!open->back().valid()) Die("accept an idle connection");
  }
}

}  // namespace

IdleSockets::IdleSockets(size_t tcp, size_t udp) {
  for (size_t number = 0; tcp > 0 || udp > 0; ++number) {
    const size_t tcp_now = std::min(tcp, kPerProcess);
    const size_t udp_now = std::min(udp, kPerProcess - tcp_now);
    Start(tcp_now, udp_now, number);
    tcp -= tcp_now;
    udp -= udp_now;
  }
}

void IdleSockets::Start(size_t tcp, size_t udp, size_t number) {
  int ready[2], end[2];
  if (::pipe2(ready, O_CLOEXEC) != 0 || ::pipe2(end, O_CLOEXEC) != 0) Die("pipe");
  UniqueFd is_ready(ready[0]), tell(ready[1]), wait(end[0]), keep(end[1]);
  const pid_t pid = ::fork();
  if (pid < 0) Die("fork");
  char byte = 0;
  if (pid == 0) {
    keep.reset();
    for (Holder& holder : holders_) holder.end.reset();
    RaiseFileLimit();
    std::vector<UniqueFd> open;
    OpenTcp(tcp, number, &open);
    for (size_t i = 0; i < udp; ++i) open.push_back(Connected(SOCK_DGRAM, number, Loopback(0, 9)));
    if (::write(tell.get(), &byte, 1) != 1) ::_exit(1);
    (void)!::read(wait.get(), &byte, 1);
    ::_exit(0);
  }
  holders_.push_back({pid, std::move(keep)});
  tell.reset();  // so that the reading ends if the process does
  if (::read(is_ready.get(), &byte, 1) != 1) Die("a process with idle sockets ended early");
}

IdleSockets::~IdleSockets() {
  for (Holder& holder : holders_) {
    holder.end.reset();
    ::waitpid(holder.pid, nullptr, 0);
  }
}

}  // namespace utproxy::churn
