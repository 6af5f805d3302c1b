// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_FUZZ_PARSE_PROPERTIES_H_
#define UTPROXY_TESTS_FUZZ_PARSE_PROPERTIES_H_

#include <absl/types/span.h>

#include <cstdint>

namespace utproxy {

// What must hold of ParsePacket for any input; called by the fuzzer and by the ordinary test.
// `input` is two bytes, big-endian, that tell how many bytes the packet had beyond those that
// were copied (its true length is the sum), and the bytes of a packet. Less than two bytes is an
// empty packet. Returns null where all properties hold, else what does not.
const char* ParseViolation(absl::Span<const uint8_t> input);

}  // namespace utproxy

#endif  // UTPROXY_TESTS_FUZZ_PARSE_PROPERTIES_H_
