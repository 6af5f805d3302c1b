// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_TARGET_OPTIONS_H_
#define UTPROXY_TOOLS_TARGET_OPTIONS_H_

#include <absl/status/status.h>

#include "daemon/target.h"
#include "options.h"

namespace utproxy::tools {

// The words for one target, those of iptables' TPROXY and NFQUEUE, read into a Target. A command
// keeps one as a member, adds the groups it needs in Declare, and calls Finish in Check. Not
// movable: the setters point into it.
class TargetOptions {
 public:
  TargetOptions();
  TargetOptions(const TargetOptions&) = delete;
  TargetOptions& operator=(const TargetOptions&) = delete;

  // --on-port, --backup-port, --spread, --on-ip, --tproxy-mark, --on-miss.
  void AddPolicy(OptionTable& table);
  // --queue-num, --queue-balance: which queues.
  void AddQueueNumbers(OptionTable& table);
  // --install.
  void AddInstall(OptionTable& table);
  // --queue-bypass, --queue-cpu-fanout: what the installed rule says of them.
  void AddQueueRule(OptionTable& table);
  // --fast-path.
  void AddFastPath(OptionTable& table);
  // --fail and --fail-open, for commands that have no AddQueueTuning.
  void AddFailOpen(OptionTable& table);
  // --queue-maxlen, --copy-range, --rcvbuf, --fail, --fail-open, --cpu: how they are read.
  void AddQueueTuning(OptionTable& table);
  // --proto, --dport, --iif, --src, --dst, --not-src, --not-dst, --table, --local-output,
  // --exclude-*.
  void AddMatch(OptionTable& table);

  // All of the above for a [[target]] of a configuration file, and `queues`, "N" or "N:M".
  void AddFile(OptionTable& table);

  // Checks what spans several options and makes the target's parts agree. A UsageError names
  // both options.
  absl::Status Finish();

  // An option of AddPolicy was given, and not with its default value.
  bool policy_given() const;
  // An option of the group was given, whatever its value.
  bool mark_given() const { return mark_given_; }
  bool queues_given() const { return queue_num_given_ || queue_balance_given_; }
  // Options were given that only rules we install ourselves heed; names the first, or empty.
  const std::string& first_install_option() const { return first_install_option_; }

  Target target;

 private:
  void AddPrefixList(OptionTable& table, const char* name, const char* help,
                     std::vector<Cidr>* list);
  void AddLocalOutput(OptionTable& table);
  // Adds an option that is noted in first_install_option_.
  Option& AddInstallValue(OptionTable& table, const char* name, const char* placeholder,
                          const char* help, Setter set);
  void AddInstallFlag(OptionTable& table, const char* name, const char* help, bool* value);
  void NoteInstall(const char* name);
  void AddOnPorts(OptionTable& table);
  absl::Status AddPorts(absl::string_view text, std::vector<uint16_t>* ports);
  absl::Status ApplySpread();
  absl::Status SetOnIp(absl::string_view text);
  absl::Status SetQueueNumber(absl::string_view text);
  absl::Status SetQueueBalance(absl::string_view text);
  absl::Status CheckFamilies() const;
  absl::Status ApplyFail();

  std::vector<uint16_t> on_ports_;  // as they were said
  bool spread_given_ = false;
  bool mark_given_ = false;
  bool on_ip4_given_ = false;
  bool on_ip6_given_ = false;
  bool queue_num_given_ = false;
  bool queue_balance_given_ = false;
  std::string first_install_option_;
  std::string fail_;  // as it was said
};

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_TARGET_OPTIONS_H_
