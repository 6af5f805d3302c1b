// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/ruleset_reader.h"

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <absl/strings/str_cat.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/flowtable.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <tuple>

#include "base/status.h"
#include "diagnose/rule_decoder.h"
#include "diagnose/rule_values.h"
#include "netlink/attributes.h"

namespace utproxy {
namespace {

constexpr size_t kMaxElements = 65536;  // of a set; a longer one counts as not understood

std::string Text(const char* text) { return text != nullptr ? text : ""; }

// Sets with their elements, read when the first rule names them.
class Sets {
 public:
  explicit Sets(NetlinkSocket* nft) : nft_(nft) {}

  std::optional<std::vector<ByteRange>> Find(uint8_t family, const std::string& table,
                                             const std::string& name) {
    const auto key = std::make_tuple(family, table, name);
    auto it = known_.find(key);
    if (it == known_.end()) it = known_.emplace(key, Read(family, table, name)).first;
    return it->second;
  }

 private:
  struct Element {
    std::string key;
    bool end = false;
    RuleVerdict verdict = RuleVerdict::kNone;
    std::string jump_to;
    friend bool operator<(const Element& a, const Element& b) {
      return std::tie(a.key, b.end) < std::tie(b.key, a.end);  // an end before a start
    }
  };

  std::optional<std::vector<ByteRange>> Read(uint8_t family, const std::string& table,
                                             const std::string& name) {
    alignas(nlmsghdr) char buffer[1024];
    nlmsghdr* request =
        nftnl_nlmsg_build_hdr(buffer, NFT_MSG_GETSETELEM, family, NLM_F_DUMP | NLM_F_ACK, 0);
    request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    const std::unique_ptr<nftnl_set, decltype(&nftnl_set_free)> set(nftnl_set_alloc(),
                                                                    &nftnl_set_free);
    nftnl_set_set_str(set.get(), NFTNL_SET_TABLE, table.c_str());
    nftnl_set_set_str(set.get(), NFTNL_SET_NAME, name.c_str());
    nftnl_set_elems_nlmsg_build_payload(request, set.get());
    std::vector<Element> elements;
    bool understood = true;
    const absl::Status status = nft_->Transact(
        request, "read set", [&](const nlmsghdr& m) { understood &= Take(m, &elements); });
    if (!status.ok() || !understood) return std::nullopt;
    return Ranges(std::move(elements));
  }

  // libnftnl 1.2.4 writes an element's attributes of types that it does not know, up to
  // NFTA_SET_MAX, beyond the end of an array.
  static bool OfKnownTypes(const nlmsghdr& message) {
    bool known = true;
    ForEachAttribute(message, sizeof(nfgenmsg), [&](const nlattr& list) {
      known &= mnl_attr_get_type(&list) <= NFTA_SET_ELEM_LIST_MAX;
      if (mnl_attr_get_type(&list) != NFTA_SET_ELEM_LIST_ELEMENTS) return;
      ForEachNested(list, [&](const nlattr& element) {
        ForEachNested(element, [&](const nlattr& attr) {
          known &= mnl_attr_get_type(&attr) <= NFTA_SET_ELEM_MAX;
        });
      });
    });
    return known;
  }

  static bool Take(const nlmsghdr& message, std::vector<Element>* elements) {
    if (!OfKnownTypes(message)) return false;
    const std::unique_ptr<nftnl_set, decltype(&nftnl_set_free)> set(nftnl_set_alloc(),
                                                                    &nftnl_set_free);
    if (nftnl_set_elems_nlmsg_parse(&message, set.get()) < 0) return false;
    nftnl_set_elems_iter* iter = nftnl_set_elems_iter_create(set.get());
    bool understood = iter != nullptr;
    while (nftnl_set_elem* element = understood ? nftnl_set_elems_iter_next(iter) : nullptr) {
      uint32_t len = 0;
      const void* key = nftnl_set_elem_get(element, NFTNL_SET_ELEM_KEY, &len);
      // A key with an end of its own is a concatenation's.
      understood = key != nullptr && elements->size() < kMaxElements &&
                   !nftnl_set_elem_is_set(element, NFTNL_SET_ELEM_KEY_END);
      if (!understood) break;
      const uint32_t flags = nftnl_set_elem_is_set(element, NFTNL_SET_ELEM_FLAGS)
                                 ? nftnl_set_elem_get_u32(element, NFTNL_SET_ELEM_FLAGS)
                                 : 0;
      Element taken{.key = std::string(static_cast<const char*>(key), len),
                    .end = (flags & NFT_SET_ELEM_INTERVAL_END) != 0,
                    .verdict = RuleVerdict::kNone,
                    .jump_to = ""};
      if (nftnl_set_elem_is_set(element, NFTNL_SET_ELEM_VERDICT)) {
        taken.verdict = VerdictOf(nftnl_set_elem_get_u32(element, NFTNL_SET_ELEM_VERDICT));
      }
      if (nftnl_set_elem_is_set(element, NFTNL_SET_ELEM_CHAIN)) {
        taken.jump_to = Text(nftnl_set_elem_get_str(element, NFTNL_SET_ELEM_CHAIN));
      }
      elements->push_back(std::move(taken));
    }
    if (iter != nullptr) nftnl_set_elems_iter_destroy(iter);
    return understood;
  }

