// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: parse_fuzz CORPUS_FOLDER. Ends with an abort where a property does not hold.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "parse_properties.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (const char* violation = utproxy::ParseViolation(absl::MakeSpan(data, size))) {
    std::fprintf(stderr, "%s\n", violation);
    std::abort();
  }
  return 0;
}
