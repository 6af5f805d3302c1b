// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/rule_values.h"

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
#include <cstdio>  // before libnftnl/expr.h
// clang-format on

#include <libnftnl/expr.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include <algorithm>
#include <cstring>

namespace utproxy {
namespace {

// Fields that registers hold in the host's byte order.
bool HostOrder(Field field) {
  return field == Field::kMark || field == Field::kIifIndex || field == Field::kCtState ||
         field == Field::kUid || field == Field::kGid || field == Field::kDstType ||
         field == Field::kCgroup;
}

}  // namespace

std::string Bytes(const nftnl_expr* expr, uint16_t attribute) {
  uint32_t len = 0;
  const void* data = nftnl_expr_get(expr, attribute, &len);
  return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), len);
}

uint32_t Number(const nftnl_expr* expr, uint16_t attribute) {
  return nftnl_expr_is_set(expr, attribute) ? nftnl_expr_get_u32(expr, attribute) : 0;
}

RuleVerdict VerdictOf(uint32_t code) {
  switch (static_cast<int>(code)) {
    case NF_ACCEPT:
      return RuleVerdict::kAccept;
    case NF_DROP:
      return RuleVerdict::kDrop;
    case NFT_RETURN:
      return RuleVerdict::kReturn;
    case NFT_JUMP:
      return RuleVerdict::kJump;
    case NFT_GOTO:
      return RuleVerdict::kGoto;
    default:
      return RuleVerdict::kNone;
  }
}

uint64_t ToNumber(Field field, const std::string& bytes) {
  uint64_t number = 0;
  if (HostOrder(field)) {
    std::memcpy(&number, bytes.data(), std::min(bytes.size(), sizeof number));
    return number;
  }
  for (const char c : bytes.substr(0, 8)) number = number << 8 | static_cast<uint8_t>(c);
  return number;
}

Address ToAddress(std::string bytes, size_t full, char fill) {
  bytes.resize(full, fill);
  if (full == 16) return Address::FromIpv6(bytes.data());
  uint32_t v4 = 0;
  std::memcpy(&v4, bytes.data(), sizeof v4);
  return Address::FromIpv4(v4);
}

}  // namespace utproxy
