// SPDX-License-Identifier: GPL-3.0-or-later
#include "ruleset/nft_rule.h"

#include <absl/strings/str_cat.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/xt_NFQUEUE.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>

#include "base/status.h"
#include "ruleset/cgroup.h"
#include "ruleset/nft_objects.h"

namespace utproxy {
namespace {

constexpr uint32_t kRegister = NFT_REG_1;
constexpr uint32_t kFirstOfKey = NFT_REG32_00;  // of a set's key of several parts
constexpr char kAnonymousSet[] = "__set%d";     // the kernel fills in the number
// Element lists travel in an attribute with a 16-bit length.
constexpr size_t kElementsPerMessage = 500;

// Numbers that nft gives its data types; the kernel only keeps them for the lister.
enum class KeyType : uint32_t {
  kIpv4Address = 7,
  kIpv6Address = 8,
  kInetProtocol = 12,
  kInetService = 13,
  kInterfaceIndex = 20,
  kUid = 24,
  kFibAddressType = 38,
  kInterfaceName = 41,
};

using nft::Allocated;
using nft::RulePtr;
using nft::SetPtr;

bool IsHostOrder(KeyType type) {
  return type == KeyType::kUid || type == KeyType::kFibAddressType ||
         type == KeyType::kInterfaceName;
}

// A value as the kernel's registers hold it.
struct Key {
  std::array<uint8_t, 16> bytes{};
  uint32_t size = 0;
};
template <typename T>
Key KeyOf(T value) {  // bytes as they lie in memory
  Key key;
  static_assert(sizeof value <= sizeof key.bytes);
  std::memcpy(key.bytes.data(), &value, sizeof value);
  key.size = sizeof value;
  return key;
}
Key KeyOf(const std::array<uint8_t, 16>& bytes, size_t size) {
  return {bytes, static_cast<uint32_t>(size)};
}
Key InterfaceKey(const std::string& name) {
  Key key{{}, 16};
  std::memcpy(key.bytes.data(), name.data(), std::min<size_t>(name.size(), 15));
  return key;
}

struct KeyRange {
  Key first, last;
};

// The key after `key` in network order; nullopt after the last.
std::optional<Key> Next(Key key) {
  for (uint32_t i = key.size; i-- > 0;) {
    if (++key.bytes[i] != 0) return key;
  }
  return std::nullopt;
}

// Fills one rule. Sets that it needs go into the batch first.
class Builder {
 public:
  Builder(NftBatch& batch, const std::string& table, NftDialect dialect, uint32_t& next_set_id)
      : batch_(batch), table_(table), dialect_(dialect), next_set_id_(next_set_id) {}

