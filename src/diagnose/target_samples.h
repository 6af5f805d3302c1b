// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_TARGET_SAMPLES_H_
#define UTPROXY_DIAGNOSE_TARGET_SAMPLES_H_

#include <absl/functional/function_ref.h>

#include <string>

#include "diagnose/chain_walk.h"

namespace utproxy {

// Calls `sample` with packets of new flows, as they come in on `iif`, that stand for all of the
// target's: the ends of its intervals of ports and addresses, where they are not too many. Ends
// where it returns false.
void ForEachSample(const ProxyTarget& target, Family family, const std::string& iif,
                   absl::FunctionRef<bool(const PacketPattern&)> sample);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_TARGET_SAMPLES_H_
