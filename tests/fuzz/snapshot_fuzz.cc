// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: a snapshot of sockets and interfaces, read, written and read again, and decided
// over.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <sstream>
#include <string>

#include "daemon/explainer.h"
#include "daemon/snapshot.h"
#include "replay.h"

namespace utproxy {
namespace {

// TCP to 203.0.113.80:8080 and UDP to [2001:db8::80]:53.
constexpr uint8_t kIpv4[] = {0x45, 0, 0,   40, 0,    0,  0,    0,    64,   6,    0, 0, 10, 77,
                             1,    2, 203, 0,  113,  80, 0x9c, 0x40, 0x1f, 0x90, 0, 0, 0,  1,
                             0,    0, 0,   0,  0x50, 2,  0xff, 0,    0,    0,    0, 0};
constexpr uint8_t kIpv6[] = {0x60, 0, 0, 0, 0, 8, 17, 64,   0x20, 1,    0xd, 0xb8, 0, 0, 0, 0,
                             0,    0, 0, 0, 0, 0, 0,  2,    0x20, 1,    0xd, 0xb8, 0, 0, 0, 0,
                             0,    0, 0, 0, 0, 0, 0,  0x80, 0x9c, 0x40, 0,   53,   0, 8, 0, 0};

// Interfaces that the snapshot does not tell of have indexes of its own.
void WriteAndRead(HostSnapshot& snapshot) {
  const InterfaceNames names = [&](uint32_t index) { return snapshot.NameOf(index); };
  std::stringstream lines;
  for (const Socket& socket : snapshot.sockets()) {
    lines << JsonLine(ToJson(socket, names, OwnerOf(socket, snapshot.owners()))) << "\n";
  }
  const absl::StatusOr<HostSnapshot> again = HostSnapshot::Read(lines);
  if (!again.ok() || again->sockets().size() != snapshot.sockets().size()) std::abort();
  for (size_t i = 0; i < snapshot.sockets().size(); ++i) {
    Socket a = snapshot.sockets()[i], b = again->sockets()[i];
    a.ifindex = b.ifindex = 0;
    if (a != b) std::abort();
  }
}

void Decide(HostSnapshot snapshot) {
  Policy policy;
  policy.on_port = 1090;
  policy.mark_value = policy.mark_mask = 1;
  tools::Replay replay(std::move(snapshot), policy, "lan0");
  for (const absl::Span<const uint8_t> bytes :
       {absl::MakeConstSpan(kIpv4), absl::MakeConstSpan(kIpv6)}) {
    const CapturedPacket captured{.bytes = bytes,
                                  .true_length = static_cast<uint32_t>(bytes.size())};
    const Json json = replay.Decide(captured, true);
    if (Json::parse(JsonLine(json), nullptr, false).is_discarded()) std::abort();
  }
}

}  // namespace
}  // namespace utproxy

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace utproxy;  // NOLINT
  std::istringstream in(std::string(reinterpret_cast<const char*>(data), size));
  absl::StatusOr<HostSnapshot> snapshot = HostSnapshot::Read(in);
  if (!snapshot.ok()) {
    if (snapshot.status().message().substr(0, 5) != "line ") std::abort();
    return 0;
  }
  WriteAndRead(*snapshot);
  Decide(*std::move(snapshot));
  return 0;
}
