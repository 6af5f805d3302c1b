// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_REQUIREMENTS_H_
#define UTPROXY_TESTS_PARITY_REQUIREMENTS_H_

#include <string>

#include "lab.h"

namespace utproxy::parity {

// What a comparison takes that this process may not do, or that this system does not have: the
// privilege, tun devices, the tools, the rules they are to add, sk_lookup. One line; empty where
// nothing is missing. Tried in a network namespace that is gone afterwards. What fails after this
// is a failure.
std::string WhatIsMissing(const Lab::Options& options);

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_REQUIREMENTS_H_
