// SPDX-License-Identifier: GPL-3.0-or-later
// What a rule does where it fits, and the expressions that look at more than the packet.
// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
#include <cstdio>  // before libnftnl/expr.h
// clang-format on

#include <libnftnl/expr.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "diagnose/rule_decoder.h"
#include "diagnose/rule_values.h"

namespace utproxy {

void RuleDecoder::Immediate(const nftnl_expr* expr) {
  if (!nftnl_expr_is_set(expr, NFTNL_EXPR_IMM_VERDICT)) {
    Register value;
    value.immediate = true;
    value.data = Bytes(expr, NFTNL_EXPR_IMM_DATA);
    return Load(Number(expr, NFTNL_EXPR_IMM_DREG), std::move(value));
  }
  rule_.verdict = VerdictOf(Number(expr, NFTNL_EXPR_IMM_VERDICT));
  if (const char* chain = nftnl_expr_get_str(expr, NFTNL_EXPR_IMM_CHAIN)) rule_.jump_to = chain;
}

void RuleDecoder::Tproxy(const nftnl_expr* expr) {
  TproxyStatement tproxy;
  const uint32_t family = Number(expr, NFTNL_EXPR_TPROXY_FAMILY);
  tproxy.v4 = family != NFPROTO_IPV6 && family_ != NFPROTO_IPV6;
  tproxy.v6 = family != NFPROTO_IPV4 && family_ != NFPROTO_IPV4;
  if (const Register* port = Loaded(Number(expr, NFTNL_EXPR_TPROXY_REG_PORT));
      port != nullptr && nftnl_expr_is_set(expr, NFTNL_EXPR_TPROXY_REG_PORT)) {
    tproxy.port = static_cast<uint16_t>(ToNumber(Field::kDport, port->data.substr(0, 2)));
  }
  if (const Register* address = Loaded(Number(expr, NFTNL_EXPR_TPROXY_REG_ADDR));
      address != nullptr && nftnl_expr_is_set(expr, NFTNL_EXPR_TPROXY_REG_ADDR)) {
    const size_t size = address->data.size();
    if (size == 4 || size == 16) tproxy.address = ToAddress(address->data, size, '\0');
  }
  rule_.tproxy = tproxy;
  rule_.defrags = true;
}

void RuleDecoder::Queue(const nftnl_expr* expr) {
  QueueStatement queue;
  queue.first = nftnl_expr_get_u16(expr, NFTNL_EXPR_QUEUE_NUM);
  const uint16_t total = nftnl_expr_is_set(expr, NFTNL_EXPR_QUEUE_TOTAL)
                             ? nftnl_expr_get_u16(expr, NFTNL_EXPR_QUEUE_TOTAL)
                             : uint16_t{1};
  queue.last = static_cast<uint16_t>(queue.first + (total > 0 ? total - 1 : 0));
  queue.bypass = (nftnl_expr_get_u16(expr, NFTNL_EXPR_QUEUE_FLAGS) & NFT_QUEUE_FLAG_BYPASS) != 0;
  rule_.queue = queue;
}

void RuleDecoder::Socket(const nftnl_expr* expr) {
  rule_.socket_match = true;
  const bool transparent = Number(expr, NFTNL_EXPR_SOCKET_KEY) == NFT_SOCKET_TRANSPARENT;
  rule_.socket_transparent |= transparent;
  Register loaded;
  loaded.what = "socket";
  Load(Number(expr, NFTNL_EXPR_SOCKET_DREG), std::move(loaded));
}

void RuleDecoder::Fib(const nftnl_expr* expr) {
  Register loaded;
  loaded.what = "fib";
  const uint32_t flags = Number(expr, NFTNL_EXPR_FIB_FLAGS);
  if (Number(expr, NFTNL_EXPR_FIB_RESULT) == NFT_FIB_RESULT_ADDRTYPE &&
      (flags & NFTA_FIB_F_DADDR) != 0) {
    loaded.field = Field::kDstType;
  }
  Load(Number(expr, NFTNL_EXPR_FIB_DREG), std::move(loaded));
}

}  // namespace utproxy
