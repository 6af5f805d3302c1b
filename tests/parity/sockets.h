// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_SOCKETS_H_
#define UTPROXY_TESTS_PARITY_SOCKETS_H_

#include <absl/functional/function_ref.h>
#include <absl/types/span.h>

#include <cstdint>
#include <vector>

#include "base/fd.h"
#include "netns.h"
#include "spec.h"

namespace utproxy::parity {

// What leads a connection, made in repair mode with these sequence numbers, to its state.
inline constexpr uint32_t kOurSeq = 1000;    // of the socket's next byte
inline constexpr uint32_t kTheirSeq = 2000;  // of its peer's
struct Step {
  enum class What : uint8_t { kPeerSegment, kShutdown, kClose } what;
  uint8_t flags = 0;  // of the peer's segment
  uint32_t seq = 0;
  uint32_t ack = 0;
};
std::vector<Step> StepsTo(const SocketSpec& spec);
// A segment from the socket's peer.
Packet PeerSegment(const SocketSpec& spec, uint8_t flags);

// The sockets of one scene, made in a namespace; ended, minisockets too, with this object. All
// functions are to be called inside of the namespace, the destructor included.
//
// Connections are made without a peer: by TCP_REPAIR, then led to their state by shutdown(2) and
// segments from the other side. A socket that the kernel refuses (a bind that conflicts) is left
// out; two namespaces that are given the same scene leave out the same ones.
class Sockets {
 public:
  // `observe` is called, with the connections that are to become minisockets while they still are
  // full sockets, and with request sockets.
  using Observe = absl::FunctionRef<void(absl::Span<const SocketSpec>)>;
  Sockets(const Netns& netns, absl::Span<const SocketSpec> specs, Observe observe);
  ~Sockets();
  Sockets(const Sockets&) = delete;
  Sockets& operator=(const Sockets&) = delete;

  // Makes a minisocket anew that a packet has ended; one that is still there is ended before.
  void Remake(size_t index, Observe observe);

  // Closes the socket, and its minisockets stay.
  void Close(size_t index) {
    fds_[index].reset();
    made_[index] = false;
  }

  bool made(size_t index) const { return made_[index]; }
  // -1 where there is none (any more).
  int fd(size_t index) const { return fds_[index].get(); }

 private:
  void Make(size_t index);
  void Observed(absl::Span<const size_t> which, Observe observe) const;
  void Finish(size_t index);

  const Netns& netns_;
  std::vector<SocketSpec> specs_;
  std::vector<UniqueFd> fds_;
  std::vector<bool> made_;
};

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_SOCKETS_H_
