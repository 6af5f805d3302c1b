// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/nft_objects.h"

#include <absl/functional/function_ref.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <libmnl/libmnl.h>
#include <libnftnl/expr.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/xt_NFQUEUE.h>

#include <algorithm>
#include <cstring>

#include "base/status.h"
#include "ruleset/iptables_text.h"

namespace utproxy::nft {
namespace {

struct UdataFree {
  void operator()(nftnl_udata_buf* buf) const { nftnl_udata_buf_free(buf); }
};
using UdataPtr = std::unique_ptr<nftnl_udata_buf, UdataFree>;

UdataPtr CommentUdata(uint8_t type, const std::string& comment) {
  UdataPtr udata(Allocated(nftnl_udata_buf_alloc(NFT_USERDATA_MAXLEN)));
  nftnl_udata_put_strz(udata.get(), type, comment.c_str());
  return udata;
}

// The comment in user data of `left` bytes; other programs may have put anything there.
std::string CommentIn(const uint8_t* at, uint32_t left, uint8_t type) {
  while (at != nullptr && left >= 2 && left - 2u >= at[1]) {  // type, length, value
    if (at[0] == type) {
      return std::string(reinterpret_cast<const char*>(at) + 2,
                         ::strnlen(reinterpret_cast<const char*>(at) + 2, at[1]));
    }
    left -= 2u + at[1];
    at += 2 + at[1];
  }
  return "";
}

std::string ReadComment(const nftnl_table* table) {
  uint32_t size = 0;
  const void* data = nftnl_table_get_data(table, NFTNL_TABLE_USERDATA, &size);
  return CommentIn(static_cast<const uint8_t*>(data), size, NFTNL_UDATA_TABLE_COMMENT);
}

bool JumpsToOwn(const nftnl_rule* rule) {
  bool found = false;
  const auto look = [](nftnl_expr* e, void* data) {
    const char* name = nftnl_expr_get_str(e, NFTNL_EXPR_NAME);
    if (name != nullptr && std::strcmp(name, "immediate") == 0 &&
        nftnl_expr_is_set(e, NFTNL_EXPR_IMM_CHAIN)) {
      const char* chain = nftnl_expr_get_str(e, NFTNL_EXPR_IMM_CHAIN);
      if (std::strcmp(chain, kIptablesChain) == 0) *static_cast<bool*>(data) = true;
    }
    return 0;
  };
  nftnl_expr_foreach(const_cast<nftnl_rule*>(rule), look, &found);
  return found;
}

}  // namespace

TablePtr NewTable(const char* name) {
  TablePtr table(Allocated(nftnl_table_alloc()));
  nftnl_table_set_str(table.get(), NFTNL_TABLE_NAME, name);
  return table;
}

ChainPtr NewChain(const char* table, const std::string& name) {
  ChainPtr chain(Allocated(nftnl_chain_alloc()));
  nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_TABLE, table);
  nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_NAME, name.c_str());
  return chain;
}

RulePtr NewRule(const char* table, const std::string& chain) {
  RulePtr rule(Allocated(nftnl_rule_alloc()));
  nftnl_rule_set_str(rule.get(), NFTNL_RULE_TABLE, table);
  nftnl_rule_set_str(rule.get(), NFTNL_RULE_CHAIN, chain.c_str());
  return rule;
}

void SetComment(nftnl_table* table, const std::string& comment) {
  const UdataPtr udata = CommentUdata(NFTNL_UDATA_TABLE_COMMENT, comment);
  nftnl_table_set_data(table, NFTNL_TABLE_USERDATA, nftnl_udata_buf_data(udata.get()),
                       nftnl_udata_buf_len(udata.get()));
}

void SetComment(nftnl_rule* rule, const std::string& comment) {
  const UdataPtr udata = CommentUdata(NFTNL_UDATA_RULE_COMMENT, comment);
  nftnl_rule_set_data(rule, NFTNL_RULE_USERDATA, nftnl_udata_buf_data(udata.get()),
                      nftnl_udata_buf_len(udata.get()));
}

