// SPDX-License-Identifier: GPL-3.0-or-later
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "queue/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  absl::Span<const uint8_t> rest(data, size);
  utproxy::Message message;
  volatile uint8_t sink = 0;
  while (utproxy::NextMessage(&rest, &message)) {
    for (const uint8_t byte : message.packet.payload) sink = sink ^ byte;
    if (message.error < 0) std::abort();
  }
  return 0;
}
