// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/ruleset_facts.h"

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <linux/netfilter.h>
namespace utproxy {

const ChainFacts* RulesetFacts::FindChain(uint8_t family, const std::string& table,
                                          const std::string& name) const {
  for (const ChainFacts& chain : chains) {
    if (chain.family == family && chain.table == table && chain.name == name) return &chain;
  }
  return nullptr;
}

const TableFacts* RulesetFacts::FindTable(uint8_t family, const std::string& name) const {
  for (const TableFacts& table : tables) {
    if (table.family == family && table.name == name) return &table;
  }
  return nullptr;
}

const char* TableFamilyName(uint8_t family) {
  switch (family) {
    case NFPROTO_INET:
      return "inet";
    case NFPROTO_IPV4:
      return "ip";
    case NFPROTO_IPV6:
      return "ip6";
    case NFPROTO_BRIDGE:
      return "bridge";
    case NFPROTO_ARP:
      return "arp";
    default:
      return "netdev";
  }
}

bool SeesFamily(uint8_t table_family, Family packet) {
  return table_family == NFPROTO_INET ||
         table_family == (packet == Family::kIpv4 ? NFPROTO_IPV4 : NFPROTO_IPV6);
}

}  // namespace utproxy
