// SPDX-License-Identifier: GPL-3.0-or-later
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "commands.h"

namespace {

// The terminal's width; COLUMNS where it is set, as for output that goes elsewhere.
size_t OutputWidth() {
  const char* columns = std::getenv("COLUMNS");
  const long told = columns != nullptr ? std::strtol(columns, nullptr, 10) : 0;
  if (told >= 40 && told <= 1000) return static_cast<size_t>(told);
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40) return size.ws_col;
  return 80;
}

}  // namespace

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  utproxy::tools::Environment env{.in = std::cin,
                                  .out = std::cout,
                                  .err = std::cerr,
                                  .out_is_terminal = ::isatty(STDOUT_FILENO) == 1,
                                  .width = OutputWidth(),
                                  .variable = [](const char* name) {
                                    const char* value = std::getenv(name);
                                    return std::string(value == nullptr ? "" : value);
                                  }};
  const std::vector<std::string> args(argv + (argc > 0 ? 1 : 0), argv + argc);
  return utproxy::tools::RunCommandLine(utproxy::tools::Commands(), args, env);
}
