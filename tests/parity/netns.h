// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_NETNS_H_
#define UTPROXY_TESTS_PARITY_NETNS_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "spec.h"

namespace utproxy::parity {

// Ends the program with the reason, as a failure: what the comparison stands on does not work. What
// a system may lack is looked for before (requirements.h).
[[noreturn]] void Fatal(const std::string& why);
// Runs it in a shell with `input` on its standard input, in the calling thread's namespace; Fatal
// where it fails.
void Shell(const std::string& command, const std::string& input = "");
// The same, but tells whether it succeeded; what it says is thrown away.
bool TryShell(const std::string& command, const std::string& input = "");

// A network namespace without a name, which ends with this object (and the sockets in it), and its
// devices: p0 and p1 (tun), p2 (tap), each up with the given addresses and a default route. Packets
// with DSCP 0 are for the namespace's own sockets, whatever they are addressed to.
class Netns {
 public:
  explicit Netns(const DeviceAddresses& addresses);
  Netns(const Netns&) = delete;
  Netns& operator=(const Netns&) = delete;

  // While it lives, the calling thread is in the namespace. Not to be nested.
  class Inside {
   public:
    explicit Inside(const Netns& netns);
    ~Inside();
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

   private:
    const Netns& netns_;
  };

  uint32_t ifindex(int device) const { return ifindex_[static_cast<size_t>(device)]; }
  // An IP packet that came in on the device. When this returns, the kernel has taken it as far as
  // it goes (tun_get_user hands it to the stack in the caller's context). From anywhere.
  void Receive(int device, const std::vector<uint8_t>& packet) const;

 private:
  void Configure(const DeviceAddresses& addresses);

  UniqueFd outside_, ns_;
  std::array<UniqueFd, kDevices> tun_;
  std::array<uint32_t, kDevices> ifindex_{};
};

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_NETNS_H_
