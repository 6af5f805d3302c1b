// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_INTERRUPT_H_
#define UTPROXY_TESTS_PARITY_INTERRUPT_H_

namespace utproxy::parity {

// From here on SIGINT waits until Interrupted is asked, in this thread and those that it starts,
// and in the tools that are run: no wait for a packet is cut short, which would read as a
// difference.
void HoldInterrupts();

// Whether a SIGINT has come. Stays true.
bool Interrupted();

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_INTERRUPT_H_
