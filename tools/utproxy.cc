// SPDX-License-Identifier: GPL-3.0-or-later
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "commands.h"

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  utproxy::tools::Environment env{.in = std::cin,
                                  .out = std::cout,
                                  .err = std::cerr,
                                  .out_is_terminal = ::isatty(STDOUT_FILENO) == 1,
                                  .variable = [](const char* name) {
                                    const char* value = std::getenv(name);
                                    return std::string(value == nullptr ? "" : value);
                                  }};
  const std::vector<std::string> args(argv + (argc > 0 ? 1 : 0), argv + argc);
  return utproxy::tools::RunCommandLine(utproxy::tools::Commands(), args, env);
}
