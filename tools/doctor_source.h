// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_DOCTOR_SOURCE_H_
#define UTPROXY_TOOLS_DOCTOR_SOURCE_H_

#include <absl/status/statusor.h>

#include <string>
#include <vector>

#include "daemon/json.h"
#include "diagnose/doctor.h"
#include "options.h"
#include "target_options.h"

namespace utproxy::tools {

// A running utproxy by its command line, as /proc tells it: "utproxy", "run", .... nullopt where
// that is none, or not one that can be read.
struct RunningDaemon {
  ProxyTarget target;
  std::string control;
  int pid = 0;         // where known
  std::string config;  // the path of its configuration file, if it has one
};
std::optional<RunningDaemon> DaemonOf(const std::vector<std::string>& command_line);
// The same, once for each target where it has them from a configuration file, whose path is looked
// up in the folder `cwd` unless it is absolute.
std::vector<RunningDaemon> DaemonsOf(const std::vector<std::string>& command_line,
                                     const std::string& cwd);

// Where doctor's view of the system comes from: the kernel, and the targets that the command line
// names or a running utproxy has. A member of a command; not movable.
class DoctorSource {
 public:
  // The options of `run` that say what a target is, and --control.
  void AddWords(OptionTable& options);
  absl::Status Finish();

  // The system as it is now. A utproxy that is named by --control and not there is an error.
  absl::StatusOr<SystemView> Load();
  // The system once more, for comparison: a utproxy that has gone meanwhile is no error, and its
  // target stays.
  absl::StatusOr<SystemView> LoadAgain();
  // The socket of the utproxy that is named or, else, runs; the usual one where neither is.
  std::string ControlPath() const;

 private:
  // Running daemons that read a queue here.
  static std::vector<RunningDaemon> FindDaemons();
  absl::Status AskForStats(const std::string& control, SystemView* view) const;
  absl::StatusOr<SystemView> LoadWith(const std::vector<RunningDaemon>& daemons) const;
  bool target_given() const;

  TargetOptions target_;
  std::string control_;
  std::vector<RunningDaemon> last_seen_;
  std::string config_path_;
  std::vector<ProxyTarget> configured_;  // by config_path_
};

// {"ok": ..., "findings": [...]}.
Json DoctorJson(const Findings& findings);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_DOCTOR_SOURCE_H_
