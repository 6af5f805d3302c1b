// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_CHURN_WIRE_H_
#define UTPROXY_TESTS_CHURN_WIRE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "churn/model.h"
#include "utproxy/address.h"
#include "utproxy/packet.h"

struct nlattr;

namespace utproxy::churn {

// The addresses of both families: [0] of IPv4, [1] of IPv6.
struct Addresses {
  Address client[2];
  Address interface[2];  // the router's, first of its interface
  Address asked[2];      // not the router's: what clients ask for
};
constexpr size_t Index(Family family) { return family == Family::kIpv4 ? 0 : 1; }

// Prints "churn: WHAT: error" and ends the program: what is tested stands on these calls.
[[noreturn]] void Die(const std::string& what);

// Runs `body` with the calling thread in the network namespace `netns`; back in its own afterwards.
void InNamespace(const UniqueFd& netns, const std::function<void()>& body);

// Puts packets that carry a number on the client's wire. DSCP 11 tells them from the traffic of
// connections; they are logged and dropped at the router's INPUT hook.
class Injector {
 public:
  // Opens its sockets in the calling thread's network namespace, `client`.
  explicit Injector(const Addresses& addresses);

  // `id` goes into the sequence number, or a datagram's payload. False where the kernel has no
  // room just now.
  bool Send(const Probe& probe, uint16_t dport, uint32_t id);

 private:
  const Addresses& addresses_;
  UniqueFd sockets_[2];
  std::vector<uint8_t> bytes_[2][2];  // by family and protocol: a packet to be filled in
};

// A packet as an nft `log group` rule saw it.
struct LoggedPacket {
  uint16_t group = 0;
  uint32_t mark = 0;
  uint32_t id = 0;
};

// Reads the log groups kArrived and kDelivered of the calling thread's network namespace.
class LogReader {
 public:
  static constexpr uint16_t kArrived = 1, kDelivered = 2;

  LogReader();
  int fd() const { return fd_.get(); }
  // Takes all that is there. A loss would make a delivered packet look dropped: it ends the
  // program.
  void Read(const std::function<void(const LoggedPacket&)>& take);

 private:
  void Configure(uint16_t group);
  UniqueFd fd_;
  uint32_t next_[3] = {};  // the sequence number expected of each group
};

}  // namespace utproxy::churn

#endif  // UTPROXY_TESTS_CHURN_WIRE_H_
