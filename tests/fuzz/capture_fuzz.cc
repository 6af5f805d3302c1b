// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: a capture file, from memory. libpcap reads the file, this project what is in
// it, and decides it again.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "daemon/snapshot.h"
#include "replay.h"
#include "trace/capture_reader.h"
#include "utproxy/parse.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace utproxy;  // NOLINT
  if (size == 0) return 0;
  std::vector<uint8_t> copy(data, data + size);
  std::FILE* file = ::fmemopen(copy.data(), copy.size(), "rb");
  if (file == nullptr) return 0;
  absl::StatusOr<CaptureReader> reader = CaptureReader::Open(file, "fuzz");
  if (!reader.ok()) return 0;
  tools::Replay replay(HostSnapshot(), Policy(), "lan0");
  CapturedPacket captured;
  for (int i = 0; i < 1000; ++i) {
    const absl::StatusOr<bool> more = reader->Next(&captured);
    if (!more.ok() || !*more) break;
    if (captured.bytes.empty()) std::abort();
    uint32_t sum = 0;
    for (const uint8_t byte : captured.bytes) sum += byte;
    for (const char byte : captured.prefix) sum += static_cast<uint8_t>(byte);
    Packet packet;
    ParsePacket(captured.bytes, captured.true_length, &packet);
    if (sum == 0 && packet.dport == 1) std::abort();
    if (JsonLine(replay.Decide(captured, true)).empty()) std::abort();
  }
  return 0;
}
