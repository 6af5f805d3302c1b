// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: nf_tables' answers, to each of their readers. The first byte chooses the
// reader; the datagrams follow (fake_netlink.h).
//
// libnftnl is between: it calls exit() where an attribute has not its length, as no kernel sends
// it. That ends the input here, and what libnftnl had allocated is lost: run with -detect_leaks=0.
#include <arpa/inet.h>
#include <dlfcn.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "diagnose/chain_reach.h"
#include "diagnose/chain_walk.h"
#include "diagnose/doctor.h"
#include "diagnose/ruleset_reader.h"
#include "fake_netlink.h"
#include "netlink/attributes.h"
#include "ruleset/fast_path_sets.h"
#include "ruleset/nft_batch.h"
#include "ruleset/nft_table.h"

namespace {

struct Exited {};
bool g_reading = false;

}  // namespace

// In place of the C library's, whose declaration allows no exception. Through libnftnl's and
// libmnl's frames it goes by their unwind tables.
extern "C" [[noreturn]] void EndInput(int status) __asm__("exit");
extern "C" void EndInput(int status) {
  if (g_reading) throw Exited();
  using Exit = void (*)(int);
  reinterpret_cast<Exit>(::dlsym(RTLD_NEXT, "exit"))(status);
  std::abort();
}

// It also says why, each time.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  stderr = std::fopen("/dev/null", "w");
  return 0;
}

extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }  // NOLINT

namespace utproxy {
namespace {

bool Named(const nlattr& expression) {
  bool named = false;
  ForEachNested(expression, [&](const nlattr& part) {
    named |= mnl_attr_get_type(&part) == NFTA_EXPR_NAME &&
             mnl_attr_validate(&part, MNL_TYPE_NUL_STRING) >= 0;
  });
  return named;
}

bool AllNamed(const nlattr& expressions) {
  bool all = true;
  ForEachNested(expressions, [&](const nlattr& each) { all &= Named(each); });
  return all;
}

// libnftnl takes it for granted that each expression of a rule and of a set's element has a name.
bool AllNamed(const nlmsghdr& message) {
  bool all = true;
  ForEachAttribute(message, sizeof(nfgenmsg), [&](const nlattr& attr) {
    const uint16_t type = mnl_attr_get_type(&attr);
    if (type == NFTA_RULE_EXPRESSIONS) all &= AllNamed(attr);
    if (type != NFTA_SET_ELEM_LIST_ELEMENTS) return;
    ForEachNested(attr, [&](const nlattr& element) {
      ForEachNested(element, [&](const nlattr& part) {
        if (mnl_attr_get_type(&part) == NFTA_SET_ELEM_EXPR) all &= Named(part);
        if (mnl_attr_get_type(&part) == NFTA_SET_ELEM_EXPRESSIONS) all &= AllNamed(part);
      });
    });
  });
  return all;
}

// And that a verdict to jump, which stands in rules and in elements, has a chain beside it. `bytes`
// are attributes, or a value that is taken for some in vain.
bool JumpsLead(absl::Span<const char> bytes) {
  bool jump = false, chain = false, below = true;
  const auto* attr = reinterpret_cast<const nlattr*>(bytes.data());
  const char* end = bytes.data() + bytes.size();
  while (mnl_attr_ok(attr, static_cast<int>(end - reinterpret_cast<const char*>(attr)))) {
    const auto* value = static_cast<const char*>(mnl_attr_get_payload(attr));
    const size_t size = mnl_attr_get_payload_len(attr);
    const uint16_t type = mnl_attr_get_type(attr);
    if (type == NFTA_VERDICT_CODE && size == 4) {
      const auto verdict = static_cast<int>(ntohl(mnl_attr_get_u32(attr)));
      jump |= verdict == NFT_JUMP || verdict == NFT_GOTO;
    }
    chain |= type == NFTA_VERDICT_CHAIN && mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) >= 0;
    below &= JumpsLead({value, size});
    attr = mnl_attr_next(attr);
  }
  return below && (!jump || chain);
}

bool AsKernelsSend(const nlmsghdr& message) {
  const size_t headers = sizeof message + sizeof(nfgenmsg);
  if (message.nlmsg_len < headers) return false;
  const absl::Span<const char> all(reinterpret_cast<const char*>(&message), message.nlmsg_len);
  return AllNamed(message) && JumpsLead(all.subspan(headers));
}

void Doctor(NetlinkSocket& nft) {
  absl::StatusOr<RulesetFacts> facts = ReadRuleset(&nft);
  if (!facts.ok()) return;
  SystemView view;
  view.ruleset = *std::move(facts);
  view.interfaces.resize(2);
  view.interfaces[0] = {.index = 1, .name = "lo", .up = true, .loopback = true};
  view.interfaces[1] = {.index = 2, .name = "lan0", .up = true};
  NameInterfaces({{1, "lo"}, {2, "lan0"}}, &view.ruleset);
  view.targets = FindTargets(view.ruleset);
  FollowTargets(&view);
  for (const Finding& finding : Diagnose(view)) {
    if (finding.id.empty() || finding.cause.empty()) std::abort();
  }
}

void Change(NetlinkSocket& nft) {
  (void)ProbeNft(nft);
  if (!DeleteTable(nft).ok()) return;
  const ListenerPlace place{.address = Address::FromIpv4(0x0100007f), .port = 80};
  (void)ReplaceListeners(nft, {&place, 1});
}

void Read(uint8_t reader) {
  absl::StatusOr<NetlinkSocket> nft = OpenNftSocket();
  if (!nft.ok()) std::abort();
  switch (reader % 5) {
    case 0:
      Doctor(*nft);
      break;
    case 1:
      (void)FindTable(*nft, 1, "utproxy");
      break;
    case 2:
      (void)DeleteIptablesChains(*nft);
      break;
    case 3:
      (void)ReadFastPathCounters(*nft);
      break;
    default:
      Change(*nft);
  }
}

}  // namespace
}  // namespace utproxy

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  utproxy::AnswerNetlinkWith({data + 1, size - 1}, utproxy::AsKernelsSend);
  g_reading = true;
  try {
    utproxy::Read(data[0]);
  } catch (const Exited&) {
  }
  g_reading = false;
  return 0;
}
