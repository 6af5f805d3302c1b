// SPDX-License-Identifier: GPL-3.0-or-later
#include "target_options.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include <algorithm>
#include <climits>

#include "base/status.h"
#include "values.h"

namespace utproxy::tools {
namespace {

// A setter that stores what `parse` reads into `*out`.
template <typename Parse, typename T>
Setter Store(Parse parse, T* out) {
  return [parse, out](absl::string_view text) -> absl::Status {
    ASSIGN_OR_RETURN(auto value, parse(text));
    *out = static_cast<T>(std::move(value));
    return absl::OkStatus();
  };
}

// A setter that appends what `parse` reads, so that the option can be repeated.
template <typename Parse, typename T>
Setter Append(Parse parse, std::vector<T>* out) {
  return [parse, out](absl::string_view text) -> absl::Status {
    ASSIGN_OR_RETURN(auto value, parse(text));
    out->push_back(std::move(value));
    return absl::OkStatus();
  };
}

auto Number(const char* what, uint32_t min, uint32_t max) {
  return [=](absl::string_view text) { return ParseNumber(text, what, min, max); };
}

// Tables that the kernel fills itself (RT_TABLE_DEFAULT, _MAIN, _LOCAL): a local default route
// there would swallow all traffic.
absl::StatusOr<uint32_t> ParseRouteTable(absl::string_view text) {
  ASSIGN_OR_RETURN(const uint32_t table, ParseNumber(text, "table", 1, 0xffffffffu));
  if (table >= 253 && table <= 255) {
    return absl::InvalidArgumentError("tables 253 to 255 are the system's own");
  }
  return table;
}

absl::StatusOr<OnMiss> ParseOnMiss(absl::string_view text) {
  if (text == "drop") return OnMiss::kDrop;
  if (text == "accept") return OnMiss::kAccept;
  return absl::InvalidArgumentError("must be drop or accept");
}

absl::StatusOr<SpreadBy> ParseSpreadBy(absl::string_view text) {
  if (text == "client") return SpreadBy::kClient;
  if (text == "flow") return SpreadBy::kFlow;
  return absl::InvalidArgumentError("must be client or flow");
}

absl::StatusOr<bool> ParseFastPath(absl::string_view text) {
  if (text == "none") return false;
  if (text == "divert") return true;
  return absl::InvalidArgumentError("must be none or divert");
}

absl::StatusOr<MarkMatch> ParseExcludeMark(absl::string_view text) {
  ASSIGN_OR_RETURN(const MarkMask mark, ParseMarkMask(text));
  if ((mark.value & ~mark.mask) != 0) {
    return absl::InvalidArgumentError("mark has bits outside of its mask and would never match");
  }
  return MarkMatch{.value = mark.value, .mask = mark.mask};
}

bool Has(const std::vector<Cidr>& list, Family family) {
  for (const Cidr& cidr : list) {
    if (cidr.family == family) return true;
  }
  return false;
}

}  // namespace

// iptables' TPROXY without --tproxy-mark leaves the mark as it is.
TargetOptions::TargetOptions() { target.policy.mark_mask = 0; }

absl::Status TargetOptions::SetOnIp(absl::string_view text) {
  ASSIGN_OR_RETURN(const FamilyAddress address, ParseFamilyAddress(text));
  const bool v4 = address.family == Family::kIpv4;
  bool& given = v4 ? on_ip4_given_ : on_ip6_given_;
  if (given) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is an ", v4 ? "IPv4" : "IPv6", " address already"));
  }
  given = true;
  (v4 ? target.policy.on_ip4 : target.policy.on_ip6) = address.address;
  return absl::OkStatus();
}

// One after the other or in a list, "1090,1091".
absl::Status TargetOptions::AddPorts(absl::string_view text, std::vector<uint16_t>* ports) {
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    ASSIGN_OR_RETURN(const uint32_t number, ParseNumber(word, "port", 0, 65535));
    const auto port = static_cast<uint16_t>(number);
    const auto named = [port](const std::vector<uint16_t>& list) {
      return std::find(list.begin(), list.end(), port) != list.end();
    };
    if (named(on_ports_) || named(target.spread.backups)) {
      return absl::InvalidArgumentError(absl::StrCat("port ", port, " is named already"));
    }
    if (on_ports_.size() + target.spread.backups.size() == Spread::kMaxPorts) {
      return absl::InvalidArgumentError(
          absl::StrCat("more than ", Spread::kMaxPorts, " ports, backups included"));
    }
    ports->push_back(port);
  }
  return absl::OkStatus();
}

