// SPDX-License-Identifier: GPL-3.0-or-later
// Run by the build: writes a manual page's scdoc source, or a shell's completion, from the tables
// of commands and options to standard output.
#include <absl/strings/string_view.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "docs/completion.h"
#include "docs/manual.h"

namespace {

int Page(const char* path) {
  std::ifstream file(path);
  const std::string source((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
  if (!file.good() && !file.eof()) {
    std::cerr << path << ": can't be read\n";
    return 1;
  }
  const absl::StatusOr<std::string> page = utproxy::tools::ManualPage(source);
  if (!page.ok()) {
    std::cerr << path << ": " << page.status().message() << "\n";
    return 1;
  }
  std::cout << *page;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const absl::string_view what = argc > 1 ? argv[1] : "";
  if (what == "man" && argc == 3) return Page(argv[2]);
  if (what == "bash" && argc == 2) {
    std::cout << utproxy::tools::BashCompletion();
  } else if (what == "zsh" && argc == 2) {
    std::cout << utproxy::tools::ZshCompletion();
  } else if (what == "fish" && argc == 2) {
    std::cout << utproxy::tools::FishCompletion();
  } else {
    std::cerr << "usage: generate man PAGE.scd | bash | zsh | fish\n";
    return 2;
  }
  return std::cout.flush().good() ? 0 : 1;
}
