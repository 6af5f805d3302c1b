// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TRACE_NFLOG_SOURCE_H_
#define UTPROXY_TRACE_NFLOG_SOURCE_H_

#include <absl/functional/function_ref.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <optional>

#include "netlink/socket.h"
#include "trace/nflog_codec.h"

namespace utproxy {

// Makes the kernel send this socket what the group's log rules log, the first `copy_bytes` of each
// packet, at once. Needs CAP_NET_ADMIN; a group has one reader. Errors carry a remedy.
absl::Status BindNflogGroup(NetlinkSocket* socket, uint16_t group, uint32_t copy_bytes);

// Copies of packets that a log rule sends to an NFLOG group of the calling thread's network
// namespace (nft `log group N`, iptables' NFLOG). Nothing waits for who reads them: what does not
// fit the socket's buffer is lost, and counted by the kernel's sequence numbers. For one thread.
class NflogSource {
 public:
  // Needs CAP_NET_ADMIN. A group has one reader: an error where another program has it.
  static absl::StatusOr<NflogSource> Open(uint16_t group);

  // Waits up to `timeout_ms` for packets and hands over those of one message from the kernel; a
  // view is valid during the call. Messages that are no packets are passed over.
  absl::Status Receive(int timeout_ms, absl::FunctionRef<void(const NflogPacket&)> handler);

  // Packets that were logged and never seen here, up to the last one that was.
  uint64_t lost() const { return lost_; }

 private:
  explicit NflogSource(NetlinkSocket socket) : socket_(std::move(socket)) {}
  void Count(const NflogPacket& packet);

  NetlinkSocket socket_;
  std::optional<uint32_t> expected_;
  uint64_t lost_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_TRACE_NFLOG_SOURCE_H_