  // A set of intervals has a start and, but at the very end of the space, an excluded end for each.
  static std::vector<ByteRange> Ranges(std::vector<Element> elements) {
    std::sort(elements.begin(), elements.end());
    const bool intervals =
        std::any_of(elements.begin(), elements.end(), [](const Element& e) { return e.end; });
    std::vector<ByteRange> ranges;
    for (size_t i = 0; i < elements.size(); ++i) {
      if (elements[i].end) continue;
      ByteRange range{elements[i].key, elements[i].key, elements[i].verdict, elements[i].jump_to};
      if (intervals) {
        range.last = i + 1 < elements.size() ? Before(elements[i + 1].key)
                                             : std::string(range.first.size(), '\xff');
      }
      ranges.push_back(std::move(range));
    }
    return ranges;
  }

  static std::string Before(std::string key) {
    for (auto it = key.rbegin(); it != key.rend(); ++it) {
      const auto byte = static_cast<uint8_t>(*it);
      *it = static_cast<char>(byte - 1);
      if (byte != 0) break;
    }
    return key;
  }

  NetlinkSocket* nft_;
  std::map<std::tuple<uint8_t, std::string, std::string>, std::optional<std::vector<ByteRange>>>
      known_;
};

void TakeTable(const nlmsghdr& message, RulesetFacts* facts) {
  const std::unique_ptr<nftnl_table, decltype(&nftnl_table_free)> table(nftnl_table_alloc(),
                                                                        &nftnl_table_free);
  if (nftnl_table_nlmsg_parse(&message, table.get()) < 0) return;
  TableFacts fact;
  fact.family = static_cast<uint8_t>(nftnl_table_get_u32(table.get(), NFTNL_TABLE_FAMILY));
  fact.name = Text(nftnl_table_get_str(table.get(), NFTNL_TABLE_NAME));
  if (nftnl_table_is_set(table.get(), NFTNL_TABLE_OWNER)) {
    fact.owner = nftnl_table_get_u32(table.get(), NFTNL_TABLE_OWNER);
  }
  facts->tables.push_back(std::move(fact));
}

// The interfaces of an ingress chain.
std::vector<std::string> DevicesOf(const nftnl_chain* chain) {
  std::vector<std::string> names;
  if (nftnl_chain_is_set(chain, NFTNL_CHAIN_DEV)) {
    names.push_back(Text(nftnl_chain_get_str(chain, NFTNL_CHAIN_DEV)));
  }
  if (!nftnl_chain_is_set(chain, NFTNL_CHAIN_DEVICES)) return names;
  const char* const* devices = nftnl_chain_get_array(chain, NFTNL_CHAIN_DEVICES);
  for (; devices != nullptr && *devices != nullptr; ++devices) names.emplace_back(*devices);
  return names;
}

void TakeChain(const nlmsghdr& message, RulesetFacts* facts) {
  const std::unique_ptr<nftnl_chain, decltype(&nftnl_chain_free)> chain(nftnl_chain_alloc(),
                                                                        &nftnl_chain_free);
  if (nftnl_chain_nlmsg_parse(&message, chain.get()) < 0) return;
  ChainFacts fact;
  fact.family = static_cast<uint8_t>(nftnl_chain_get_u32(chain.get(), NFTNL_CHAIN_FAMILY));
  fact.table = Text(nftnl_chain_get_str(chain.get(), NFTNL_CHAIN_TABLE));
  fact.name = Text(nftnl_chain_get_str(chain.get(), NFTNL_CHAIN_NAME));
  if (nftnl_chain_is_set(chain.get(), NFTNL_CHAIN_HOOKNUM)) {
    fact.hook = static_cast<int>(nftnl_chain_get_u32(chain.get(), NFTNL_CHAIN_HOOKNUM));
    fact.priority = nftnl_chain_get_s32(chain.get(), NFTNL_CHAIN_PRIO);
    fact.type = Text(nftnl_chain_get_str(chain.get(), NFTNL_CHAIN_TYPE));
    fact.policy_drop = nftnl_chain_is_set(chain.get(), NFTNL_CHAIN_POLICY) &&
                       nftnl_chain_get_u32(chain.get(), NFTNL_CHAIN_POLICY) == NF_DROP;
    fact.devices = DevicesOf(chain.get());
  }
  facts->chains.push_back(std::move(fact));
}

void TakeRule(const nlmsghdr& message, Sets* sets, RulesetFacts* facts) {
  const std::unique_ptr<nftnl_rule, decltype(&nftnl_rule_free)> rule(nftnl_rule_alloc(),
                                                                     &nftnl_rule_free);
  if (nftnl_rule_nlmsg_parse(&message, rule.get()) < 0) return;
  const auto family = static_cast<uint8_t>(nftnl_rule_get_u32(rule.get(), NFTNL_RULE_FAMILY));
  const std::string table = Text(nftnl_rule_get_str(rule.get(), NFTNL_RULE_TABLE));
  const std::string chain = Text(nftnl_rule_get_str(rule.get(), NFTNL_RULE_CHAIN));
  RuleDecoder decoder(family,
                      [&](const std::string& name) { return sets->Find(family, table, name); });
  nftnl_expr_iter* iter = nftnl_expr_iter_create(rule.get());
  if (iter == nullptr) return;
  while (const nftnl_expr* expr = nftnl_expr_iter_next(iter)) decoder.Take(expr);
  nftnl_expr_iter_destroy(iter);
  std::vector<RuleFacts> all = decoder.Finish();
  for (ChainFacts& known : facts->chains) {
    if (known.family != family || known.table != table || known.name != chain) continue;
    for (RuleFacts& fact : all) {
      fact.handle = nftnl_rule_get_u64(rule.get(), NFTNL_RULE_HANDLE);
      known.rules.push_back(std::move(fact));
    }
    return;
  }
}

void TakeFlowtable(const nlmsghdr& message, RulesetFacts* facts) {
  const std::unique_ptr<nftnl_flowtable, decltype(&nftnl_flowtable_free)> table(
      nftnl_flowtable_alloc(), &nftnl_flowtable_free);
  if (nftnl_flowtable_nlmsg_parse(&message, table.get()) < 0) return;
  FlowtableFacts fact;
  fact.family = static_cast<uint8_t>(nftnl_flowtable_get_u32(table.get(), NFTNL_FLOWTABLE_FAMILY));
  fact.table = Text(nftnl_flowtable_get_str(table.get(), NFTNL_FLOWTABLE_TABLE));
  fact.name = Text(nftnl_flowtable_get_str(table.get(), NFTNL_FLOWTABLE_NAME));
  if (nftnl_flowtable_is_set(table.get(), NFTNL_FLOWTABLE_DEVICES)) {
    const char* const* devices = nftnl_flowtable_get_array(table.get(), NFTNL_FLOWTABLE_DEVICES);
    for (; devices != nullptr && *devices != nullptr; ++devices) fact.devices.push_back(*devices);
  }
  facts->flowtables.push_back(std::move(fact));
}

absl::Status Dump(NetlinkSocket* nft, uint16_t type, NetlinkSocket::Handler handler) {
  alignas(nlmsghdr) char buffer[256];
  nlmsghdr* request = nftnl_nlmsg_build_hdr(buffer, type, NFPROTO_UNSPEC, NLM_F_DUMP, 0);
  request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  return nft->Transact(request, "read nftables ruleset", handler);
}

bool NotThere(const absl::Status& status) {
  const int error = ErrnoOf(status);
  return error == EINVAL || error == EOPNOTSUPP || error == EPROTONOSUPPORT;
}

}  // namespace

void NameInterfaces(const std::map<uint64_t, std::string>& names, RulesetFacts* facts) {
  for (ChainFacts& chain : facts->chains) {
    for (RuleFacts& rule : chain.rules) {
      for (RuleCondition& c : rule.conditions) {
        if (c.field != Field::kIifIndex) continue;
        c.field = Field::kIif;
        for (const NumberRange& range : c.numbers) {
          const auto it = names.find(range.first);
          c.names.push_back(it != names.end() ? it->second : absl::StrCat("#", range.first));
        }
        c.numbers.clear();
      }
    }
  }
}

absl::StatusOr<RulesetFacts> ReadRuleset(NetlinkSocket* nft) {
  RulesetFacts facts;
  const absl::Status tables =
      Dump(nft, NFT_MSG_GETTABLE, [&](const nlmsghdr& m) { TakeTable(m, &facts); });
  if (NotThere(tables)) return facts;
  RETURN_IF_ERROR(tables);
  RETURN_IF_ERROR(Dump(nft, NFT_MSG_GETCHAIN, [&](const nlmsghdr& m) { TakeChain(m, &facts); }));
  // Sets are asked for while rules are taken, so over another socket.
  ASSIGN_OR_RETURN(NetlinkSocket other, NetlinkSocket::Open(NETLINK_NETFILTER));
  Sets sets(&other);
  RETURN_IF_ERROR(
      Dump(nft, NFT_MSG_GETRULE, [&](const nlmsghdr& m) { TakeRule(m, &sets, &facts); }));
  const absl::Status flowtables =
      Dump(nft, NFT_MSG_GETFLOWTABLE, [&](const nlmsghdr& m) { TakeFlowtable(m, &facts); });
  if (!NotThere(flowtables)) RETURN_IF_ERROR(flowtables);
  return facts;
}

}  // namespace utproxy