std::string ReadComment(const nftnl_rule* rule) {
  uint32_t size = 0;
  const void* data = nftnl_rule_get_data(rule, NFTNL_RULE_USERDATA, &size);
  return CommentIn(static_cast<const uint8_t*>(data), size, NFTNL_UDATA_RULE_COMMENT);
}

void SetKeyByteOrder(nftnl_set* set, bool host_order) {
  const UdataPtr udata(Allocated(nftnl_udata_buf_alloc(NFT_USERDATA_MAXLEN)));
  // nft's enum byteorder: 1 is the host's, 2 is big endian.
  nftnl_udata_put_u32(udata.get(), NFTNL_UDATA_SET_KEYBYTEORDER, host_order ? 1 : 2);
  nftnl_set_set_data(set, NFTNL_SET_USERDATA, nftnl_udata_buf_data(udata.get()),
                     nftnl_udata_buf_len(udata.get()));
}

std::optional<NftTable> ReadTable(const nlmsghdr& nlh) {
  const TablePtr table(Allocated(nftnl_table_alloc()));
  if (nftnl_table_nlmsg_parse(&nlh, table.get()) < 0) return std::nullopt;
  NftTable result{ReadComment(table.get())};
  if (nftnl_table_is_set(table.get(), NFTNL_TABLE_OWNER)) {
    result.owner = nftnl_table_get_u32(table.get(), NFTNL_TABLE_OWNER);
  }
  return result;
}

absl::StatusOr<std::vector<std::string>> ListOwnMangleChains(NetlinkSocket& socket,
                                                             uint16_t family) {
  alignas(nlmsghdr) char buffer[256];
  nlmsghdr* nlh = nftnl_nlmsg_build_hdr(buffer, NFT_MSG_GETCHAIN, family, NLM_F_DUMP, 0);
  std::vector<std::string> names;
  const auto read = [&](const nlmsghdr& answer) {
    const ChainPtr chain(Allocated(nftnl_chain_alloc()));
    if (nftnl_chain_nlmsg_parse(&answer, chain.get()) < 0) return;
    const char* table = nftnl_chain_get_str(chain.get(), NFTNL_CHAIN_TABLE);
    const char* name = nftnl_chain_get_str(chain.get(), NFTNL_CHAIN_NAME);
    if (table == nullptr || name == nullptr || std::strcmp(table, "mangle") != 0) return;
    if (name == absl::string_view(kIptablesChain) ||
        absl::StartsWith(name, absl::StrCat(kIptablesChain, "-"))) {
      names.push_back(name);
    }
  };
  RETURN_IF_ERROR(Privileged(socket.Transact(nlh, "list nftables chains", read)));
  return names;
}

absl::StatusOr<std::vector<FoundChain>> ListChains(NetlinkSocket& socket) {
  alignas(nlmsghdr) char buffer[256];
  nlmsghdr* nlh = nftnl_nlmsg_build_hdr(buffer, NFT_MSG_GETCHAIN, NFPROTO_INET, NLM_F_DUMP, 0);
  std::vector<FoundChain> found;
  const auto read = [&](const nlmsghdr& answer) {
    const ChainPtr chain(Allocated(nftnl_chain_alloc()));
    if (nftnl_chain_nlmsg_parse(&answer, chain.get()) < 0) return;
    const char* table = nftnl_chain_get_str(chain.get(), NFTNL_CHAIN_TABLE);
    const char* name = nftnl_chain_get_str(chain.get(), NFTNL_CHAIN_NAME);
    if (table == nullptr || name == nullptr || std::strcmp(table, kTableName) != 0) return;
    found.push_back({name, nftnl_chain_is_set(chain.get(), NFTNL_CHAIN_HOOKNUM)});
  };
  RETURN_IF_ERROR(Privileged(socket.Transact(nlh, "list nftables chains", read)));
  return found;
}

