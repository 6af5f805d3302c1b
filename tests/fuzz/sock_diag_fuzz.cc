// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: the answers of sock_diag. The first byte chooses the protocol asked for.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "netlink/diag_codec.h"
#include "netlink/messages.h"

namespace utproxy {
namespace {

bool Sound(const Socket& socket) {
  return (socket.proto == Proto::kTcp || socket.proto == Proto::kUdp) &&
         (socket.family() == Family::kIpv4 || socket.family() == Family::kIpv6) &&
         !(socket.time_wait() && socket.listening());
}

}  // namespace
}  // namespace utproxy

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const utproxy::Proto asked = data[0] % 2 == 0 ? utproxy::Proto::kTcp : utproxy::Proto::kUdp;
  // Of its own, so that the sanitizer sees a byte read behind the end, and aligned as received.
  std::vector<char> bytes(data + 1, data + size);
  absl::Span<const char> rest(bytes.data(), bytes.size());
  while (const nlmsghdr* message = utproxy::TakeMessage(&rest)) {
    const auto socket = utproxy::ReadDiagMessage(*message, asked);
    if (socket && !utproxy::Sound(*socket)) std::abort();
  }
  return 0;
}
