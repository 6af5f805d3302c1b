// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DIAGNOSE_FIXES_H_
#define UTPROXY_DIAGNOSE_FIXES_H_

#include <absl/strings/string_view.h>

#include <string>
#include <utility>
#include <vector>

#include "diagnose/system_view.h"

// The commands that findings propose: each can be pasted into a root shell as it stands.
namespace utproxy {

// A word for the shell, quoted where it needs to be: names come from others.
std::string ShellWord(absl::string_view word);

const char* IpTool(Family family);        // "ip", "ip -6"
const char* IptablesTool(Family family);  // "iptables", "ip6tables"
const char* AnyAddress(Family family);    // "0.0.0.0/0", "::/0"

// The rule's table is kept by iptables-nft or iptables-legacy, and is to be changed with those.
bool IsIptables(const RuleRef& rule);
// Which program that is, and what it calls the table: "ip6tables-legacy" and "mangle".
std::string IptablesTool(const RuleRef& rule);
std::string IptablesTable(const RuleRef& rule);

// Gives the target's rule for `family` another listener: address (empty: as it is) and port.
std::string MoveTarget(const SystemView& view, const ProxyTarget& target, Family family,
                       absl::string_view address, uint16_t port);
// A rule at the head of `chain` that takes matching packets out: `iptables` and `nft` are the
// match in the words of both, the statement included.
std::string InsertRule(const RuleRef& chain, absl::string_view iptables, absl::string_view nft);
std::string DeleteRule(const RuleRef& rule);
// A rule right behind this one, which is nft's own.
std::string AddBehind(const RuleRef& rule, absl::string_view nft);
// Gives the base chain the policy to accept.
std::string OpenPolicy(const RuleRef& chain);

// "utproxy run --queue-num 0 --on-port ...".
std::string RunCommand(const ProxyTarget& target, absl::string_view more = "");

// Ends the utproxy that reads the target's queue, and waits for that; more can be put behind it.
// Empty where none is known to read it.
std::string StopDaemon(const SystemView& view, const ProxyTarget& target);
// Ends the utproxy that reads the target's queue and starts it as it was, with these options in
// place of what it had of them; a value of "" takes one away. Empty where none is known to read it.
using Options = std::vector<std::pair<std::string, std::string>>;
std::string RestartDaemon(const SystemView& view, const ProxyTarget& target,
                          const Options& options);

// Has the utproxy that owns the target's rules leave packets for this address alone.
std::string LeaveAlone(const SystemView& view, const ProxyTarget& target, const Address& address,
                       Family family);

// Gives a target without a mark this one, "0x1/0x1".
std::string SetTargetMark(const SystemView& view, const ProxyTarget& target, Family family,
                          absl::string_view mark);

// Sets a socket option of another process's socket, from outside (pidfd_getfd).
std::string SetSocketOption(int pid, int fd, int level, int option);

}  // namespace utproxy

#endif  // UTPROXY_DIAGNOSE_FIXES_H_
