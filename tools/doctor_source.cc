// SPDX-License-Identifier: GPL-3.0-or-later
#include "doctor_source.h"

#include <absl/algorithm/container.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <absl/types/span.h>

#include "base/status.h"
#include "config.h"
#include "daemon/control_client.h"
#include "daemon/doctor_view.h"
#include "diagnose/fixes.h"

namespace utproxy::tools {
namespace {

void AppendCidrs(std::string* text, const char* option, const std::vector<Cidr>& list) {
  for (const Cidr& cidr : list) absl::StrAppend(text, " ", option, " ", CidrToString(cidr));
}

// The words of `run` that make this target.
std::string OptionsText(const Target& t, bool install, bool mark_given) {
  const Match& match = t.ruleset.match;
  std::string text;
  if (install) absl::StrAppend(&text, "--install ");
  absl::StrAppend(&text, t.queue_first == t.queue_last
                             ? absl::StrCat("--queue-num ", t.queue_first)
                             : absl::StrCat("--queue-balance ", t.queue_first, ":", t.queue_last));
  absl::StrAppend(&text, OnPortWords(t.policy, t.spread));
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    if (t.policy.on_ip(family).IsUnspecified()) continue;
    absl::StrAppend(&text, " --on-ip ", t.policy.on_ip(family).ToString(family));
  }
  if (mark_given) {
    absl::StrAppendFormat(&text, " --tproxy-mark 0x%x/0x%x", t.policy.mark_value,
                          t.policy.mark_mask);
  }
  for (const Proto proto : match.protos) absl::StrAppend(&text, " --proto ", ProtoName(proto));
  for (const PortRange& r : match.dports) {
    absl::StrAppend(&text, " --dport ", r.first);
    if (r.last != r.first) absl::StrAppend(&text, "-", r.last);
  }
  for (const std::string& iif : match.iifs) absl::StrAppend(&text, " --iif ", ShellWord(iif));
  AppendCidrs(&text, "--src", match.src);
  AppendCidrs(&text, "--dst", match.dst);
  AppendCidrs(&text, "--not-src", match.not_src);
  AppendCidrs(&text, "--not-dst", match.not_dst);
  if (t.ruleset.route_table != 100) absl::StrAppend(&text, " --table ", t.ruleset.route_table);
  if (t.ruleset.local_output) absl::StrAppend(&text, " --local-output");
  return text;
}

// Of a target of a configuration file.
ProxyTarget ConfiguredTarget(const Target& target) {
  const Policy& policy = target.policy;
  const bool marks = policy.mark_mask != 0 || policy.mark_value != 0;
  return ProxyTargetOf(target, OptionsText(target, target.install, marks));
}

// The words of `run` that a target does not come from.
void AddOtherRunWords(OptionTable& options, std::string* control, std::string* config) {
  const auto ignore = [](absl::string_view) { return absl::OkStatus(); };
  options.Flag("--install", "", [] {});
  options.Flag("--check", "", [] {});
  options.Value("--control", "PATH", "", [control](absl::string_view path) {
    *control = std::string(path);
    return absl::OkStatus();
  });
  options.Value("--config", "FILE", "", [config](absl::string_view path) {
    *config = std::string(path);
    return absl::OkStatus();
  });
  for (const char* name : {"--steer", "--fast-path", "--log-level", "--metrics"}) {
    options.Value(name, "VALUE", "", ignore);
  }
}

}  // namespace

void DoctorSource::AddWords(OptionTable& options) {
  target_.AddPolicy(options);
  target_.AddQueueNumbers(options);
  target_.AddQueueRule(options);
  target_.AddMatch(options);
  options.Section("Daemon");
  options.Value("--config", "FILE", "the targets of this configuration file",
                [this](absl::string_view path) {
                  config_path_ = std::string(path);
                  return absl::OkStatus();
                });
  options.Value("--control", "PATH", "control socket of a running utproxy",
                [this](absl::string_view path) {
                  control_ = std::string(path);
                  return absl::OkStatus();
                });
}

absl::Status DoctorSource::Finish() {
  RETURN_IF_ERROR(target_.Finish());
  if (config_path_.empty()) return absl::OkStatus();
  if (target_given()) return UsageError("--config: has the targets: leave out their options");
  ASSIGN_OR_RETURN(const Configuration configuration, LoadConfig(config_path_, false));
  for (const Target& target : configuration.targets) {
    configured_.push_back(ConfiguredTarget(target));
  }
  return absl::OkStatus();
}

bool DoctorSource::target_given() const {
  if (!configured_.empty()) return true;
  return target_.policy_given() || target_.queues_given() ||
         !target_.first_install_option().empty();
}

absl::StatusOr<SystemView> DoctorSource::Load() {
  last_seen_ = FindDaemons();
  ASSIGN_OR_RETURN(SystemView view, LoadWith(last_seen_));
  if (!control_.empty()) RETURN_IF_ERROR(AskForStats(control_, &view));
  return view;
}

absl::StatusOr<SystemView> DoctorSource::LoadAgain() {
  std::vector<RunningDaemon> daemons = FindDaemons();
  if (!daemons.empty()) last_seen_ = std::move(daemons);
  ASSIGN_OR_RETURN(SystemView view, LoadWith(last_seen_));
  if (!control_.empty()) (void)AskForStats(control_, &view);
  return view;
}