void TargetOptions::AddOnPorts(OptionTable& table) {
  table
      .Value("--on-port", "PORT[,PORT...]",
             "port of the listener; 0, the default: the packet's own; several: spread",
             [this](absl::string_view text) { return AddPorts(text, &on_ports_); })
      .Repeatable();
  table
      .Value("--backup-port", "PORT[,PORT...]",
             "for when none of the others has a transparent listener",
             [this](absl::string_view text) { return AddPorts(text, &target.spread.backups); })
      .Repeatable();
  table.Value("--spread", "client|flow",
              "of several ports, one is for: a client's address, the default; a flow",
              [this](absl::string_view text) -> absl::Status {
                ASSIGN_OR_RETURN(target.spread.by, ParseSpreadBy(text));
                spread_given_ = true;
                return absl::OkStatus();
              });
}

// One port without a backup is an ordinary target.
absl::Status TargetOptions::ApplySpread() {
  SpreadSpec& spread = target.spread;
  if (!on_ports_.empty()) target.policy.on_port = on_ports_.front();
  const bool several = on_ports_.size() > 1 || !spread.backups.empty();
  if (spread_given_ && !several) {
    return UsageError("--spread: has a meaning only with several of --on-port");
  }
  if (!several) return absl::OkStatus();
  if (on_ports_.empty()) return UsageError("--backup-port: has a meaning only with --on-port");
  for (const auto* list : {&on_ports_, &spread.backups}) {
    if (std::find(list->begin(), list->end(), 0) == list->end()) continue;
    return UsageError(absl::StrCat(list == &on_ports_ ? "--on-port" : "--backup-port",
                                   " 0: the packet's own port goes with no others"));
  }
  spread.ports = on_ports_;
  return absl::OkStatus();
}

bool TargetOptions::policy_given() const {
  const Policy& policy = target.policy;
  return policy.on_port != 0 || target.spread.active() || !policy.on_ip4.IsUnspecified() ||
         !policy.on_ip6.IsUnspecified() || mark_given_ || policy.on_miss != OnMiss::kDrop;
}

void TargetOptions::AddPolicy(OptionTable& table) {
  table.Section("Target, as in iptables' TPROXY");
  AddOnPorts(table);
  table
      .Value("--on-ip", "ADDR",
             "address of the listener, once per family; default: the ingress interface's",
             [this](absl::string_view text) { return SetOnIp(text); })
      .Repeatable();
  table
      .Value("--tproxy-mark", "VALUE[/MASK]", "mark of redirected packets; default: unchanged",
             [this](absl::string_view text) -> absl::Status {
               ASSIGN_OR_RETURN(const MarkMask mark, ParseMarkMask(text));
               target.policy.mark_value = mark.value;
               target.policy.mark_mask = mark.mask;
               mark_given_ = true;
               return absl::OkStatus();
             })
      .InFileAs("mark");
  table.Value("--on-miss", "drop|accept", "packets that no transparent socket takes; default drop",
              Store(ParseOnMiss, &target.policy.on_miss));
}

absl::Status TargetOptions::SetQueueNumber(absl::string_view text) {
  if (queue_balance_given_) return absl::InvalidArgumentError("excludes --queue-balance");
  ASSIGN_OR_RETURN(const uint32_t n, ParseNumber(text, "queue number", 0, 65535));
  target.queue_first = target.queue_last = static_cast<uint16_t>(n);
  queue_num_given_ = true;
  return absl::OkStatus();
}

absl::Status TargetOptions::SetQueueBalance(absl::string_view text) {
  if (queue_num_given_) return absl::InvalidArgumentError("excludes --queue-num");
  ASSIGN_OR_RETURN(const auto range, ParseQueueRange(text));
  target.queue_first = range.first;
  target.queue_last = range.second;
  queue_balance_given_ = true;
  return absl::OkStatus();
}

void TargetOptions::AddQueueNumbers(OptionTable& table) {
  table.Section("Queues, as in iptables' NFQUEUE");
  table.Value("--queue-num", "N", "the one queue to read; default 0",
              [this](absl::string_view text) { return SetQueueNumber(text); });
  table.Value("--queue-balance", "N:M", "queues N to M, with a thread each",
              [this](absl::string_view text) { return SetQueueBalance(text); });
}

