// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_QUEUE_DOWNED_INTERFACES_H_
#define UTPROXY_QUEUE_DOWNED_INTERFACES_H_

#include <cstdint>

namespace utproxy {

// Tells why the kernel has dropped a packet that waited for its verdict: as the interface it came
// in by went down (nfqnl_dev_drop), or else as a hook was unregistered (nfqnl_nf_hook_drop). One
// thread.
class DownedInterfaces {
 public:
  // `socket`: any, of the network namespace that is asked about; outlives this.
  explicit DownedInterfaces(int socket) : socket_(socket) {}

  // Whether the interface is down now, or there is none of this index. One that is up again by now
  // is not told from one that stayed up. Thousands of packets go at once: an answer is as good as a
  // new one for a millisecond. False where the kernel can't be asked, or for index 0.
  bool Has(uint32_t ifindex);

 private:
  static constexpr int64_t kFreshNs = 1'000'000;

  bool Ask(uint32_t ifindex) const;

  const int socket_;
  uint32_t asked_ = 0;
  int64_t asked_ns_ = 0;  // CLOCK_MONOTONIC
  bool down_ = false;
};

}  // namespace utproxy

#endif  // UTPROXY_QUEUE_DOWNED_INTERFACES_H_
