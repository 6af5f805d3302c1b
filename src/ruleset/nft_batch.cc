// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/nft_batch.h"

#include <absl/strings/str_cat.h>
#include <libmnl/libmnl.h>
#include <libnftnl/common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <optional>

#include "base/status.h"
#include "netlink/messages.h"
#include "ruleset/nft_objects.h"

namespace utproxy {
namespace {

// Three lists of kMaxCidrs prefixes in each of three chains stay well below this.
constexpr int kSendBuffer = 64 * 1024 * 1024;
constexpr size_t kReceiveBytes = 64 * 1024;

// Numbers of their own, so that a late answer to one transaction is not taken for another's.
uint32_t ReserveSequence(uint32_t count) {
  static std::atomic<uint32_t> next{0x40000000};
  return next.fetch_add(count);
}

// Reads error messages until the one for `last`, which asked for an acknowledgement, or until one
// that says the batch was not looked at.
class ErrorReader {
 public:
  ErrorReader(uint32_t first, size_t count) : first_(first), errors_(count, 0) {}

  // True when the answer is complete.
  bool Take(const nlmsghdr& nlh) {
    const std::optional<int> answer = ErrorOf(nlh);
    if (nlh.nlmsg_type != NLMSG_ERROR || !answer) return false;
    const int error = *answer;
    const uint32_t index = nlh.nlmsg_seq - first_;
    if (index == 0 && error != 0) batch_error_ = error;
    if (index == 0 || index > errors_.size()) return index == 0 && error == EPERM;
    if (errors_[index - 1] == 0) errors_[index - 1] = error;
    return index == errors_.size();
  }
  int batch_error() const { return batch_error_; }
  NftBatch::Errors TakeErrors() { return std::move(errors_); }

 private:
  uint32_t first_;  // the number of the batch's opening message
  NftBatch::Errors errors_;
  int batch_error_ = 0;
};

absl::Status Receive(const NetlinkSocket& socket, ErrorReader& reader) {
  const auto buffer = std::make_unique<nlmsghdr[]>(kReceiveBytes / sizeof(nlmsghdr));
  while (true) {
    sockaddr_nl from{};
    socklen_t from_len = sizeof from;
    const ssize_t n = ::recvfrom(socket.fd(), buffer.get(), kReceiveBytes, 0,
                                 reinterpret_cast<sockaddr*>(&from), &from_len);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "read the answer of nf_tables");
    if (from.nl_pid != 0) continue;
    absl::Span<const char> rest(reinterpret_cast<const char*>(buffer.get()),
                                static_cast<size_t>(n));
    while (const nlmsghdr* nlh = TakeMessage(&rest)) {
      if (reader.Take(*nlh)) return absl::OkStatus();
    }
  }
}

void AppendMarker(uint16_t type, std::vector<char>& bytes) {
  alignas(nlmsghdr) char buffer[64];
  const nlmsghdr* nlh =
      type == NFNL_MSG_BATCH_BEGIN ? nftnl_batch_begin(buffer, 0) : nftnl_batch_end(buffer, 0);
  bytes.insert(bytes.end(), buffer, buffer + NLMSG_ALIGN(nlh->nlmsg_len));
}

}  // namespace

absl::StatusOr<NetlinkSocket> OpenNftSocket() {
  ASSIGN_OR_RETURN(NetlinkSocket socket, NetlinkSocket::Open(NETLINK_NETFILTER));
  // Both are conveniences: without the first, large lists fail with a message of their own; the
  // second keeps error messages from quoting the whole request.
  const int size = kSendBuffer, on = 1;
  (void)::setsockopt(socket.fd(), SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
  (void)::setsockopt(socket.fd(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
  return socket;
}

void NftBatch::Add(uint16_t type, uint16_t family, uint16_t flags, std::string what,
                   absl::FunctionRef<void(nlmsghdr*)> payload) {
  if (bytes_.empty()) AppendMarker(NFNL_MSG_BATCH_BEGIN, bytes_);
  const auto buffer = std::make_unique<nlmsghdr[]>(kMaxMessage / sizeof(nlmsghdr) + 1);
  nlmsghdr* nlh =
      nftnl_nlmsg_build_hdr(reinterpret_cast<char*>(buffer.get()), type, family, flags, 0);
  payload(nlh);
  const char* begin = reinterpret_cast<const char*>(nlh);
  bytes_.insert(bytes_.end(), begin, begin + NLMSG_ALIGN(nlh->nlmsg_len));
  names_.push_back(std::move(what));
}

absl::StatusOr<NftBatch::Errors> NftBatch::Run(NetlinkSocket& socket) {
  if (names_.empty()) return Errors();
  std::vector<char> bytes = bytes_;
  AppendMarker(NFNL_MSG_BATCH_END, bytes);
  const uint32_t first = ReserveSequence(static_cast<uint32_t>(names_.size()) + 2);
  uint32_t number = 0;
  for (size_t at = 0; at < bytes.size();) {
    auto* nlh = reinterpret_cast<nlmsghdr*>(bytes.data() + at);
    nlh->nlmsg_seq = first + number;
    if (number == names_.size()) nlh->nlmsg_flags |= NLM_F_ACK;
    at += NLMSG_ALIGN(nlh->nlmsg_len);
    ++number;
  }
  RETURN_IF_ERROR(socket.Send(bytes));
  ErrorReader reader(first, names_.size());
  RETURN_IF_ERROR(Receive(socket, reader));
  if (reader.batch_error() != 0) {
    return nft::Privileged(ErrnoStatus(reader.batch_error(), "change nftables"));
  }
  return reader.TakeErrors();
}

absl::Status NftBatch::Commit(NetlinkSocket& socket) {
  ASSIGN_OR_RETURN(const Errors errors, Run(socket));
  for (size_t i = 0; i < errors.size(); ++i) {
    if (errors[i] != 0) return nft::Privileged(ErrnoStatus(errors[i], names_[i]));
  }
  return absl::OkStatus();
}

}  // namespace utproxy