void TargetOptions::AddFile(OptionTable& table) {
  AddPolicy(table);
  table.Value("--queues", "N|N:M", "the queue to read, or several with a thread each",
              [this](absl::string_view text) {
                return absl::StrContains(text, ':') ? SetQueueBalance(text) : SetQueueNumber(text);
              });
  AddQueueNumbers(table);
  AddQueueTuning(table);
  AddFastPath(table);
  AddInstall(table);
  AddQueueRule(table);
  AddMatch(table);
}

void TargetOptions::NoteInstall(const char* name) {
  if (first_install_option_.empty()) first_install_option_ = name;
}

Option& TargetOptions::AddInstallValue(OptionTable& table, const char* name,
                                       const char* placeholder, const char* help, Setter set) {
  return table.Value(name, placeholder, help,
                     [this, name, set = std::move(set)](absl::string_view text) {
                       NoteInstall(name);
                       return set(text);
                     });
}

void TargetOptions::AddInstallFlag(OptionTable& table, const char* name, const char* help,
                                   bool* value) {
  table.Flag(name, help, [this, name, value] {
    NoteInstall(name);
    *value = true;
  });
}

void TargetOptions::AddInstall(OptionTable& table) {
  table.Flag("--install", "add nftables rules, policy rule and route; remove them at exit",
             &target.install);
}

void TargetOptions::AddQueueRule(OptionTable& table) {
  table.Section("Queues, as in iptables' NFQUEUE");
  AddInstallFlag(table, "--queue-bypass", "packets pass unproxied while nobody reads the queue",
                 &target.ruleset.queue_bypass);
  AddInstallFlag(table, "--queue-cpu-fanout", "choose the queue by CPU instead of by addresses",
                 &target.ruleset.queue_cpu_fanout);
}

void TargetOptions::AddFastPath(OptionTable& table) {
  table.Value("--fast-path", "none|divert",
              "divert: rules before the queue carry established flows; default none",
              Store(ParseFastPath, &target.ruleset.fast_path));
}

void TargetOptions::AddFailOpen(OptionTable& table) {
  table.Value("--fail", "closed|open",
              "full queue, sudden end: drop or pass; default: drop if full, pass at the end",
              [this](absl::string_view text) -> absl::Status {
                if (text != "closed" && text != "open") {
                  return absl::InvalidArgumentError("must be closed or open");
                }
                fail_ = std::string(text);
                return absl::OkStatus();
              });
  table.Flag("--fail-open", "a full queue lets packets pass unproxied instead of dropping them",
             &target.queue.fail_open);
}

void TargetOptions::AddQueueTuning(OptionTable& table) {
  table.Section("How queues are read");
  table.Value("--queue-maxlen", "N",
              absl::StrCat("packets that may wait in a queue; default ", target.queue.maxlen),
              Store(Number("queue length", 1, 0xffffffffu), &target.queue.maxlen));
  table.Value("--copy-range", "BYTES",
              absl::StrCat("bytes read of each packet; default ", target.queue.copy_range),
              Store(Number("copy range", 80, kMaxCopyRange), &target.queue.copy_range));
  table.Value("--rcvbuf", "BYTES", "socket buffer; 0, the default: enough for --queue-maxlen",
              Store(Number("buffer size", 0, INT_MAX), &target.queue.rcvbuf));
  AddFailOpen(table);
  table.Value("--cpu", "LIST", "CPUs such as 0,2-3: thread i runs on the i-th",
              Store(ParseCpuList, &target.cpus));
}

void TargetOptions::AddPrefixList(OptionTable& table, const char* name, const char* help,
                                  std::vector<Cidr>* list) {
  AddInstallValue(table, name, "CIDR", help, Append(ParsePrefix, list))
      .Repeatable()
      .InFileTable("match");
}

