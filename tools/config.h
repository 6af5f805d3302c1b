// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_CONFIG_H_
#define UTPROXY_TOOLS_CONFIG_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cpus.h"
#include "daemon/target.h"
#include "daemon_words.h"

// Configuration files: TOML, with the words of the options (options.h), `_` for `-`.
//
//   log_level = "warning"            # of the daemon
//   install = true                   # of a target: what every [[target]] has that says no other
//   [[target]]
//   name = "dns"
//   queues = "0:1"                   # or one number
//   on_port = 1090
//   mark = "0x1/0x1"
//   match = { proto = "udp", dport = 53, iif = "lan0" }
//
// An option that can be given several times takes an array as well; one without a value is true or
// false.
namespace utproxy::tools {

inline constexpr size_t kMaxConfigBytes = size_t{1} << 20;

// Something wrong in a file. `line` and `column` count from 1, columns in characters; 0 where it is
// about the whole file.
struct Mistake {
  uint32_t line = 0;
  uint32_t column = 0;
  std::string text;  // "on_port 70000: port must be 0 to 65535", one printable line

  // "FILE:3:11: on_port 70000: ...".
  std::string ToString(absl::string_view file) const;
};

struct Configuration {
  DaemonWords daemon;
  std::vector<Target> targets;        // at least one, all names and queues different
  std::vector<std::string> warnings;  // sentences, with the place in front
  std::string text;                   // of the file
  std::vector<Mistake> cpus;          // where each target's `cpu` stands; empty text
};

// Reads `text`; `file` is what it is called in warnings. `install` is for targets of which the file
// does not say. Where `*mistakes` is not empty afterwards, it has all that is wrong, in the order
// of the file (but of what is no TOML only the first), and what is returned is worth nothing. Looks
// at nothing outside but names of users.
Configuration ParseConfig(absl::string_view text, const std::string& file, bool install,
                          std::vector<Mistake>* mistakes);

// Reads the file. UsageErrors with a line for each mistake.
absl::StatusOr<Configuration> LoadConfig(const std::string& path, bool install);

// UsageErrors, as LoadConfig's, where a worker is for a CPU of which `can_run_on` says no. Apart
// from it, since only the machine that the daemon runs on must have them.
absl::Status CheckCpus(const Configuration& configuration, const std::string& path,
                       const std::function<bool(int)>& can_run_on = CanRunOn);

// The target of this name, or with no name the only one. A UsageError names those there are.
absl::StatusOr<Target> TargetNamed(const Configuration& configuration, const std::string& name);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_CONFIG_H_
