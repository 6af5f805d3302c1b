// SPDX-License-Identifier: GPL-3.0-or-later
#include "interrupt.h"

#include <pthread.h>

#include <csignal>

namespace utproxy::parity {

void HoldInterrupts() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

bool Interrupted() {
  sigset_t pending;
  sigemptyset(&pending);
  return ::sigpending(&pending) == 0 && sigismember(&pending, SIGINT) == 1;
}

}  // namespace utproxy::parity
