// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: the messages of an NFQUEUE.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "queue/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  absl::Span<const uint8_t> rest(data, size);
  utproxy::Message message;
  volatile uint8_t sink = 0;
  for (size_t left = size; utproxy::NextMessage(&rest, &message); left = rest.size()) {
    if (rest.size() >= left || message.error < 0) std::abort();
    for (const uint8_t byte : message.packet.payload) sink = sink ^ byte;
  }
  return 0;
}
