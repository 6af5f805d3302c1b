// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: what nfnetlink_log, or a capture of its kind, tells of a packet. What was read
// is written and read again.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "trace/nflog_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace utproxy;  // NOLINT
  NflogPacket packet;
  if (size > 32768 || !ReadNflog({data, size}, &packet)) return 0;
  if (ClaimedLength(packet.payload) < packet.payload.size()) std::abort();
  const std::vector<uint8_t> bytes = WriteNflog(packet);
  NflogPacket again;
  if (!ReadNflog(bytes, &again)) std::abort();
  const bool same = again.family == packet.family && again.group == packet.group &&
                    again.mark == packet.mark && again.indev == packet.indev &&
                    again.prefix == packet.prefix &&
                    std::equal(again.payload.begin(), again.payload.end(), packet.payload.begin(),
                               packet.payload.end());
  if (!same) std::abort();
  return 0;
}
