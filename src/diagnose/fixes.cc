// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/fixes.h"

// clang-format off
#include <netinet/in.h>  // before linux/netfilter.h
// clang-format on

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/str_split.h>
#include <absl/strings/strip.h>
#include <linux/netfilter.h>

#include <algorithm>

#include "diagnose/legacy_reader.h"

namespace utproxy {
namespace {

const RuleRef* RuleOf(const ProxyTarget& target, Family family) {
  for (const RuleRef& rule : target.rules) {
    if (SeesFamily(rule.family, family)) return &rule;
  }
  return nullptr;
}

std::string Place(const RuleRef& rule) {
  return absl::StrCat(TableFamilyName(rule.family), " ", ShellWord(rule.table), " ",
                      ShellWord(rule.chain));
}

Family FamilyOfTable(const RuleRef& rule) {
  return rule.family == NFPROTO_IPV6 ? Family::kIpv6 : Family::kIpv4;
}

// `words` joined, with these options in place of what they had of them.
std::string WithOptions(std::vector<std::string> words, const Options& options) {
  for (const auto& [name, value] : options) {
    for (size_t i = 0; i < words.size();) {
      const bool own = words[i] == name;
      if (!own && !absl::StartsWith(words[i], absl::StrCat(name, "="))) {
        ++i;
        continue;
      }
      const auto at = words.begin() + static_cast<std::ptrdiff_t>(i);
      words.erase(at, at + (own && i + 1 < words.size() ? 2 : 1));
    }
  }
  for (const auto& [name, value] : options) {
    if (!value.empty()) words.insert(words.end(), {name, value});
  }
  return absl::StrJoin(words, " ");
}

}  // namespace

std::string ShellWord(absl::string_view word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           absl::string_view("-_./:@%+=,").find(c) != absl::string_view::npos;
  });
  if (plain) return std::string(word);
  return absl::StrCat("'", absl::StrReplaceAll(word, {{"'", "'\\''"}}), "'");
}

const char* IpTool(Family family) { return family == Family::kIpv4 ? "ip" : "ip -6"; }
const char* IptablesTool(Family family) {
  return family == Family::kIpv4 ? "iptables" : "ip6tables";
}
const char* AnyAddress(Family family) { return family == Family::kIpv4 ? "0.0.0.0/0" : "::/0"; }

bool IsIptables(const RuleRef& rule) {
  const bool family = rule.family == NFPROTO_IPV4 || rule.family == NFPROTO_IPV6;
  const std::string table = IptablesTable(rule);
  return family && (table == "filter" || table == "mangle" || table == "raw" || table == "nat" ||
                    table == "security");
}

std::string IptablesTool(const RuleRef& rule) {
  const bool legacy = absl::StartsWith(rule.table, kLegacyPrefix);
  return absl::StrCat(IptablesTool(FamilyOfTable(rule)), legacy ? "-legacy" : "");
}

std::string IptablesTable(const RuleRef& rule) {
  return std::string(absl::StripPrefix(rule.table, kLegacyPrefix));
}

