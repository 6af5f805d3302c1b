// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <memory>
#include <ostream>

#include "base/status.h"
#include "command.h"
#include "commands.h"
#include "config.h"
#include "daemon/other_daemon.h"
#include "printable.h"
#include "ruleset/ruleset.h"
#include "ruleset/validate.h"
#include "target_options.h"

namespace utproxy::tools {
namespace {

enum class Action { kPrint, kInstall, kRemove };

class RulesetCommand : public Command {
 public:
  void Declare(OptionTable& options) override {
    options.Argument({.placeholder = "print|install|remove",
                      .help = "remove needs no options",
                      .set = [this](absl::string_view text) { return SetAction(text); }});
    options.Value("--config", "FILE", "the targets of this configuration file",
                  [this](absl::string_view path) {
                    config_path_ = std::string(path);
                    return absl::OkStatus();
                  });
    const size_t before = options.options().size();
    target_.AddPolicy(options);
    target_.AddQueueNumbers(options);
    target_.AddQueueRule(options);
    target_.AddFailOpen(options);
    target_.AddFastPath(options);
    target_.AddMatch(options);
    options.NoteFirstGiven(before, &first_target_word_);
  }

  absl::Status Check() override {
    RETURN_IF_ERROR(target_.Finish());
    if (action_ == Action::kRemove) return absl::OkStatus();
    if (!config_path_.empty()) return LoadSpecs();
    specs_ = {target_.target.ruleset};
    spread_ = target_.target.spread.active();
    if (!target_.mark_given()) {
      return WithRemedy(UsageError("--tproxy-mark: missing"),
                        "The mark leads packets to the local route: such as --tproxy-mark 0x1/0x1");
    }
    return ValidateSpecs(Specs());
  }

  absl::StatusOr<int> Run(Environment& env) override {
    switch (action_) {
      case Action::kPrint:
        return Print(env);
      case Action::kInstall:
        return Install(env);
      case Action::kRemove:
        RETURN_IF_ERROR(NoOtherDaemonHasTheTable({}));
        RETURN_IF_ERROR(RemoveRuleset());
        break;
    }
    return kExitOk;
  }

 private:
  absl::Status SetAction(absl::string_view text) {
    if (text == "print") {
      action_ = Action::kPrint;
    } else if (text == "install") {
      action_ = Action::kInstall;
    } else if (text == "remove") {
      action_ = Action::kRemove;
    } else {
      return absl::InvalidArgumentError("must be print, install or remove");
    }
    return absl::OkStatus();
  }

  // All targets of the file: whoever calls this wants their rules, whatever `install` says.
  absl::Status LoadSpecs() {
    if (!first_target_word_.empty()) {
      return UsageError(
          absl::StrCat(first_target_word_, ": goes into the file where there is --config"));
    }
    ASSIGN_OR_RETURN(const Configuration configuration, LoadConfig(config_path_, true));
    for (const Target& target : configuration.targets) {
      specs_.push_back(target.ruleset);
      spread_ = spread_ || target.spread.active();
    }
    return ValidateSpecs(Specs());
  }

  absl::Span<const RulesetSpec> Specs() const { return specs_; }

  absl::StatusOr<int> Print(Environment& env) {
    const absl::StatusOr<bool> native = KernelHasNativeQueue();
    if (!native.ok()) {
      env.err << "utproxy: not known whether this kernel has nft's queue statement, printed as if "
                 "it had: "
              << native.status().message() << "\n";
    }
    ASSIGN_OR_RETURN(const std::string script, PrintRuleset(Specs(), native.value_or(true)));
    env.out << script;
    if (spread_) {
      env.out
          << "# Which of several on-ports a packet goes to the daemon chooses; the kernel's own "
             "TPROXY can't.\n";
    }
    return kExitOk;
  }

  absl::StatusOr<int> Install(Environment& env) {
    ASSIGN_OR_RETURN(const std::vector<std::string> warnings, InstallPersistentRuleset(Specs()));
    if (std::any_of(specs_.begin(), specs_.end(), [](const auto& s) { return s.fast_path; })) {
      env.err << "utproxy: the fast path's rules need a running `utproxy run --fast-path divert`\n";
    }
    for (const std::string& warning : warnings)
      env.err << "utproxy: " << Printable(warning) << "\n";
    return kExitOk;
  }

  TargetOptions target_;
  std::string first_target_word_;
  std::string config_path_;
  std::vector<RulesetSpec> specs_;
  bool spread_ = false;  // some target has several on-ports
  Action action_ = Action::kPrint;
};

}  // namespace

CommandEntry RulesetEntry() {
  return {"ruleset", "print, install or remove the rules that --install stands for",
          "The nftables table, the policy rule by mark and the local route, for IPv4 and IPv6: "
          "printed as the commands that make them, installed to stay until they are removed, or "
          "removed.",
          "utproxy ruleset print --proto udp --dport 53 --on-port 1090 --tproxy-mark 0x1/0x1",
          [] { return std::unique_ptr<Command>(new RulesetCommand); }};
}

}  // namespace utproxy::tools