void TargetOptions::AddMatch(OptionTable& table) {
  Match& match = target.ruleset.match;
  table.Section("Which packets the installed rules take");
  AddInstallValue(table, "--proto", "tcp|udp", "repeatable; default both",
                  Append(ParseProto, &match.protos))
      .Repeatable()
      .InFileTable("match");
  AddInstallValue(table, "--dport", "LIST", "destination ports such as 53,80,1000-2000",
                  [&match](absl::string_view text) -> absl::Status {
                    ASSIGN_OR_RETURN(const std::vector<PortRange> ports, ParsePortList(text));
                    match.dports.insert(match.dports.end(), ports.begin(), ports.end());
                    return absl::OkStatus();
                  })
      .Repeatable()
      .InFileTable("match");
  AddInstallValue(table, "--iif", "NAME", "ingress interface; repeatable",
                  Append(ParseInterfaceName, &match.iifs))
      .Repeatable()
      .InFileTable("match");
  AddPrefixList(table, "--src", "from these sources; repeatable", &match.src);
  AddPrefixList(table, "--dst", "to these destinations; repeatable", &match.dst);
  AddPrefixList(table, "--not-src", "but not from these; repeatable", &match.not_src);
  AddPrefixList(table, "--not-dst", "but not to these; repeatable", &match.not_dst);
  AddInstallValue(table, "--table", "N", "route table for the local route; default 100",
                  Store(ParseRouteTable, &target.ruleset.route_table));
  AddInstallFlag(table, "--divert-replies",
                 "deliver answers to connections that the proxy makes from clients' addresses",
                 &target.ruleset.divert_replies);
  AddLocalOutput(table);
}

void TargetOptions::AddLocalOutput(OptionTable& table) {
  RulesetSpec& spec = target.ruleset;
  AddInstallFlag(table, "--local-output", "proxy what this host sends itself, too",
                 &spec.local_output);
  AddInstallValue(table, "--exclude-mark", "VALUE[/MASK]", "but not packets with this mark",
                  Append(ParseExcludeMark, &spec.exclude_marks))
      .Repeatable();
  AddInstallValue(table, "--exclude-uid", "USER", "but not this user's packets",
                  Append(ParseUser, &spec.exclude_uids))
      .Repeatable();
  AddInstallValue(table, "--exclude-cgroup", "PATH", "but not packets of this cgroup",
                  Append(ParseCgroup, &spec.exclude_cgroups))
      .Repeatable();
}

// A rule that asks for sources of one family and destinations of the other takes nothing.
absl::Status TargetOptions::CheckFamilies() const {
  const Match& match = target.ruleset.match;
  if (match.src.empty() || match.dst.empty()) return absl::OkStatus();
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    if (Has(match.src, family) && Has(match.dst, family)) return absl::OkStatus();
  }
  return UsageError(absl::StrCat("--dst ", CidrToString(match.dst.front()),
                                 ": not of the family of --src ", CidrToString(match.src.front())));
}

// Both ways for packets to pass that --fail closes or opens.
absl::Status TargetOptions::ApplyFail() {
  RulesetSpec& spec = target.ruleset;
  if (fail_ == "closed" && (target.queue.fail_open || spec.queue_bypass)) {
    return UsageError(absl::StrCat("--fail closed: excludes ",
                                   target.queue.fail_open ? "--fail-open" : "--queue-bypass"));
  }
  spec.outlives = fail_ == "closed";
  if (fail_ == "open") target.queue.fail_open = spec.queue_bypass = true;
  return absl::OkStatus();
}

absl::Status TargetOptions::Finish() {
  RETURN_IF_ERROR(ApplySpread());
  RETURN_IF_ERROR(CheckFamilies());
  RETURN_IF_ERROR(ApplyFail());
  RulesetSpec& spec = target.ruleset;
  if (!spec.local_output) {
    const char* exclusion = !spec.exclude_marks.empty()     ? "--exclude-mark"
                            : !spec.exclude_uids.empty()    ? "--exclude-uid"
                            : !spec.exclude_cgroups.empty() ? "--exclude-cgroup"
                                                            : nullptr;
    if (exclusion != nullptr) {
      return UsageError(absl::StrCat(exclusion, ": has a meaning only with --local-output"));
    }
  }
  spec.name = target.name;
  spec.mark_value = target.policy.mark_value;
  spec.mark_mask = target.policy.mark_mask;
  spec.queue_first = target.queue_first;
  spec.queue_last = target.queue_last;
  spec.misses_pass =
      target.policy.on_miss == OnMiss::kAccept || target.queue.fail_open || spec.queue_bypass;
  return absl::OkStatus();
}

}  // namespace utproxy::tools
