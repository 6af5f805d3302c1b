// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_NFT_BATCH_H_
#define UTPROXY_RULESET_NFT_BATCH_H_

#include <absl/functional/function_ref.h>
#include <absl/status/statusor.h>
#include <linux/netlink.h>

#include <string>
#include <vector>

#include "netlink/socket.h"

namespace utproxy {

// One nf_tables transaction: the kernel does all of it or nothing
// (net/netfilter/nfnetlink.c, nfnetlink_rcv_batch). For one thread.
class NftBatch {
 public:
  // What the kernel said to each message, in the order of Add: 0 or a positive errno.
  using Errors = std::vector<int>;

  // Appends a message for the `inet`, `ip`, ... family NFPROTO_*. `type`: NFT_MSG_*; `flags`:
  // NLM_F_CREATE and so on. `what` names the message in errors: "add chain prerouting". `payload`
  // writes at most kMaxMessage bytes.
  void Add(uint16_t type, uint16_t family, uint16_t flags, std::string what,
           absl::FunctionRef<void(nlmsghdr*)> payload);

  // Messages added so far.
  size_t size() const { return names_.size(); }

  // Commits. The error is that of the first message that the kernel refused.
  absl::Status Commit(NetlinkSocket& socket);
  // Commits, and tells everything it was told. Only an error without a message to blame (no
  // privilege, no answer) is a status.
  absl::StatusOr<Errors> Run(NetlinkSocket& socket);

  static constexpr size_t kMaxMessage = size_t{60} * 1024;

 private:
  std::vector<char> bytes_;
  std::vector<std::string> names_;
};

// A NETLINK_NETFILTER socket fit for large transactions. PermissionDenied bears a remedy.
absl::StatusOr<NetlinkSocket> OpenNftSocket();

}  // namespace utproxy

#endif  // UTPROXY_RULESET_NFT_BATCH_H_
