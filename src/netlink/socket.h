// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_NETLINK_SOCKET_H_
#define UTPROXY_NETLINK_SOCKET_H_

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>
#include <linux/netlink.h>

#include <cstdint>
#include <vector>

#include "base/fd.h"

namespace utproxy {

// A netlink socket in the calling thread's network namespace. Blocking, with a receive time-out
// of five seconds, so that a kernel that does not answer is an error and not a hang.
// For one thread at a time. Messages are built with libmnl by the caller.
class NetlinkSocket {
 public:
  // `bus`: NETLINK_SOCK_DIAG, NETLINK_ROUTE, NETLINK_NETFILTER, ...
  static absl::StatusOr<NetlinkSocket> Open(int bus);

  // Goes on with a socket that another process opened and bound. What answers to that one's
  // requests still wait in it are not taken for answers to this one's. InvalidArgument where `fd`
  // is no bound netlink socket of that bus.
  static absl::StatusOr<NetlinkSocket> Adopt(UniqueFd fd, int bus);

  NetlinkSocket(NetlinkSocket&&) = default;
  NetlinkSocket& operator=(NetlinkSocket&&) = default;

  int fd() const { return fd_.get(); }
  uint32_t port_id() const { return port_id_; }

  absl::Status JoinGroup(unsigned group);
  // SO_RCVBUFFORCE, or SO_RCVBUF without CAP_NET_ADMIN. Returns the size the kernel granted.
  absl::StatusOr<int> SetReceiveBuffer(int bytes);
  // NETLINK_NO_ENOBUFS: on overrun the kernel drops messages silently instead of refusing
  // everything until the buffer is drained.
  absl::Status SetNoEnobufs();

  absl::Status Send(absl::Span<const char> bytes);

  using Handler = absl::FunctionRef<void(const nlmsghdr&)>;

  // Sends one request (nlmsg_seq is set here), then hands every data message of the answer to
  // `handler` until NLMSG_DONE, an acknowledgement, or, for requests without NLM_F_DUMP and
  // NLM_F_ACK, the first message. An NLMSG_ERROR becomes an error named `what`. Sets
  // `*dump_interrupted` (may be null) where the kernel flagged NLM_F_DUMP_INTR.
  absl::Status Transact(nlmsghdr* request, absl::string_view what, Handler handler,
                        bool* dump_interrupted = nullptr);

  // Reads one datagram without blocking and hands its messages to `handler`. False where there is
  // nothing to read. ENOBUFS, the kernel's word that messages were lost, is a
  // kResourceExhausted error: resynchronize.
  absl::StatusOr<bool> ReceiveEvents(Handler handler);

 private:
  NetlinkSocket(UniqueFd fd, uint32_t port_id) : fd_(std::move(fd)), port_id_(port_id) {}

  UniqueFd fd_;
  uint32_t port_id_ = 0;
  uint32_t sequence_ = 0;
  std::vector<char> buffer_;  // of Transact, kept since a listener's dump is over in 15 µs
};

}  // namespace utproxy

#endif  // UTPROXY_NETLINK_SOCKET_H_
