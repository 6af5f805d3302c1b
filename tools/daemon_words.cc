// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon_words.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <sys/un.h>

#include "base/status.h"
#include "values.h"

namespace utproxy::tools {
namespace {

absl::StatusOr<SteerMode> ParseSteer(absl::string_view text) {
  if (text == "auto") return SteerMode::kAuto;
  if (text == "sk_lookup") return SteerMode::kSkLookup;
  if (text == "none") return SteerMode::kNone;
  return absl::InvalidArgumentError("must be auto, sk_lookup or none");
}

absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view text) {
  if (text == "error") return LogLevel::kError;
  if (text == "warning") return LogLevel::kWarning;
  if (text == "info") return LogLevel::kInfo;
  return absl::InvalidArgumentError("must be error, warning or info");
}

template <typename T>
absl::Status Set(absl::StatusOr<T> value, std::optional<T>* out) {
  if (value.ok()) *out = *std::move(value);
  return value.status();
}

absl::StatusOr<SeccompMode> ParseSeccomp(absl::string_view text) {
  if (text == "kill") return SeccompMode::kKill;
  if (text == "log") return SeccompMode::kLog;
  if (text == "off") return SeccompMode::kOff;
  return absl::InvalidArgumentError("must be kill, log or off");
}

// What the kernel takes for a Unix socket's address, with the zero behind it.
absl::StatusOr<std::string> ParseSocketPath(absl::string_view text) {
  constexpr size_t kMost = sizeof sockaddr_un::sun_path - 1;
  if (text.empty() || text.size() > kMost) {
    return absl::InvalidArgumentError(absl::StrCat("must be a path of 1 to ", kMost, " bytes"));
  }
  return std::string(text);
}

// A port alone is the loopback interface's: what is served to others is said.
absl::StatusOr<Endpoint> ParseMetrics(absl::string_view text) {
  const bool alone = !absl::StrContains(text, ':');
  ASSIGN_OR_RETURN(const Endpoint endpoint,
                   ParseAddressPort(alone ? absl::StrCat("127.0.0.1:", text) : std::string(text)));
  if (endpoint.port == 0) return absl::InvalidArgumentError("port must be 1 to 65535");
  return endpoint;
}

template <typename T>
std::optional<T> Stronger(const std::optional<T>& weak, const std::optional<T>& strong) {
  return strong ? strong : weak;
}

}  // namespace

DaemonWords DaemonWords::Under(const DaemonWords& stronger) const {
  return {.steer = Stronger(steer, stronger.steer),
          .control = Stronger(control, stronger.control),
          .metrics = Stronger(metrics, stronger.metrics),
          .log_level = Stronger(log_level, stronger.log_level),
          .user = Stronger(user, stronger.user),
          .control_group = Stronger(control_group, stronger.control_group),
          .seccomp = Stronger(seccomp, stronger.seccomp)};
}

SeccompMode DefaultSeccomp() { return *ParseSeccomp(UTPROXY_SECCOMP); }

void AddDaemonWords(OptionTable& table, DaemonWords* words) {
  table.Section("Daemon");
  table.Value("--steer", "auto|sk_lookup|none", "pin sockets by sk_lookup (auto)",
              [words](absl::string_view v) { return Set(ParseSteer(v), &words->steer); });
  table.Value("--control", "PATH", absl::StrCat("control socket (", kDefaultControlPath, ")"),
              [words](absl::string_view v) { return Set(ParseSocketPath(v), &words->control); });
  table.Value("--metrics", "[ADDR:]PORT",
              "metrics for Prometheus by HTTP; without ADDR at 127.0.0.1; default off",
              [words](absl::string_view v) { return Set(ParseMetrics(v), &words->metrics); });
  table.Value("--control-group", "GROUP", "who may read at the control socket (the user's group)",
              [words](absl::string_view v) { return Set(ParseGroup(v), &words->control_group); });
  table.Value("--user", "NAME[:GROUP]",
              absl::StrCat("become it once started (", kDefaultUser, ", where there is one)"),
              [words](absl::string_view v) { return Set(ParseAccount(v), &words->user); });
  table.Value("--seccomp", "MODE",
              absl::StrCat("system calls without use: kill, log, off (", UTPROXY_SECCOMP, ")"),
              [words](absl::string_view v) { return Set(ParseSeccomp(v), &words->seccomp); });
  table.Value("--log-level", "error|warning|info", "what is said on stderr (info)",
              [words](absl::string_view v) { return Set(ParseLogLevel(v), &words->log_level); });
}

}  // namespace utproxy::tools