  absl::Status operator()(const OfFamily& c) {
    Meta(NFT_META_NFPROTO);
    Compare(NFT_CMP_EQ, KeyOf<uint8_t>(c.family == Family::kIpv4 ? NFPROTO_IPV4 : NFPROTO_IPV6));
    return absl::OkStatus();
  }
  absl::Status operator()(const FromInterface& c) {
    std::vector<Key> keys;
    for (const std::string& name : c.names) keys.push_back(InterfaceKey(name));
    Meta(NFT_META_IIFNAME);
    OneOf(KeyType::kInterfaceName, keys, c.negated);
    return absl::OkStatus();
  }
  absl::Status operator()(const OfProtocol& c) {
    std::vector<Key> keys;
    for (const Proto proto : c.protos) keys.push_back(KeyOf(static_cast<uint8_t>(proto)));
    Meta(NFT_META_L4PROTO);
    OneOf(KeyType::kInetProtocol, keys, false);
    return absl::OkStatus();
  }
  absl::Status operator()(const ToPort& c) {
    std::vector<KeyRange> ranges;
    for (const PortRange& r : c.ports) {
      ranges.push_back({KeyOf<uint16_t>(htons(r.first)), KeyOf<uint16_t>(htons(r.last))});
    }
    Payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
    InRanges(KeyType::kInetService, ranges, false);
    return absl::OkStatus();
  }
  absl::Status operator()(const HasMark& c) {
    Meta(NFT_META_MARK);
    if (c.mark.mask != 0xffffffffu) Bitwise(KeyOf(c.mark.mask), KeyOf<uint32_t>(0));
    Compare(NFT_CMP_EQ, KeyOf(c.mark.value));
    return absl::OkStatus();
  }
  absl::Status operator()(const HasAddress& c) {
    const auto size = static_cast<uint32_t>(AddressBytes(c.family));
    const bool v4 = c.family == Family::kIpv4;
    const uint32_t source = v4 ? 12 : 8;  // offsets in the header, RFC 791 and RFC 8200
    Payload(NFT_PAYLOAD_NETWORK_HEADER, c.side == Side::kSource ? source : source + size, size);
    const int length = PrefixLength(c.ranges[0], c.family);
    if (c.ranges.size() == 1 && length >= 0 && c.ranges[0].first != c.ranges[0].last) {
      InPrefix(c.ranges[0], length, size, c.negated);
      return absl::OkStatus();
    }
    std::vector<KeyRange> ranges;
    for (const AddressRange& r : c.ranges) {
      ranges.push_back({KeyOf(r.first, size), KeyOf(r.last, size)});
    }
    InRanges(v4 ? KeyType::kIpv4Address : KeyType::kIpv6Address, ranges, c.negated);
    return absl::OkStatus();
  }
  absl::Status operator()(const OfUser& c) {
    std::vector<Key> keys;
    for (const uint32_t uid : c.uids) keys.push_back(KeyOf(uid));
    Meta(NFT_META_SKUID);
    OneOf(KeyType::kUid, keys, false);
    return absl::OkStatus();
  }
  absl::Status operator()(const OfCgroup& c) {
    ASSIGN_OR_RETURN(const uint64_t id, CgroupId(c.path));
    nftnl_expr* e = Expression("socket");
    nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_KEY, NFT_SOCKET_CGROUPV2);
    nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_DREG, kRegister);
    nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_LEVEL, static_cast<uint32_t>(CgroupLevel(c.path)));
    Append(e);
    Compare(NFT_CMP_EQ, KeyOf(id));
    return absl::OkStatus();
  }
  absl::Status operator()(const ToThisHost&) {
    nftnl_expr* e = Expression("fib");
    nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
    nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_FLAGS, NFTA_FIB_F_DADDR);
    nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_DREG, kRegister);
    Append(e);
    const std::vector<Key> keys = {KeyOf<uint32_t>(RTN_LOCAL), KeyOf<uint32_t>(RTN_BROADCAST),
                                   KeyOf<uint32_t>(RTN_ANYCAST), KeyOf<uint32_t>(RTN_MULTICAST)};
    OneOf(KeyType::kFibAddressType, keys, false);
    return absl::OkStatus();
  }

  absl::Status operator()(const NotPureSyn&) {
    constexpr uint8_t kFin = 0x01, kSyn = 0x02, kRst = 0x04, kAck = 0x10;
    Payload(NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1);
    Bitwise(KeyOf<uint8_t>(kFin | kSyn | kRst | kAck), KeyOf<uint8_t>(0));
    Compare(NFT_CMP_NEQ, KeyOf(kSyn));
    return absl::OkStatus();
  }
  absl::Status operator()(const ForWildcard&) {
    SocketIs(NFT_SOCKET_WILDCARD, 1);
    return absl::OkStatus();
  }
  absl::Status operator()(const ForTransparent&) {
    SocketIs(NFT_SOCKET_TRANSPARENT, 1);
    return absl::OkStatus();
  }
  absl::Status operator()(const InSet& c) {
    SetKey(c.set);
    nftnl_expr* e = Expression("lookup");
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, kFirstOfKey);
    nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, SetName(c.set).c_str());
    if (c.negated) nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
    Append(e);
    return absl::OkStatus();
  }

  void operator()(const Queue& s) {
    const auto total = static_cast<uint16_t>(s.last - s.first + 1);
    if (!dialect_.native_queue) return XtQueue(s, total);
    nftnl_expr* e = Expression("queue");
    nftnl_expr_set_u16(e, NFTNL_EXPR_QUEUE_NUM, s.first);
    nftnl_expr_set_u16(e, NFTNL_EXPR_QUEUE_TOTAL, total);
    nftnl_expr_set_u16(e, NFTNL_EXPR_QUEUE_FLAGS,
                       static_cast<uint16_t>((s.bypass ? NFT_QUEUE_FLAG_BYPASS : 0) |
                                             (s.cpu_fanout ? NFT_QUEUE_FLAG_CPU_FANOUT : 0)));
    Append(e);
  }
  void operator()(const SetMark& s) {
    if (s.mark.mask == 0xffffffffu) {
      Load(KeyOf(s.mark.value));
    } else {
      Meta(NFT_META_MARK);
      Bitwise(KeyOf(~s.mark.mask), KeyOf(s.mark.value));
    }
    nftnl_expr* e = Expression("meta");
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, NFT_META_MARK);
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_SREG, kRegister);
    Append(e);
  }
  void operator()(const Divert& s) {
    (*this)(SetMark{s.mark});
    Verdict(NF_ACCEPT, nullptr);
  }
  void operator()(const AddToSet& s) {
    SetKey(s.set);
    nftnl_expr* e = Expression("dynset");
    nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_OP, NFT_DYNSET_OP_ADD);
    nftnl_expr_set_u32(e, NFTNL_EXPR_DYNSET_SREG_KEY, kFirstOfKey);
    nftnl_expr_set_str(e, NFTNL_EXPR_DYNSET_SET_NAME, SetName(s.set).c_str());
    Append(e);
  }
  void operator()(const Jump& s) { Verdict(NFT_JUMP, s.chain.c_str()); }
  void operator()(const Return&) { Verdict(NFT_RETURN, nullptr); }
  // Never evaluated, since nothing leads to its chain: being there is what counts. tproxy's init
  // switches defragmentation on for both families (nft_tproxy_init), ct's does so along with
  // connection tracking (nft_ct_get_init).
  void operator()(const EnableDefrag&) {
    if (!dialect_.tproxy_defrag) {
      nftnl_expr* e = Expression("ct");
      nftnl_expr_set_u32(e, NFTNL_EXPR_CT_KEY, NFT_CT_STATE);
      nftnl_expr_set_u32(e, NFTNL_EXPR_CT_DREG, kRegister);
      return Append(e);
    }
    Meta(NFT_META_L4PROTO);
    OneOf(KeyType::kInetProtocol, {KeyOf<uint8_t>(IPPROTO_TCP), KeyOf<uint8_t>(IPPROTO_UDP)},
          false);
    Load(KeyOf<uint16_t>(htons(1)));
    nftnl_expr* e = Expression("tproxy");
    nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_FAMILY, NFPROTO_UNSPEC);
    nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_REG_PORT, kRegister);
    Append(e);
  }
  void Counter() { Append(Expression("counter")); }

  void Finish(absl::string_view chain, const std::string& comment) {
    nftnl_rule_set_str(rule_.get(), NFTNL_RULE_TABLE, table_.c_str());
    nftnl_rule_set_str(rule_.get(), NFTNL_RULE_CHAIN, std::string(chain).c_str());
    nft::SetComment(rule_.get(), comment);
    batch_.Add(
        NFT_MSG_NEWRULE, NFPROTO_INET, NLM_F_CREATE | NLM_F_APPEND,
        absl::StrCat("add the rule of '", comment, "' to nftables chain inet ", table_, " ", chain),
        [&](nlmsghdr* nlh) { nftnl_rule_nlmsg_build_payload(nlh, rule_.get()); });
  }

 private:
  struct Element {
    Key key;
    bool interval_end;
  };

  nftnl_expr* Expression(const char* name) { return Allocated(nftnl_expr_alloc(name)); }
  void Append(nftnl_expr* e) { nftnl_rule_add_expr(rule_.get(), e); }

  void Meta(uint32_t key, uint32_t to = kRegister) {
    nftnl_expr* e = Expression("meta");
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, key);
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, to);
    Append(e);
  }
  void Payload(uint32_t base, uint32_t offset, uint32_t size, uint32_t to = kRegister) {
    nftnl_expr* e = Expression("payload");
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, base);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, offset);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, size);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, to);
    Append(e);
  }
  void SocketIs(uint32_t key, uint8_t value) {
    nftnl_expr* e = Expression("socket");
    nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_KEY, key);
    nftnl_expr_set_u32(e, NFTNL_EXPR_SOCKET_DREG, kRegister);
    Append(e);
    Compare(NFT_CMP_EQ, KeyOf(value));
  }
  // Loads an element's parts one after the other, each into whole registers of 32 bits.
  void SetKey(NamedSet set) {
    const auto size = static_cast<uint32_t>(AddressBytes(set.family));
    const uint32_t source = set.family == Family::kIpv4 ? 12 : 8;
    const bool flow = set.kind != SetKind::kListeners;
    next_ = kFirstOfKey;
    if (flow) {
      Meta(NFT_META_IIF, Take(4));
      Payload(NFT_PAYLOAD_NETWORK_HEADER, source, size, Take(size));
      Payload(NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, Take(2));
    }
    Payload(NFT_PAYLOAD_NETWORK_HEADER, source + size, size, Take(size));
    Payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, Take(2));
  }
  uint32_t Take(uint32_t bytes) {
    const uint32_t taken = next_;
    next_ += (bytes + 3) / 4;
    return taken;
  }
  void Compare(uint32_t op, const Key& key) {
    nftnl_expr* e = Expression("cmp");
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, kRegister);
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, op);
    nftnl_expr_set(e, NFTNL_EXPR_CMP_DATA, key.bytes.data(), key.size);
    Append(e);
  }
  void Bitwise(const Key& mask, const Key& flip) {
    nftnl_expr* e = Expression("bitwise");
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_SREG, kRegister);
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_DREG, kRegister);
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_LEN, mask.size);
    nftnl_expr_set(e, NFTNL_EXPR_BITWISE_MASK, mask.bytes.data(), mask.size);
    nftnl_expr_set(e, NFTNL_EXPR_BITWISE_XOR, flip.bytes.data(), flip.size);
    Append(e);
  }
  void Load(const Key& key) {
    nftnl_expr* e = Expression("immediate");
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, kRegister);
    nftnl_expr_set(e, NFTNL_EXPR_IMM_DATA, key.bytes.data(), key.size);
    Append(e);
  }
  void Verdict(int verdict, const char* chain) {
    nftnl_expr* e = Expression("immediate");
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
    if (chain != nullptr) nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, chain);
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, static_cast<uint32_t>(verdict));
    Append(e);
  }
  void Range(const KeyRange& range) {
    nftnl_expr* e = Expression("range");
    nftnl_expr_set_u32(e, NFTNL_EXPR_RANGE_SREG, kRegister);
    nftnl_expr_set_u32(e, NFTNL_EXPR_RANGE_OP, NFT_RANGE_NEQ);
    nftnl_expr_set(e, NFTNL_EXPR_RANGE_FROM_DATA, range.first.bytes.data(), range.first.size);
    nftnl_expr_set(e, NFTNL_EXPR_RANGE_TO_DATA, range.last.bytes.data(), range.last.size);
    Append(e);
  }
  void InPrefix(const AddressRange& range, int length, uint32_t size, bool negated) {
    Key mask{{}, size};
    for (int bit = 0; bit < length; ++bit) {
      mask.bytes[bit / 8] = static_cast<uint8_t>(mask.bytes[bit / 8] | (0x80u >> (bit % 8)));
    }
    Bitwise(mask, Key{{}, size});
    Compare(negated ? NFT_CMP_NEQ : NFT_CMP_EQ, KeyOf(range.first, size));
  }
  void InRanges(KeyType type, const std::vector<KeyRange>& ranges, bool negated) {
    if (ranges.size() > 1) return LookupRanges(type, ranges, negated);
    const KeyRange& range = ranges[0];
    if (range.first.bytes == range.last.bytes) {
      Compare(negated ? NFT_CMP_NEQ : NFT_CMP_EQ, range.first);
    } else if (negated) {
      Range(range);
    } else {
      Compare(NFT_CMP_GTE, range.first);
      Compare(NFT_CMP_LTE, range.last);
    }
  }
  void OneOf(KeyType type, const std::vector<Key>& keys, bool negated) {
    if (keys.size() == 1) return Compare(negated ? NFT_CMP_NEQ : NFT_CMP_EQ, keys[0]);
    std::vector<Element> elements;
    for (const Key& key : keys) elements.push_back({key, false});
    Lookup(AddSet(type, elements, false), negated);
  }
  void LookupRanges(KeyType type, const std::vector<KeyRange>& ranges, bool negated) {
    std::vector<Element> elements;
    for (const KeyRange& range : ranges) {
      elements.push_back({range.first, false});
      if (const std::optional<Key> end = Next(range.last)) elements.push_back({*end, true});
    }
    Lookup(AddSet(type, elements, true), negated);
  }
  void Lookup(uint32_t set_id, bool negated) {
    nftnl_expr* e = Expression("lookup");
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, kRegister);
    nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, kAnonymousSet);
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SET_ID, set_id);
    if (negated) nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
    Append(e);
  }
  // xt_NFQUEUE revision 3; its eight bytes are XT_ALIGN(sizeof(xt_NFQ_info_v3)), and libnftnl
  // frees them.
  void XtQueue(const Queue& s, uint16_t total) {
    constexpr uint32_t kSize = 8;
    static_assert(sizeof(xt_NFQ_info_v3) <= kSize);
    auto* info = static_cast<xt_NFQ_info_v3*>(Allocated(std::calloc(1, kSize)));
    info->queuenum = s.first;
    info->queues_total = total;
    info->flags = static_cast<uint16_t>((s.bypass ? NFQ_FLAG_BYPASS : 0) |
                                        (s.cpu_fanout ? NFQ_FLAG_CPU_FANOUT : 0));
    nftnl_expr* e = Expression("target");
    nftnl_expr_set_str(e, NFTNL_EXPR_TG_NAME, "NFQUEUE");
    nftnl_expr_set_u32(e, NFTNL_EXPR_TG_REV, 3);
    nftnl_expr_set(e, NFTNL_EXPR_TG_INFO, info, kSize);
    Append(e);
  }

  uint32_t AddSet(KeyType type, const std::vector<Element>& elements, bool intervals) {
    const uint32_t id = next_set_id_++;
    const auto new_set = [&] {
      SetPtr set(Allocated(nftnl_set_alloc()));
      nftnl_set_set_u32(set.get(), NFTNL_SET_FAMILY, NFPROTO_INET);
      nftnl_set_set_str(set.get(), NFTNL_SET_TABLE, table_.c_str());
      nftnl_set_set_str(set.get(), NFTNL_SET_NAME, kAnonymousSet);
      nftnl_set_set_u32(set.get(), NFTNL_SET_ID, id);
      return set;
    };
    const SetPtr set = new_set();
    const uint32_t kind = intervals ? NFT_SET_INTERVAL : 0;
    nftnl_set_set_u32(set.get(), NFTNL_SET_FLAGS, NFT_SET_ANONYMOUS | NFT_SET_CONSTANT | kind);
    nftnl_set_set_u32(set.get(), NFTNL_SET_KEY_TYPE, static_cast<uint32_t>(type));
    nftnl_set_set_u32(set.get(), NFTNL_SET_KEY_LEN, elements[0].key.size);
    nftnl_set_set_u32(set.get(), NFTNL_SET_DESC_SIZE, static_cast<uint32_t>(elements.size()));
    nft::SetKeyByteOrder(set.get(), IsHostOrder(type));
    batch_.Add(NFT_MSG_NEWSET, NFPROTO_INET, NLM_F_CREATE, "add an nftables set",
               [&](nlmsghdr* nlh) { nftnl_set_nlmsg_build_payload(nlh, set.get()); });
    for (size_t at = 0; at < elements.size(); at += kElementsPerMessage) {
      const SetPtr part = new_set();
      const size_t end = std::min(at + kElementsPerMessage, elements.size());
      for (size_t i = at; i < end; ++i) AddElement(elements[i], part.get());
      batch_.Add(NFT_MSG_NEWSETELEM, NFPROTO_INET, NLM_F_CREATE, "fill an nftables set",
                 [&](nlmsghdr* nlh) { nftnl_set_elems_nlmsg_build_payload(nlh, part.get()); });
    }
    return id;
  }
  static void AddElement(const Element& element, nftnl_set* set) {
    nftnl_set_elem* e = Allocated(nftnl_set_elem_alloc());
    nftnl_set_elem_set(e, NFTNL_SET_ELEM_KEY, element.key.bytes.data(), element.key.size);
    if (element.interval_end) {
      nftnl_set_elem_set_u32(e, NFTNL_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
    }
    nftnl_set_elem_add(set, e);
  }

  NftBatch& batch_;
  const std::string& table_;
  NftDialect dialect_;
  uint32_t& next_set_id_;
  uint32_t next_ = 0;
  RulePtr rule_{Allocated(nftnl_rule_alloc())};
};

