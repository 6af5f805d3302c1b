// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_STEER_LISTENER_FINDER_H_
#define UTPROXY_STEER_LISTENER_FINDER_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <memory>

#include "utproxy/flow.h"

struct bpf_link;
struct find_listener_bpf;

namespace utproxy {

// Puts listeners into the sk_lookup program's SOCKHASH by their cookies, with BPF iterators over
// the kernel's sockets. So it does not matter who holds a listener, and nothing of its owner's is
// touched. Costs some 10 µs; for UDP, whose unconnected sockets do not come first, another 150 ns
// for each UDP socket of the network namespace.
//
// Two threads may not use one of these at once.
class ListenerFinder {
 public:
  // `listeners_fd`: the SOCKHASH, u64 cookie → u64. kUnimplemented where the kernel cannot do it:
  // before Linux 5.10, without BTF, or without the privilege, CAP_PERFMON beside CAP_BPF.
  static absl::StatusOr<ListenerFinder> Load(int listeners_fd);

  // The socket with this SO_COOKIE, of the calling thread's network namespace. kNotFound: there is
  // no such TCP listener, or UDP socket, any more. Another error: the map does not take it.
  absl::Status Enter(uint64_t cookie, Proto proto);

 private:
  struct DestroySkeleton {
    void operator()(find_listener_bpf* skeleton) const;
  };
  struct DestroyLink {
    void operator()(bpf_link* link) const;
  };
  using Skeleton = std::unique_ptr<find_listener_bpf, DestroySkeleton>;
  using Link = std::unique_ptr<bpf_link, DestroyLink>;

  ListenerFinder(Skeleton skeleton, Link tcp, Link udp)
      : skeleton_(std::move(skeleton)), tcp_(std::move(tcp)), udp_(std::move(udp)) {}

  Skeleton skeleton_;
  Link tcp_, udp_;  // after the skeleton: detached before the programs go
};

}  // namespace utproxy

#endif  // UTPROXY_STEER_LISTENER_FINDER_H_
