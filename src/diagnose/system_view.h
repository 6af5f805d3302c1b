// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_SYSTEM_VIEW_H_
#define UTPROXY_DIAGNOSE_SYSTEM_VIEW_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "decide/spread.h"
#include "diagnose/ruleset_facts.h"
#include "netlink/route_probe.h"
#include "utproxy/address.h"
#include "utproxy/policy.h"
#include "utproxy/socket.h"

namespace utproxy {

// All that doctor's checks look at: plain values of one moment, filled from the kernel by
// LoadSystemView() or by a test. Ports and marks in host byte order.

struct InterfaceFacts {
  struct Assigned {
    Address address;
    Family family = Family::kIpv4;
    uint8_t prefix_len = 0;
    bool primary = false;     // what TPROXY takes: see InterfaceSnapshot::PrimaryAddress
    bool link_local = false;  // of IPv6
  };
  uint32_t index = 0;
  std::string name;
  std::string kind;     // "bridge", "veth", ...; empty where the kernel names none
  uint32_t master = 0;  // of a port of a bridge, a slave of a VRF: that interface's index
  bool up = false;
  bool loopback = false;
  std::vector<Assigned> addresses;
  bool routed4 = false, routed6 = false;  // routes lead out by it, link-local ones not counted
  int rp_filter = 0;
  int src_valid_mark = 0;
  bool ipv6_disabled = false;

  bool Has(Family family) const;  // an address of the family, link-local ones not counted
  std::optional<Address> Primary(Family family) const;
};

struct PolicyRule {  // `ip rule`
  Family family = Family::kIpv4;
  uint32_t priority = 0;
  std::optional<uint32_t> mark, mask;  // both or none
  uint32_t table = 0;
  bool to_table = true;   // its action is a lookup
  uint8_t action = 1;     // FR_ACT_*
  bool inverted = false;  // `not`
  bool narrowed = false;  // has conditions that are not told here: ports, uid, oif, ...
  std::optional<Cidr> from, to;
  std::optional<uint8_t> ip_proto;
  std::string iif;
  uint8_t protocol = 0;  // RTPROT_*: who made it
};

struct RouteFacts {  // default routes of all tables but `local`
  Family family = Family::kIpv4;
  uint32_t table = 0;
  uint8_t type = 0;  // RTN_*
  uint32_t oif = 0;
};

struct GatewayRoute {  // to a network behind another router, not the default route
  Cidr to;
  uint32_t oif = 0;
};

struct SocketFacts {
  Socket socket;
  int pid = 0;  // 0: unknown
  int fd = -1;  // of that process
  std::string comm;
  std::optional<bool> reuse_address;  // of UDP sockets at a wildcard address, where it can be read
};

struct ProcessFacts {  // of those that own listeners or queues
  int pid = 0;
  std::string comm;
  uint32_t uid = 0;
  uint64_t max_fds = 0;       // RLIMIT_NOFILE, soft
  uint64_t max_fds_hard = 0;  // what it may be raised to without CAP_SYS_RESOURCE
  uint64_t fds = 0;
  uint64_t capabilities = 0;  // CapEff
  std::vector<std::string> command_line;
  bool stopped = false;  // by a signal or a debugger
};

struct QueueFacts {
  uint16_t number = 0;
  uint32_t port_id = 0;
  uint32_t depth = 0;
  uint64_t dropped = 0, user_dropped = 0;  // since binding
  uint64_t packets = 0;                    // since binding
};

struct DaemonFacts {       // what the running utproxy tells
  uint64_t fragments = 0;  // packets refused as fragments
  uint64_t flushed = 0;    // packets the kernel dropped from the queues by itself
};

// One TPROXY target, wherever it came from.
struct RuleRef {
  uint8_t family = 0;
  std::string table, chain;
  uint64_t handle = 0;
  bool owned = false;  // the table is a process's: nobody else may change it
};
// How the target's packets of a family that come in by an interface fare.
struct Arrival {
  Family family = Family::kIpv4;
  std::string iif;
  bool reached = true;      // the target's rules, and nothing stops them behind
  bool after = false;       // the target's rules had them, something behind stops or marks them
  bool behind_own = false;  // that is in the very chain of the target's rule, nft's tproxy
  // Where it was: of RulesetFacts::chains; no rule: the chain's policy. Only where not reached, or
  // where `remarked`.
  std::optional<size_t> chain, rule;
  std::optional<uint32_t> mark_before = 0;  // where reached, at the target's rule; nullopt: any
  std::optional<uint32_t> mark = 0;         // the same, where routing sees it
  bool remarked = false;                    // behind the target's rule, something surely marks them
};

struct ProxyTarget {
  enum class Kind : uint8_t { kXt, kNft, kQueue, kNone };
  Kind kind = Kind::kNone;  // kNone: no rule is there that leads to it
  bool tcp = true, udp = true;
  bool v4 = true, v6 = true;
  std::vector<NumberRange> dports;          // empty: any
  std::vector<std::string> iifs;            // empty: any; "lan*" a prefix
  std::vector<AddressInterval> dsts, srcs;  // as the rule tells; empty: any
  std::vector<Cidr> sources;                // told by the user; empty: any
  bool policy_known = true;                 // of queues: whether mark and listener are known
  bool mark_set = true;                     // the rule, or one before it, changes the mark
  bool mark_known = true;                   // false: rules before it may give any mark
  Policy policy;
  SpreadSpec spread;  // active where it has several on-ports, of which policy has the first
  uint16_t queue_first = 0, queue_last = 0;
  bool bypass = false;
  bool local_output = false;      // told by the user
  bool from_user = false;         // by options or by the daemon
  uint32_t table = 100;           // the user's route table
  std::vector<Arrival> arrivals;  // for each of its families and interfaces
  // Where other rules take the packets before; empty where they do everywhere.
  std::vector<std::pair<Family, std::string>> bypassed;
  std::vector<RuleRef> rules;
  std::string options;  // as words for `utproxy run`

