// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_RULESET_READER_H_
#define UTPROXY_DIAGNOSE_RULESET_READER_H_

#include <absl/status/statusor.h>

#include <map>
#include <string>

#include "diagnose/ruleset_facts.h"
#include "netlink/socket.h"

namespace utproxy {

// Reads the nftables ruleset of the calling thread's network namespace. `nft` is a socket of
// NETLINK_NETFILTER. Needs CAP_NET_ADMIN; changes nothing. A kernel without nf_tables has an empty
// one.
absl::StatusOr<RulesetFacts> ReadRuleset(NetlinkSocket* nft);

// Turns conditions on an interface's number into such on its name; "#7" where there is none.
void NameInterfaces(const std::map<uint64_t, std::string>& names, RulesetFacts* facts);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_RULESET_READER_H_
