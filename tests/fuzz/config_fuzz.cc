// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: a configuration file. Whatever it holds, it is right or has mistakes that can
// be told, each in one printable line and with a place in the text.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace utproxy::tools;  // NOLINT
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<Mistake> mistakes;
  const Configuration configuration = ParseConfig(text, "f", (size & 1) != 0, &mistakes);
  const auto lines = static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  for (const Mistake& mistake : mistakes) {
    // The end of the file counts as a line.
    if (mistake.text.empty() || mistake.line > lines + 1 || mistake.column == 0) std::abort();
    for (const char c : mistake.text) {
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) std::abort();
    }
  }
  if (!mistakes.empty()) return 0;
  if (configuration.targets.empty()) std::abort();
  for (const utproxy::Target& target : configuration.targets) {
    if (target.queue_first > target.queue_last || target.name.empty()) std::abort();
  }
  return 0;
}
