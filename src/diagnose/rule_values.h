// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_RULE_VALUES_H_
#define UTPROXY_DIAGNOSE_RULE_VALUES_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "diagnose/ruleset_facts.h"
#include "utproxy/address.h"

struct nftnl_expr;

// What the attributes of nftables' expressions hold (NFTNL_EXPR_*), for RuleDecoder.
namespace utproxy {

// An attribute's bytes; empty where it is not set.
std::string Bytes(const nftnl_expr* expr, uint16_t attribute);
// A u32's value; 0 where it is not set.
uint32_t Number(const nftnl_expr* expr, uint16_t attribute);

// What a verdict's code (NF_ACCEPT, NFT_JUMP, ...) says.
RuleVerdict VerdictOf(uint32_t code);

// A register's bytes as a number, up to eight of them: some fields are in the host's byte order
// there, the others in the network's.
uint64_t ToNumber(Field field, const std::string& bytes);

// `bytes` may be the front of an address, as in a comparison with a prefix; `fill` is for the rest.
// `full` is 4 or 16.
Address ToAddress(std::string bytes, size_t full, char fill);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_RULE_VALUES_H_