absl::StatusOr<std::vector<uint64_t>> ListJumpsToOwn(NetlinkSocket& socket, uint16_t family) {
  alignas(nlmsghdr) char buffer[512];
  nlmsghdr* nlh = nftnl_nlmsg_build_hdr(buffer, NFT_MSG_GETRULE, family, NLM_F_DUMP, 0);
  const RulePtr wanted = NewRule("mangle", "PREROUTING");
  nftnl_rule_nlmsg_build_payload(nlh, wanted.get());
  std::vector<uint64_t> handles;
  const auto read = [&](const nlmsghdr& answer) {
    const RulePtr rule(Allocated(nftnl_rule_alloc()));
    if (nftnl_rule_nlmsg_parse(&answer, rule.get()) < 0 || !JumpsToOwn(rule.get())) return;
    handles.push_back(nftnl_rule_get_u64(rule.get(), NFTNL_RULE_HANDLE));
  };
  RETURN_IF_ERROR(Privileged(socket.Transact(nlh, "list nftables rules", read)));
  return handles;
}

namespace {

// All rules of our table.
absl::Status ForEachRule(NetlinkSocket& socket, absl::string_view what,
                         absl::FunctionRef<void(const nlmsghdr&)> take) {
  alignas(nlmsghdr) char buffer[512];
  nlmsghdr* nlh = nftnl_nlmsg_build_hdr(buffer, NFT_MSG_GETRULE, NFPROTO_INET, NLM_F_DUMP, 0);
  const RulePtr wanted(Allocated(nftnl_rule_alloc()));
  nftnl_rule_set_str(wanted.get(), NFTNL_RULE_TABLE, kTableName);
  nftnl_rule_nlmsg_build_payload(nlh, wanted.get());
  const auto read = [&](const nlmsghdr& answer) {
    if ((answer.nlmsg_type & 0xff) == NFT_MSG_NEWRULE) take(answer);
  };
  return Privileged(socket.Transact(nlh, what, read));
}

// As nft's own `queue` has them, or as the target of nft_compat does.
int TakeQueues(nftnl_expr* e, void* out) {
  const char* name = nftnl_expr_get_str(e, NFTNL_EXPR_NAME);
  uint16_t first = 0, total = 0;
  if (name != nullptr && std::strcmp(name, "queue") == 0) {
    first = nftnl_expr_get_u16(e, NFTNL_EXPR_QUEUE_NUM);
    total = nftnl_expr_get_u16(e, NFTNL_EXPR_QUEUE_TOTAL);
  } else if (name != nullptr && std::strcmp(name, "target") == 0) {
    const char* target = nftnl_expr_get_str(e, NFTNL_EXPR_TG_NAME);
    uint32_t size = 0;
    const void* bytes = nftnl_expr_get(e, NFTNL_EXPR_TG_INFO, &size);
    xt_NFQ_info_v1 info{};
    if (target == nullptr || std::strcmp(target, "NFQUEUE") != 0 || size < sizeof info) return 0;
    std::memcpy(&info, bytes, sizeof info);
    first = info.queuenum;
    total = info.queues_total;
  }
  if (total == 0) return 0;
  const int last = std::min(first + total - 1, 65535);
  static_cast<std::vector<std::pair<uint16_t, uint16_t>>*>(out)->emplace_back(
      first, static_cast<uint16_t>(last));
  return 0;
}

}  // namespace

absl::StatusOr<size_t> CountRules(NetlinkSocket& socket) {
  size_t count = 0;
  RETURN_IF_ERROR(ForEachRule(socket, "count nftables rules", [&](const nlmsghdr&) { ++count; }));
  return count;
}

absl::StatusOr<std::vector<std::pair<uint16_t, uint16_t>>> ListQueues(NetlinkSocket& socket) {
  std::vector<std::pair<uint16_t, uint16_t>> queues;
  RETURN_IF_ERROR(ForEachRule(socket, "list nftables rules", [&](const nlmsghdr& answer) {
    const RulePtr rule(Allocated(nftnl_rule_alloc()));
    if (nftnl_rule_nlmsg_parse(&answer, rule.get()) < 0) return;
    (void)nftnl_expr_foreach(rule.get(), TakeQueues, &queues);
  }));
  return queues;
}

absl::Status Privileged(absl::Status status) {
  if (!absl::IsPermissionDenied(status)) return status;
  return WithRemedy(std::move(status), "run it as root, or with CAP_NET_ADMIN");
}

}  // namespace utproxy::nft
