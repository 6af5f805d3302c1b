// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <ostream>

#include "base/status.h"
#include "command.h"
#include "commands.h"
#include "daemon/doctor_view.h"
#include "diagnose/fixes.h"
#include "doctor_source.h"
#include "doctor_text.h"
#include "doctor_watch.h"
#include "printable.h"

namespace utproxy::tools {
namespace {

class DoctorCommand : public Command {
 public:
  void Declare(OptionTable& options) override {
    source_.AddWords(options);
    options.Section("Output");
    options.Flag("--watch", "stay, and tell what changes, until interrupted", &watch_);
    options.Flag("--json", "one JSON object; with --watch one a change", &json_, "-j");
  }

  absl::Status Check() override { return source_.Finish(); }

  absl::StatusOr<int> Run(Environment& env) override {
    ASSIGN_OR_RETURN(const SystemView view, source_.Load());
    const Findings findings = Diagnose(view);
    if (!view.daemon_silence.empty()) {
      env.err << "utproxy: doctor: " << Printable(view.daemon_silence) << std::endl;
    }
    if (json_) {
      env.out << JsonLine(DoctorJson(findings)) << "\n";
    } else {
      env.out << DoctorText(view, findings, env.width, env.color());
    }
    env.out.flush();
    if (watch_) RETURN_IF_ERROR(WatchDoctor(source_, view, findings, json_, env));
    return Healthy(findings) ? kExitOk : kExitFailed;
  }

 private:
  DoctorSource source_;
  bool json_ = false;
  bool watch_ = false;
};

}  // namespace

CommandEntry DoctorEntry() {
  return {"doctor", "what is wrong with this router, and what to type to mend it",
          "Looks at rules, routes, listeners, queues and the kernel's settings, and names what "
          "keeps packets from the transparent proxy, each with its cause and a command that mends "
          "it. Without a target it takes those of the ruleset (TPROXY, tproxy and queue rules) and "
          "of the utproxy that runs. Changes nothing. Exits with 1 where it finds an error.",
          "utproxy doctor --on-port 1090 --tproxy-mark 0x1 --iif lan0",
          [] { return std::unique_ptr<Command>(new DoctorCommand); }};
}

}  // namespace utproxy::tools
