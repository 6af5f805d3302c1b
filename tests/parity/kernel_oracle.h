// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_KERNEL_ORACLE_H_
#define UTPROXY_TESTS_PARITY_KERNEL_ORACLE_H_

#include <absl/types/span.h>

#include <cstdint>
#include <string>
#include <vector>

#include "netns.h"
#include "nflog.h"
#include "spec.h"

namespace utproxy::parity {

// The mark that packets with this index (1..n) start with, in every namespace.
using Marks = std::vector<uint32_t>;
// nft commands for a chain that gives it to them, by their TTL or hop limit.
std::string MarkRules(const Marks& marks);

// The kernel's own TPROXY in a namespace: an xt_TPROXY and an nft_tproxy rule for each policy,
// chosen by the packet's DSCP, and behind them a chain that tells what they did to it and drops
// it, so that nothing changes and the next case can follow.
class KernelOracle {
 public:
  // Fatal where the kernel or a tool lacks something.
  KernelOracle(const Netns& netns, absl::Span<const Policy> policies, const Marks& marks);

  // `packet.packet.mark` must be marks[mark_index - 1]; `id` differs from case to case. From
  // anywhere.
  Outcome Ask(Oracle oracle, size_t policy, const PacketSpec& packet, uint8_t mark_index,
              uint16_t id);

 private:
  static uint8_t Dscp(Oracle oracle, size_t policy) {
    return static_cast<uint8_t>(1 + 2 * policy + (oracle == Oracle::kNft ? 1 : 0));
  }
  static std::string XtRules(absl::Span<const Policy> policies, Family family);
  static std::string NftRules(absl::Span<const Policy> policies);

  const Netns& netns_;
  Nflog nflog_;
  std::vector<Logged> logged_;
};

// One rule each, as a person would type them; without the DSCP match where `dscp` is 0.
std::string XtRule(const Policy& policy, Proto proto, Family family, unsigned dscp);
std::string NftRule(const Policy& policy, Proto proto, Family family, unsigned dscp);

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_KERNEL_ORACLE_H_
