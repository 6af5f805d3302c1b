// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_DAEMON_WORDS_H_
#define UTPROXY_TOOLS_DAEMON_WORDS_H_

#include <optional>
#include <string>

#include "daemon/daemon.h"
#include "options.h"

namespace utproxy::tools {

enum class LogLevel { kError, kWarning, kInfo };

// What is said of the daemon as a whole, on the command line or at the top of a configuration file;
// nullopt where it was not said. A plain value.
struct DaemonWords {
  std::optional<SteerMode> steer;
  std::optional<std::string> control;
  std::optional<Endpoint> metrics;
  std::optional<LogLevel> log_level;
  std::optional<Account> user;
  std::optional<gid_t> control_group;
  std::optional<SeccompMode> seccomp;

  // What `stronger` says, and else what this says.
  DaemonWords Under(const DaemonWords& stronger) const;
};

// What the build chose: kill, or off where sanitizers have calls of their own.
SeccompMode DefaultSeccomp();

// --steer, --control, --metrics, --log-level, --user and so on, into `*words`, which outlives the
// table.
void AddDaemonWords(OptionTable& table, DaemonWords* words);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_DAEMON_WORDS_H_