absl::StatusOr<SystemView> DoctorSource::LoadWith(const std::vector<RunningDaemon>& daemons) const {
  std::vector<ProxyTarget> asked;
  if (target_given()) {
    asked = configured_;
    if (asked.empty()) {
      const bool install = !target_.first_install_option().empty();
      asked.push_back(ProxyTargetOf(target_.target,
                                    OptionsText(target_.target, install, target_.mark_given())));
      if (!target_.mark_given()) asked.back().mark_set = false;
    }
  } else {
    for (const RunningDaemon& daemon : daemons) asked.push_back(daemon.target);
  }
  ASSIGN_OR_RETURN(SystemView view, LoadSystemView(asked, target_given()));
  if (!view.ruleset_read && view.targets.empty()) {
    return WithRemedy(absl::PermissionDeniedError("read the ruleset: Operation not permitted"),
                      "Run it as root, or name a target with --on-port and --tproxy-mark.");
  }
  for (const RunningDaemon& daemon : daemons) {
    if (control_.empty() || daemon.control == control_) view.silent_pid = daemon.pid;
    if (view.silent_pid != 0) break;
  }
  // Where none is named, one that can't be asked goes without.
  if (control_.empty() && !daemons.empty()) {
    (void)AskForStats(daemons.front().control, &view);
  }
  return view;
}

// One that runs and gives no answer is told in the view.
absl::Status DoctorSource::AskForStats(const std::string& control, SystemView* view) const {
  Json stats;
  const absl::Status asked = AskDaemon(
      control, {{"command", "stats"}}, [&](const Json& json) { stats = json; }, kBeginNs);
  if (absl::IsDeadlineExceeded(asked)) {
    // All else can be looked at, and is what the asker may need.
    view->daemon_silence = std::string(asked.message());
    return absl::OkStatus();
  }
  if (stats.is_object()) view->daemon = DaemonFactsOf(stats);
  return asked;
}

std::vector<RunningDaemon> DoctorSource::FindDaemons() {
  std::vector<RunningDaemon> daemons;
  SystemView readers;
  LoadQueues(&readers);
  for (const auto& [pid, process] : readers.processes) {
    const std::string cwd = absl::StrCat("/proc/", pid, "/cwd");
    for (RunningDaemon& daemon : DaemonsOf(process.command_line, cwd)) {
      daemon.pid = pid;
      daemons.push_back(std::move(daemon));
    }
  }
  return daemons;
}

std::string DoctorSource::ControlPath() const {
  if (!control_.empty()) return control_;
  const std::vector<RunningDaemon> daemons = FindDaemons();
  return daemons.empty() ? kDefaultControlPath : daemons.front().control;
}

std::optional<RunningDaemon> DaemonOf(const std::vector<std::string>& command_line) {
  if (command_line.size() < 2 || !absl::EndsWith(command_line[0], "utproxy") ||
      command_line[1] != "run") {
    return std::nullopt;
  }
  TargetOptions target;
  RunningDaemon daemon;
  daemon.control = kDefaultControlPath;
  OptionTable options;
  target.AddPolicy(options);
  target.AddQueueNumbers(options);
  target.AddQueueTuning(options);
  target.AddQueueRule(options);
  target.AddMatch(options);
  AddOtherRunWords(options, &daemon.control, &daemon.config);
  const absl::Span<const std::string> words = absl::MakeConstSpan(command_line).subspan(2);
  if (!options.Parse(words).ok() || !target.Finish().ok()) return std::nullopt;
  const std::string text = absl::StrJoin(words, " ", [](std::string* out, const std::string& word) {
    absl::StrAppend(out, ShellWord(word));
  });
  daemon.target = ProxyTargetOf(target.target, text);
  return daemon;
}

std::vector<RunningDaemon> DaemonsOf(const std::vector<std::string>& command_line,
                                     const std::string& cwd) {
  const std::optional<RunningDaemon> daemon = DaemonOf(command_line);
  if (!daemon) return {};
  if (daemon->config.empty()) return {*daemon};
  const bool absolute = absl::StartsWith(daemon->config, "/");
  const std::string path = absolute ? daemon->config : absl::StrCat(cwd, "/", daemon->config);
  const bool install = absl::c_linear_search(command_line, "--install");
  const absl::StatusOr<Configuration> configuration = LoadConfig(path, install);
  if (!configuration.ok()) return {};
  std::vector<RunningDaemon> daemons;
  for (const Target& target : configuration->targets) {
    daemons.push_back(*daemon);
    daemons.back().target = ConfiguredTarget(target);
    const bool told = absl::c_any_of(
        command_line, [](const std::string& word) { return absl::StartsWith(word, "--control"); });
    if (!told) daemons.back().control = configuration->daemon.control.value_or(kDefaultControlPath);
  }
  return daemons;
}

Json DoctorJson(const Findings& findings) {
  Json json;
  json["ok"] = Healthy(findings);
  json["findings"] = Json::array();
  for (const Finding& finding : findings) json["findings"].push_back(ToJson(finding));
  return json;
}

}  // namespace utproxy::tools
