// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_RULESET_REPLIES_H_
#define UTPROXY_RULESET_REPLIES_H_

#include <absl/types/span.h>

#include <optional>

#include "ruleset/plan.h"

namespace utproxy {

// What a proxy needs that keeps the client's address towards the server (HAProxy's `usesrc
// clientip`, Squid's tproxy): the server answers the client, and routing would forward that to it.
// The chain, to be jumped to behind the queueing rules, marks and accepts packets for transparent
// sockets, so that they take the local route. nullopt where no spec asks for it (divert_replies).
//
// Not meant are listeners: what is for them only the queueing rules may lead there. nft's `socket`
// finds those, too, where there is no connection. One bound to no address is told by `wildcard`; a
// connection is never looked for with a pure SYN.
std::optional<Chain> RepliesChain(absl::Span<const RulesetSpec> specs);

inline constexpr char kRepliesChain[] = "replies";

}  // namespace utproxy

#endif  // UTPROXY_RULESET_REPLIES_H_
