// SPDX-License-Identifier: GPL-3.0-or-later
// Holds idle TCP connections over lo, both ends, until SIGTERM: sockets in the kernel's table and
// in the mirror's.
//
//   load hold --sockets N
#include <unistd.h>

#include "churn/idle.h"
#include "load.h"

namespace lab {

int Hold(int argc, char** argv) {
  const traffic::Args args(argc, argv, {"sockets"}, {});
  traffic::InstallStopSignals();
  const utproxy::churn::IdleSockets sockets(static_cast<size_t>(args.Int("sockets", 100)), 0);
  traffic::JsonLine("ready").Print();
  while (!traffic::Stopped()) pause();
  return 0;
}

}  // namespace lab