std::string MoveTarget(const SystemView& view, const ProxyTarget& target, Family family,
                       absl::string_view address, uint16_t port) {
  const RuleRef* rule = RuleOf(target, family);
  if (rule == nullptr || target.kind == ProxyTarget::Kind::kQueue) {
    Options options;
    if (target.spread.active()) options = {{"--backup-port", ""}, {"--spread", ""}};
    if (!options.empty() || port != target.policy.on_port) {
      options.emplace_back("--on-port", absl::StrCat(port));
    }
    if (!address.empty()) {
      options.emplace_back("--on-ip", std::string(address));
      const Family other = family == Family::kIpv4 ? Family::kIpv6 : Family::kIpv4;
      if (!target.policy.on_ip(other).IsUnspecified()) {
        options.emplace_back("--on-ip", target.policy.on_ip(other).ToString(other));
      }
    }
    const std::string restart = RestartDaemon(view, target, options);
    if (!restart.empty()) return restart;
    ProxyTarget moved = target;
    moved.policy.on_port = port;
    moved.spread = {};
    if (const auto parsed = Address::Parse(address)) {
      (family == Family::kIpv4 ? moved.policy.on_ip4 : moved.policy.on_ip6) = *parsed;
    }
    moved.options = WithOptions(absl::StrSplit(target.options, ' ', absl::SkipEmpty()), options);
    return RunCommand(moved);
  }
  const std::string old_port = absl::StrCat(target.policy.on_port);
  if (target.kind == ProxyTarget::Kind::kXt) {
    const std::string to =
        address.empty() ? "" : absl::StrCat("s/--on-ip [^ ]*/--on-ip ", address, "/;");
    return absl::StrCat(IptablesTool(*rule), "-save -t mangle | sed '/-j TPROXY --on-port ",
                        old_port, " /{", to, "s/--on-port ", old_port, "/--on-port ", port,
                        "/}' | ", IptablesTool(*rule), "-restore");
  }
  const bool v4 = family == Family::kIpv4;
  const std::string text = address.empty() ? ""
                           : v4            ? std::string(address)
                                           : absl::StrCat("[", address, "]");
  const std::string word = v4 ? "ip" : "ip6";
  // "tproxy to :1090" of an inet table is for both families: the other one keeps it, behind.
  const std::string edit =
      absl::StrCat("s/tproxy ", word, " to [^ ]*:", old_port, "/tproxy ", word, " to ", text, ":",
                   port, "/;s/^\\(.*\\)\\(tproxy\\) to :", old_port, "\\(.*\\)$/\\1meta nfproto ",
                   v4 ? "ipv4" : "ipv6", " \\2 ", word, " to ", text, ":", port,
                   "\\3\\n\\1\\2 to :", address.empty() ? absl::StrCat(port) : old_port, "\\3/");
  return absl::StrCat("{ echo flush chain ", Place(*rule), "; nft -s list chain ", Place(*rule),
                      " | sed '", edit, "'; } | nft -f -");
}

std::string InsertRule(const RuleRef& chain, absl::string_view iptables, absl::string_view nft) {
  if (IsIptables(chain)) {
    return absl::StrCat(IptablesTool(chain), " -t ", IptablesTable(chain), " -I ",
                        ShellWord(chain.chain), " ", iptables);
  }
  return absl::StrCat("nft insert rule ", Place(chain), " ", nft);
}

std::string DeleteRule(const RuleRef& rule) {
  if (IsIptables(rule) && absl::StartsWith(rule.table, kLegacyPrefix)) {
    return absl::StrCat(IptablesTool(rule), " -t ", IptablesTable(rule), " -D ",
                        ShellWord(rule.chain), " ", rule.handle);
  }
  return absl::StrCat("nft delete rule ", Place(rule), " handle ", rule.handle);
}

std::string AddBehind(const RuleRef& rule, absl::string_view nft) {
  return absl::StrCat("nft add rule ", Place(rule), " handle ", rule.handle, " ", nft);
}

std::string OpenPolicy(const RuleRef& chain) {
  if (IsIptables(chain)) {
    return absl::StrCat(IptablesTool(chain), " -t ", IptablesTable(chain), " -P ",
                        ShellWord(chain.chain), " ACCEPT");
  }
  return absl::StrCat("nft 'chain ", TableFamilyName(chain.family), " ", chain.table, " ",
                      chain.chain, " { policy accept; }'");
}

