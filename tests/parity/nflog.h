// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_NFLOG_H_
#define UTPROXY_TESTS_PARITY_NFLOG_H_

#include <cstdint>
#include <vector>

#include "netlink/socket.h"

namespace utproxy::parity {

// What an nft `log group N` rule saw of one packet.
struct Logged {
  uint16_t group = 0;
  uint32_t mark = 0;
  uint16_t id = 0;  // of PacketBytes; 0 without payload
};

// Reads the NFLOG groups first..last of the calling thread's namespace, each packet as soon as it
// is logged. Fatal where the kernel refuses.
class Nflog {
 public:
  Nflog(uint16_t first, uint16_t last);

  // Appends all that has been logged; waits for at most `timeout_ms` where there is nothing.
  void Read(std::vector<Logged>* out, int timeout_ms = 0);

 private:
  NetlinkSocket socket_;
};

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_NFLOG_H_
