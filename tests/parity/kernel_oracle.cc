// SPDX-License-Identifier: GPL-3.0-or-later
#include "kernel_oracle.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace utproxy::parity {
namespace {

constexpr uint16_t kMarkGroup = 1;
constexpr uint16_t kSocketGroup = 2;
constexpr std::array kProtos = {Proto::kTcp, Proto::kUdp};

// Right behind mangle: what gets here was hit. nft's `socket mark` reads the socket that the
// packet was given, and ends the rule where that is a minisocket, which has none to read.
constexpr char kTellAndDrop[] = R"(
  chain tell {
    type filter hook prerouting priority -149;
    iifname != "p*" accept
    ip dscp 0 accept
    ip6 dscp 0 accept
    log group 1 queue-threshold 1 snaplen 64
    meta mark set socket mark log group 2 queue-threshold 1 snaplen 64
    drop
  }
}
)";

}  // namespace

std::string MarkRules(const Marks& marks) {
  std::string map;
  for (size_t i = 0; i < marks.size(); ++i) {
    absl::StrAppendFormat(&map, "%s%d : %#x", i == 0 ? "" : ", ", i + 1, marks[i]);
  }
  return absl::StrCat("chain marks {\n type filter hook prerouting priority -300;\n",
                      "iifname \"p*\" ip dscp != 0 meta mark set ip ttl map { ", map, " }\n",
                      "iifname \"p*\" ip6 dscp != 0 meta mark set ip6 hoplimit map { ", map,
                      " }\n}\n");
}

std::string XtRule(const Policy& policy, Proto proto, Family family, unsigned dscp) {
  std::string rule = "-A PREROUTING -i p+";
  if (dscp != 0) absl::StrAppend(&rule, " -m dscp --dscp ", dscp);
  absl::StrAppend(&rule, " -p ", ProtoName(proto), " -j TPROXY --on-port ", policy.on_port);
  if (const Address& on_ip = policy.on_ip(family); !on_ip.IsUnspecified()) {
    absl::StrAppend(&rule, " --on-ip ", on_ip.ToString(family));
  }
  return absl::StrCat(
      rule, absl::StrFormat(" --tproxy-mark %#x/%#x", policy.mark_value, policy.mark_mask));
}

std::string NftRule(const Policy& policy, Proto proto, Family family, unsigned dscp) {
  const bool v4 = family == Family::kIpv4;
  std::string rule = "iifname \"p*\"";
  if (dscp != 0) absl::StrAppend(&rule, v4 ? " ip" : " ip6", " dscp ", dscp);
  absl::StrAppend(&rule, " meta l4proto ", ProtoName(proto), " tproxy ", v4 ? "ip" : "ip6", " to ");
  const Address& on_ip = policy.on_ip(family);
  if (!on_ip.IsUnspecified()) {
    const std::string text = on_ip.ToString(family);
    absl::StrAppend(&rule, v4 ? text : absl::StrCat("[", text, "]"));
  }
  // nft wants an address or a port; port 0 is none.
  if (policy.on_port != 0 || on_ip.IsUnspecified()) absl::StrAppend(&rule, ":", policy.on_port);
  return absl::StrCat(rule, absl::StrFormat(" meta mark set meta mark and %#x xor %#x accept",
                                            ~policy.mark_mask, policy.mark_value));
}

std::string KernelOracle::XtRules(absl::Span<const Policy> policies, Family family) {
  std::string rules = "*mangle\n";
  for (size_t i = 0; i < policies.size(); ++i) {
    const unsigned dscp = Dscp(Oracle::kXt, i);
    for (const Proto proto : kProtos) {
      absl::StrAppend(&rules, XtRule(policies[i], proto, family, dscp), "\n");
    }
    absl::StrAppend(&rules, "-A PREROUTING -m dscp --dscp ", dscp, " -j DROP\n");
  }
  return absl::StrCat(rules, "COMMIT\n");
}

std::string KernelOracle::NftRules(absl::Span<const Policy> policies) {
  std::string rules = "chain rules {\n type filter hook prerouting priority -150;\n";
  for (size_t i = 0; i < policies.size(); ++i) {
    const unsigned dscp = Dscp(Oracle::kNft, i);
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
      for (const Proto proto : kProtos) {
        absl::StrAppend(&rules, NftRule(policies[i], proto, family, dscp), "\n");
      }
    }
    absl::StrAppend(&rules, "ip dscp ", dscp, " drop\nip6 dscp ", dscp, " drop\n");
  }
  return absl::StrCat(rules, "}\n");
}

KernelOracle::KernelOracle(const Netns& netns, absl::Span<const Policy> policies,
                           const Marks& marks)
    : netns_(netns), nflog_([&] {
        const Netns::Inside inside(netns);
        Shell("exec iptables-legacy-restore", XtRules(policies, Family::kIpv4));
        Shell("exec ip6tables-legacy-restore", XtRules(policies, Family::kIpv6));
        Shell("exec nft -f -", absl::StrCat("table inet oracle {\n", MarkRules(marks),
                                            NftRules(policies), kTellAndDrop));
        return Nflog(kMarkGroup, kSocketGroup);
      }()) {}

Outcome KernelOracle::Ask(Oracle oracle, size_t policy, const PacketSpec& packet,
                          uint8_t mark_index, uint16_t id) {
  for (const std::vector<uint8_t>& part :
       Fragments(packet, PacketBytes(packet, Dscp(oracle, policy), mark_index, id))) {
    netns_.Receive(packet.device, part);
  }
  logged_.clear();
  nflog_.Read(&logged_);
  Outcome outcome;
  for (const Logged& logged : logged_) {
    if (logged.id != id) Fatal("the kernel told of another packet than was asked about");
    outcome.hit = true;
    if (logged.group == kMarkGroup) {
      outcome.mark = logged.mark;
      outcome.who = Outcome::Who::kMinisocket;
    } else {
      outcome.id = logged.mark;
      outcome.who = Outcome::Who::kFull;
    }
  }
  return outcome;
}

}  // namespace utproxy::parity