// nft's number for a type of several parts: six bits each.
uint32_t TypeOf(NamedSet set) {
  const KeyType address =
      set.family == Family::kIpv4 ? KeyType::kIpv4Address : KeyType::kIpv6Address;
  std::vector<KeyType> parts = {address, KeyType::kInetService};
  if (set.kind != SetKind::kListeners) {
    parts.insert(parts.begin(), {KeyType::kInterfaceIndex, address, KeyType::kInetService});
  }
  uint32_t type = 0;
  for (const KeyType part : parts) type = type << 6 | static_cast<uint32_t>(part);
  return type;
}

}  // namespace

void NftRuleWriter::AddSet(NamedSet named) {
  const SetPtr set(Allocated(nftnl_set_alloc()));
  nftnl_set_set_u32(set.get(), NFTNL_SET_FAMILY, NFPROTO_INET);
  nftnl_set_set_str(set.get(), NFTNL_SET_TABLE, table_.c_str());
  nftnl_set_set_str(set.get(), NFTNL_SET_NAME, SetName(named).c_str());
  nftnl_set_set_u32(set.get(), NFTNL_SET_ID, next_set_id_++);
  nftnl_set_set_u32(set.get(), NFTNL_SET_KEY_TYPE, TypeOf(named));
  const auto address = static_cast<uint32_t>(AddressBytes(named.family));
  const bool flows = named.kind != SetKind::kListeners;
  nftnl_set_set_u32(set.get(), NFTNL_SET_KEY_LEN, flows ? 4 + 2 * (address + 4) : address + 4);
  nftnl_set_set_u32(set.get(), NFTNL_SET_FLAGS, flows ? NFT_SET_EVAL | NFT_SET_TIMEOUT : 0u);
  if (flows) {
    nftnl_set_set_u32(set.get(), NFTNL_SET_DESC_SIZE, kMaxFlows);
    nftnl_set_set_u64(set.get(), NFTNL_SET_TIMEOUT,
                      named.kind == SetKind::kDecided ? kFlowTimeoutMs : kPremarkedTimeoutMs);
  }
  batch_.Add(NFT_MSG_NEWSET, NFPROTO_INET, NLM_F_CREATE,
             absl::StrCat("add nftables set inet ", table_, " ", SetName(named)),
             [&](nlmsghdr* nlh) { nftnl_set_nlmsg_build_payload(nlh, set.get()); });
}

absl::Status NftRuleWriter::Add(absl::string_view chain, const Rule& rule) {
  Builder builder(batch_, table_, dialect_, next_set_id_);
  for (const Condition& condition : rule.conditions) {
    RETURN_IF_ERROR(std::visit(builder, condition));
  }
  if (rule.counted) builder.Counter();
  std::visit(builder, rule.statement);
  builder.Finish(chain, rule.comment);
  return absl::OkStatus();
}

}  // namespace utproxy
