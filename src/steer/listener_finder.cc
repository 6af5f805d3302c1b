// SPDX-License-Identifier: GPL-3.0-or-later
#include "steer/listener_finder.h"

#include <absl/strings/str_cat.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <unistd.h>

#include <cerrno>

#include "base/fd.h"
#include "base/status.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "steer/find_listener.skel.h"
#pragma GCC diagnostic pop

namespace utproxy {
namespace {

constexpr int64_t kNotFound = 1;  // what the program leaves `result` at

absl::Status EnterError(int error, uint64_t cookie) {
  const char* hint = error == EINVAL || error == EOPNOTSUPP
                         ? " (no plain TCP listener: with MPTCP? In Go, GODEBUG=multipathtcp=0)"
                         : "";
  return ErrnoStatus(
      error, absl::StrCat("enter listener socket with cookie ", cookie, " for steering", hint));
}

absl::Status CannotFind(const char* what, int error) {
  return absl::UnimplementedError(
      absl::StrCat("find listeners in the kernel: ", what, ": ", ErrnoStatus(error, "").message()));
}

}  // namespace

void ListenerFinder::DestroySkeleton::operator()(find_listener_bpf* skeleton) const {
  find_listener_bpf__destroy(skeleton);
}
void ListenerFinder::DestroyLink::operator()(bpf_link* link) const { bpf_link__destroy(link); }

absl::StatusOr<ListenerFinder> ListenerFinder::Load(int listeners_fd) {
  Skeleton skeleton(find_listener_bpf__open());
  if (skeleton == nullptr) return CannotFind("open", errno);
  if (const int error = bpf_map__reuse_fd(skeleton->maps.listeners, listeners_fd); error != 0) {
    return CannotFind("share the map of listeners", -error);
  }
  if (const int error = find_listener_bpf__load(skeleton.get()); error != 0) {
    return CannotFind("load", -error);
  }
  Link tcp(bpf_program__attach_iter(skeleton->progs.find_tcp, nullptr));
  Link udp(tcp == nullptr ? nullptr : bpf_program__attach_iter(skeleton->progs.find_udp, nullptr));
  if (udp == nullptr) return CannotFind("attach", errno);
  return ListenerFinder(std::move(skeleton), std::move(tcp), std::move(udp));
}

absl::Status ListenerFinder::Enter(uint64_t cookie, Proto proto) {
  const bpf_link* link = proto == Proto::kTcp ? tcp_.get() : udp_.get();
  const UniqueFd iterator(bpf_iter_create(bpf_link__fd(link)));
  if (!iterator.valid()) return ErrnoStatus(errno, "walk through the kernel's sockets");
  skeleton_->bss->wanted = cookie;
  skeleton_->data->result = kNotFound;
  // The program writes nothing: one read is the whole walk, or ends with EAGAIN where the program
  // ends it. It can be interrupted only before a socket has been looked at.
  char byte;
  ssize_t length = 0;
  do {
    length = ::read(iterator.get(), &byte, sizeof byte);
  } while (length < 0 && errno == EINTR);
  const int error = length < 0 ? errno : 0;
  const int64_t result = skeleton_->data->result;
  if (result == 0) return absl::OkStatus();
  if (result < 0) {
    return EnterError(static_cast<int>(-result), cookie);
  }
  if (error != 0 && error != EAGAIN) return ErrnoStatus(error, "walk through the kernel's sockets");
  return absl::NotFoundError(
      absl::StrCat("there is no listener with cookie ", cookie, " any more"));
}

}  // namespace utproxy