std::string RunCommand(const ProxyTarget& target, absl::string_view more) {
  std::string text = "utproxy run";
  if (!target.options.empty()) {
    absl::StrAppend(&text, " ", target.options);
  } else {
    if (target.queue_first == target.queue_last) {
      absl::StrAppend(&text, " --queue-num ", target.queue_first);
    } else {
      absl::StrAppend(&text, " --queue-balance ", target.queue_first, ":", target.queue_last);
    }
    const Policy& p = target.policy;
    absl::StrAppend(&text, OnPortWords(p, target.spread));
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
      if (p.on_ip(family).IsUnspecified()) continue;
      absl::StrAppend(&text, " --on-ip ", p.on_ip(family).ToString(family));
    }
    if (p.mark_mask != 0 || p.mark_value != 0) {
      absl::StrAppendFormat(&text, " --tproxy-mark 0x%x/0x%x", p.mark_value, p.mark_mask);
    }
  }
  if (!more.empty()) absl::StrAppend(&text, " ", more);
  return text;
}

namespace {

// The process that has bound the target's queues, where it can be told and its words too; else
// null.
const std::pair<const int, ProcessFacts>* DaemonOf(const SystemView& view,
                                                   const ProxyTarget& target) {
  for (const QueueFacts& queue : view.queues) {
    if (queue.number < target.queue_first || queue.number > target.queue_last) continue;
    const auto it = view.processes.find(static_cast<int>(queue.port_id));
    if (it != view.processes.end() && !it->second.command_line.empty()) return &*it;
  }
  return nullptr;
}

}  // namespace

std::string StopDaemon(const SystemView& view, const ProxyTarget& target) {
  const auto* daemon = DaemonOf(view, target);
  if (daemon == nullptr) return "";
  const int pid = daemon->first;
  return absl::StrCat("kill ", pid, "; while [ -e /proc/", pid, "/exe ]; do sleep 0.1; done; ");
}

std::string RestartDaemon(const SystemView& view, const ProxyTarget& target,
                          const Options& options) {
  const auto* daemon = DaemonOf(view, target);
  if (daemon == nullptr) return "";
  std::vector<std::string> words;
  for (const std::string& word : daemon->second.command_line) words.push_back(ShellWord(word));
  return StopDaemon(view, target) + WithOptions(std::move(words), options);
}

std::string LeaveAlone(const SystemView& view, const ProxyTarget& target, const Address& address,
                       Family family) {
  const std::string more = absl::StrCat("--not-dst ", address.ToString(family));
  const std::string restart = RestartDaemon(view, target, {});
  return restart.empty() ? RunCommand(target, more) : absl::StrCat(restart, " ", more);
}

std::string SetTargetMark(const SystemView& view, const ProxyTarget& target, Family family,
                          absl::string_view mark) {
  const RuleRef* rule = RuleOf(target, family);
  const uint16_t port = target.policy.on_port;
  if (rule == nullptr || target.kind == ProxyTarget::Kind::kQueue) {
    const std::string restart = RestartDaemon(view, target, {{"--tproxy-mark", std::string(mark)}});
    return !restart.empty() ? restart : RunCommand(target, absl::StrCat("--tproxy-mark ", mark));
  }
  if (target.kind == ProxyTarget::Kind::kXt) {
    return absl::StrCat(IptablesTool(*rule), "-save -t mangle | sed '/-j TPROXY --on-port ", port,
                        " /s,--tproxy-mark [^ ]*,--tproxy-mark ", mark, ",' | ",
                        IptablesTool(*rule), "-restore");
  }
  const absl::string_view value = mark.substr(0, mark.find('/'));
  return absl::StrCat("{ echo flush chain ", Place(*rule), "; nft -s list chain ", Place(*rule),
                      " | sed 's/tproxy [a-z0-9 ]*to [^ ]*:", port, "/meta mark set ", value,
                      " &/'; } | nft -f -");
}

std::string SetSocketOption(int pid, int fd, int level, int option) {
  return absl::StrFormat(
      "python3 -c 'import ctypes, os, socket; "
      "fd = ctypes.CDLL(None).syscall(438, os.pidfd_open(%d), %d, 0); "
      "socket.socket(fileno=fd).setsockopt(%d, %d, 1)'",
      pid, fd, level, option);
}

}  // namespace utproxy
