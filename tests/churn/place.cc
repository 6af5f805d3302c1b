// SPDX-License-Identifier: GPL-3.0-or-later
#include "churn/place.h"

#include <absl/strings/str_cat.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#ifndef IPV6_TRANSPARENT
#define IPV6_TRANSPARENT 75
#endif

namespace utproxy::churn {
namespace {

int InetOf(Serves serves) { return serves == Serves::kIpv4 ? AF_INET : AF_INET6; }

socklen_t Fill(int inet, const Address& address, uint16_t port, sockaddr_storage* storage) {
  *storage = {};
  if (inet == AF_INET) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    v4->sin_addr.s_addr = address.Ipv4();
    return sizeof *v4;
  }
  auto* v6 = reinterpret_cast<sockaddr_in6*>(storage);
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(port);
  std::memcpy(&v6->sin6_addr, address.bytes().data(), 16);
  return sizeof *v6;
}

void SetOption(const UniqueFd& fd, int level, int option, int value) {
  if (::setsockopt(fd.get(), level, option, &value, sizeof value) != 0) Die("setsockopt");
}

}  // namespace

bool Place::Change(const char* what, const std::function<bool()>& act,
                   const std::function<void(PlaceState*)>& edit) {
  const int64_t before_ns = MonotonicNs();
  if (!act()) {
    ++world_.refused[absl::StrCat(what, ": ", std::strerror(errno))];
    return false;
  }
  Note(what, before_ns, edit);
  return true;
}

void Place::Note(const char* what, int64_t before_ns, const std::function<void(PlaceState*)>& edit,
                 Counts counts) {
  const int64_t after_ns = MonotonicNs();
  PlaceState state = timeline_.now();
  edit(&state);
  timeline_.Record(before_ns, after_ns, what, std::move(state));
  if (counts == Counts::kChange) ++world_.changes[what];
}

SocketState* FindMark(PlaceState* state, uint32_t mark) {
  const auto it = std::find_if(state->begin(), state->end(),
                               [&](const SocketState& socket) { return socket.mark == mark; });
  return it == state->end() ? nullptr : &*it;
}

void EraseMark(PlaceState* state, uint32_t mark) {
  state->erase(std::remove_if(state->begin(), state->end(),
                              [&](const SocketState& socket) { return socket.mark == mark; }),
               state->end());
}

UniqueFd NewSocket(Proto proto, Serves serves, uint32_t mark) {
  const int type = (proto == Proto::kTcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC;
  UniqueFd fd(::socket(InetOf(serves), type, 0));
  if (!fd.valid()) Die("socket");
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (proto == Proto::kTcp) SetOption(fd, SOL_SOCKET, SO_REUSEPORT, 1);
  SetOption(fd, SOL_SOCKET, SO_MARK, static_cast<int>(mark));
  if (serves != Serves::kIpv4) SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, serves == Serves::kIpv6);
  SetTransparent(fd, serves, true);
  return fd;
}

bool BindTo(const UniqueFd& fd, Serves serves, const Address& address, uint16_t port) {
  sockaddr_storage storage;
  const socklen_t length = Fill(InetOf(serves), address, port, &storage);
  return ::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0;
}

bool ConnectTo(const UniqueFd& fd, Family family, const Address& address, uint16_t port) {
  sockaddr_storage storage;
  const int inet = family == Family::kIpv4 ? AF_INET : AF_INET6;
  const socklen_t length = Fill(inet, address, port, &storage);
  return ::connect(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0 ||
         errno == EINPROGRESS;
}

bool Disconnect(const UniqueFd& fd) {
  const sockaddr nobody{.sa_family = AF_UNSPEC};
  return ::connect(fd.get(), &nobody, sizeof nobody) == 0;
}

bool SetTransparent(const UniqueFd& fd, Serves serves, bool on) {
  const int value = on;
  const bool v4 = serves == Serves::kIpv4;
  return ::setsockopt(fd.get(), v4 ? IPPROTO_IP : IPPROTO_IPV6,
                      v4 ? IP_TRANSPARENT : IPV6_TRANSPARENT, &value, sizeof value) == 0;
}

void AbortOnClose(const UniqueFd& fd) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now) != 0) Die("SO_LINGER");
}

}  // namespace utproxy::churn
