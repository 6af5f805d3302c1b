// SPDX-License-Identifier: GPL-3.0-or-later
// Writes the seeds' bytes into a folder: write_parse_corpus tests/fuzz/corpus/parse
#include <cstdio>
#include <fstream>

#include "parse_seeds.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: write_parse_corpus FOLDER\n");
    return 2;
  }
  for (const utproxy::Seed& seed : utproxy::ParseSeeds()) {
    const std::string path = std::string(argv[1]) + "/" + seed.name;
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(seed.bytes.data()),
               static_cast<std::streamsize>(seed.bytes.size()));
    if (!file.flush()) {
      std::fprintf(stderr, "cannot write %s\n", path.c_str());
      return 1;
    }
  }
  return 0;
}