  bool Covers(Family family) const { return family == Family::kIpv4 ? v4 : v6; }
  bool Covers(Proto proto) const { return proto == Proto::kTcp ? tcp : udp; }
  bool CoversPort(uint16_t port) const;
  // Whether the port is, or is one of, those it leads to.
  bool LeadsToPort(uint16_t port) const;
  bool CoversInterface(const std::string& name) const;
};

// Where routing leads a packet from `iif` with the target's mark.
struct ProbeFacts {
  size_t target = 0;  // index
  Family family = Family::kIpv4;
  std::string iif;
  Address src, dst;
  uint8_t ip_proto = 6;
  uint32_t mark = 0;
  bool likely = true;  // such packets come in here; else they may, where their way is asymmetric
  RouteAnswer answer;
};

struct SystemView {
  std::vector<InterfaceFacts> interfaces;
  int rp_filter_all = 0, src_valid_mark_all = 0;
  bool ipv6_disabled_all = false;
  bool bridge_calls_iptables = false, bridge_calls_ip6tables = false;
  uint64_t martians = 0;  // IPReversePathFilter: packets refused by rp_filter since boot
  std::vector<PolicyRule> rules;
  std::vector<RouteFacts> routes;
  std::vector<GatewayRoute> gateway_routes;
  bool ruleset_read = true;  // false: not permitted
  RulesetFacts ruleset;
  bool legacy_unread = false;  // iptables-legacy has tables here that can't be read
  std::vector<SocketFacts> sockets;
  std::map<int, ProcessFacts> processes;
  std::vector<QueueFacts> queues;
  std::optional<DaemonFacts> daemon;
  std::string daemon_silence;  // a daemon runs but does not answer: what was asked; else empty
  int silent_pid = 0;          // the process of whoever was asked, where known
  uint64_t conntrack_count = 0, conntrack_max = 0;  // max 0: no connection tracking
  std::map<std::string, bool> features;  // "sock_diag", "NFQUEUE", "sk_lookup", ...: is it there
  std::vector<ProxyTarget> targets;
  std::vector<ProbeFacts> probes;

  const InterfaceFacts* FindInterface(const std::string& name) const;
  // Those the target's packets come in by: named ones that exist, or all that are up, not lo.
  std::vector<const InterfaceFacts*> Ingress(const ProxyTarget& target, Family family) const;
  bool IsLocal(const Address& address) const;
};

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_SYSTEM_VIEW_H_
