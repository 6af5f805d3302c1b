// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_FUZZ_PARSE_SEEDS_H_
#define UTPROXY_TESTS_FUZZ_PARSE_SEEDS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace utproxy {

struct Seed {
  std::string name;
  std::vector<uint8_t> bytes;  // in ParseViolation's form
};

// One packet of each shape that the parser tells apart. tests/fuzz/corpus/parse holds their bytes
// (written by write_parse_corpus), and beside them whatever a fuzzer found worth keeping.
std::vector<Seed> ParseSeeds();

}  // namespace utproxy

#endif  // UTPROXY_TESTS_FUZZ_PARSE_SEEDS_H_
