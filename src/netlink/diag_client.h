// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_NETLINK_DIAG_CLIENT_H_
#define UTPROXY_NETLINK_DIAG_CLIENT_H_

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "netlink/diag_codec.h"
#include "netlink/socket.h"

namespace utproxy {

// What the kernel said to one exact query.
struct ExactReply {
  bool answered = false;         // false: the query itself failed, nothing is known
  std::optional<Socket> socket;  // nullopt: there is no such socket
};

// sock_diag of the calling thread's network namespace at Open(). For one thread at a time.
class DiagClient {
 public:
  static absl::StatusOr<DiagClient> Open();

  // Hands every socket of the dump to `handler`, in the kernel's order.
  absl::Status Dump(Family family, Proto proto, uint32_t states,
                    absl::FunctionRef<void(const Socket&)> handler);

  // Adds a query to the pending batch and returns its index in the replies.
  size_t AddQuery(Family family, const FlowKey& flow, uint32_t dif);
  // Sends the pending queries, as many in one message as the kernel takes, and returns their
  // replies, valid until the next AddQuery or Ask. Empties the batch. A query that could not be
  // sent or whose answer was lost has `answered` false.
  absl::Span<const ExactReply> Ask();

  // Ends a socket (SOCK_DESTROY) that an exact query just named; NotFound where it has gone.
  absl::Status Destroy(const Socket& socket, Family family, uint32_t dif);

  uint64_t queries() const { return queries_; }

 private:
  explicit DiagClient(NetlinkSocket socket) : socket_(std::move(socket)), buffers_(kBufferBytes) {}

  void AskChunk(size_t first, size_t count);
  // Returns how many of the chunk's queries the datagram answered.
  size_t TakeReplies(absl::Span<const char> datagram, size_t first, size_t count);

  static constexpr size_t kChunk = 32;         // queries in one send, replies in one recvmmsg
  static constexpr size_t kReplyBytes = 2048;  // a reply has some 300 bytes
  static constexpr size_t kBufferBytes = kChunk * kReplyBytes;

  NetlinkSocket socket_;
  std::vector<DiagRequest> pending_;
  std::vector<ExactReply> replies_;
  std::vector<char> buffers_;
  uint32_t sequence_ = 1;
  uint64_t queries_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_NETLINK_DIAG_CLIENT_H_
