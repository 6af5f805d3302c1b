// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: JSON from the control socket and from files. What is taken for a socket or for
// a packet stays the same when it is written and read once more.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "daemon/json.h"

namespace utproxy {
namespace {

absl::StatusOr<uint32_t> IndexOf(absl::string_view) { return 7; }
std::string NameOf(uint32_t ifindex) { return ifindex == 0 ? "" : "veth0"; }

}  // namespace
}  // namespace utproxy

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using utproxy::Json;
  const Json json = Json::parse(data, data + size, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return 0;
  if (const auto socket = utproxy::SocketFromJson(json, utproxy::IndexOf); socket.ok()) {
    const auto again =
        utproxy::SocketFromJson(utproxy::ToJson(*socket, utproxy::NameOf), utproxy::IndexOf);
    if (!again.ok() || *again != *socket) std::abort();
  }
  if (const auto packet = utproxy::PacketFromJson(json, utproxy::IndexOf); packet.ok()) {
    const Json once = utproxy::ToJson(*packet, utproxy::NameOf);
    const auto again = utproxy::PacketFromJson(once, utproxy::IndexOf);
    if (!again.ok() || utproxy::ToJson(*again, utproxy::NameOf) != once) std::abort();
  }
  return 0;
}
