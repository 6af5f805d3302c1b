// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_QUEUE_NF_QUEUE_H_
#define UTPROXY_QUEUE_NF_QUEUE_H_

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <memory>

#include "netlink/socket.h"
#include "queue/codec.h"
#include "queue/options.h"
#include "queue/verdict_buffer.h"

namespace utproxy {

// One NFQUEUE, bound by a netlink socket of its own, in the network namespace of the thread that
// bound it. All members are for one thread at a time, but Wake, which any thread may call.
// Destroying it unbinds the queue; packets still in it are dropped by the kernel.
class NfQueue {
 public:
  // Whether this thread may bind queues in its network namespace, without binding one. An error
  // with a remedy where CAP_NET_ADMIN is missing; what else may be missing is left to Bind.
  static absl::Status CheckPrivilege();

  // Binds and configures queue `number` with one message, as a queue that is bound but not yet
  // configured drops everything. Packets wait in the queue from here on. Errors with a remedy:
  // the queue is bound by another program, CAP_NET_ADMIN is missing, the kernel has no
  // nfnetlink_queue.
  static absl::StatusOr<std::unique_ptr<NfQueue>> Bind(uint16_t number,
                                                       const QueueOptions& options);

  // Goes on with a queue that another process bound, by its socket: packets that wait in it are
  // received here, and nothing of the queue is changed before Continue(). The other process may not
  // receive from it any more by then. NotFound where the socket has no such queue in this thread's
  // network namespace.
  static absl::StatusOr<std::unique_ptr<NfQueue>> Adopt(UniqueFd fd, uint16_t number,
                                                        const QueueOptions& options);
  // Configures an adopted queue as Bind() does. Packets that the process before received and did
  // not answer, as it was killed, go through their rule once more, and so come again. Before
  // anything is received.
  absl::Status Continue(const QueueOptions& options);

  NfQueue(const NfQueue&) = delete;
  NfQueue& operator=(const NfQueue&) = delete;

  uint16_t number() const { return number_; }
  int fd() const { return socket_.fd(); }
  // The socket buffer in bytes that the kernel granted.
  int receive_buffer() const { return receive_buffer_; }

  // What one Receive came to.
  enum class Received : uint8_t {
    kMessages,
    kNothing,  // nothing there (without waiting), or the wait of five seconds ended
    kOverrun,  // ENOBUFS: messages were lost (not expected, as NETLINK_NO_ENOBUFS is set)
    kError,    // see errno
  };
  using Handler = absl::FunctionRef<void(const Message&)>;

  // Receives up to kBatch datagrams and hands their messages to `handler`; views in them are
  // valid until the next Receive. Datagrams from anyone but the kernel are ignored.
  Received Receive(bool wait, Handler handler);

  // Bytes of the socket buffer that messages wait in. 0 where the kernel does not tell.
  uint32_t WaitingBytes() const;

  // Sends the verdicts, all at once. Returns 0, or the errno value of a send that failed time and
  // again: then none of them took effect. A single verdict that fails is told of by a kError
  // message of a later Receive.
  int SendVerdicts(const VerdictBuffer& verdicts);

  // Ends a Receive that waits, or the next one.
  void Wake();

  // Sets the queue's length to 0, so that the kernel queues no packet any more: drops the new
  // ones, or passes them if fail_open. By the time Receive yields the acknowledgement, a kError
  // message with error 0 and this sequence number, it has yielded all packets of the queue.
  static constexpr uint32_t kCutSequence = 0x637574;
  absl::Status Cut();
  // Of the answer to what Continue() asks, which tells nothing.
  static constexpr uint32_t kRequeueSequence = 0x726571;
  absl::Status Unbind();

 private:
  NfQueue(NetlinkSocket socket, uint16_t number, uint32_t copy_range);
  absl::Status Configure(const QueueOptions& options, bool bind);
  uint32_t LastReceived(uint32_t last_queued) const;
  absl::Status Requeue(uint32_t last_id);
  absl::Status ConfigureError(int error) const;

  NetlinkSocket socket_;
  const uint16_t number_;
  int receive_buffer_ = 0;
  size_t slot_bytes_;
  std::unique_ptr<uint8_t[]> slots_;
  std::array<sockaddr_nl, kBatch> from_{};
  std::array<iovec, kBatch> iov_{};
  std::array<mmsghdr, kBatch> headers_{};
};

}  // namespace utproxy

#endif  // UTPROXY_QUEUE_NF_QUEUE_H_
