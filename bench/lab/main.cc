// SPDX-License-Identifier: GPL-3.0-or-later
#include <csignal>
#include <ctime>
#include <map>
#include <string>

#include "load.h"

namespace lab {

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace lab

int main(int argc, char** argv) {
  const std::map<std::string, int (*)(int, char**)> commands = {
      {"fill", lab::Fill},          {"serve", lab::Serve}, {"bulk", lab::Bulk},
      {"connect", lab::Connect},    {"ping", lab::Ping},   {"hold", lab::Hold},
      {"datagrams", lab::Datagrams}};
  std::signal(SIGPIPE, SIG_IGN);
  const auto command = commands.find(argc > 1 ? argv[1] : "");
  if (command == commands.end()) {
    traffic::DieUsage("load: one of bulk, connect, datagrams, fill, hold, ping, serve");
  }
  return command->second(argc, argv);
}
