// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>

#include <cerrno>
#include <csignal>
#include <memory>
#include <ostream>

#include "base/clock.h"
#include "base/status.h"
#include "command.h"
#include "commands.h"
#include "daemon/daemon.h"
#include "printable.h"
#include "ruleset/ruleset.h"
#include "target_options.h"
#include "values.h"

namespace utproxy::tools {
namespace {

enum class LogLevel { kError, kWarning, kInfo };

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

// SIGTERM, SIGINT and SIGHUP as a descriptor. Before any thread is started, so that all inherit
// the blocked mask and no thread is interrupted.
absl::StatusOr<UniqueFd> BlockSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  if (::pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) {
    return absl::InternalError("block signals: refused");
  }
  std::signal(SIGPIPE, SIG_IGN);
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, "open signalfd");
  return fd;
}

class RunCommand : public Command {
 public:
  void Declare(OptionTable& options) override {
    options.Section("Target");
    target_.AddPolicy(options);
    options.Section("Queues");
    target_.AddQueueNumbers(options);
    target_.AddQueueTuning(options);
    options.Value("--steer", "MODE", "pin sockets by sk_lookup: auto, sk_lookup, none (auto)",
                  [this](absl::string_view v) { return Set(ParseSteer(v), &options_.steer); });
    target_.AddFastPath(options);
    options.Section("Rules and routes");
    options.Flag("--install", "add nftables rules, policy rule and route; remove them at exit",
                 &options_.install);
    target_.AddQueueRule(options);
    target_.AddMatch(options);
    options.Section("Daemon");
    options.Value("--control", "PATH", absl::StrCat("control socket (", kDefaultControlPath, ")"),
                  [this](absl::string_view v) {
                    options_.control_path = std::string(v);
                    return absl::OkStatus();
                  });
    options.Value("--log-level", "LEVEL", "error, warning or info (info)",
                  [this](absl::string_view v) { return Set(ParseLogLevel(v), &log_level_); });
  }

  absl::Status Check() override {
    RETURN_IF_ERROR(target_.Finish());
    if (!options_.install && !target_.first_install_option().empty()) {
      return UsageError(absl::StrCat(target_.first_install_option(), ": goes with --install"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<int> Run(Environment& env) override {
    ASSIGN_OR_RETURN(const UniqueFd signals, BlockSignals());
    options_.targets = {target_.target};
    options_.fast_path = target_.target.ruleset.fast_path;
    AdviseOfFastPath(env);
    ASSIGN_OR_RETURN(const std::unique_ptr<Daemon> daemon, Daemon::Start(options_));
    for (const std::string& w : daemon->warnings()) Log(env, LogLevel::kWarning, w);
    env.err << ReadyLine() << std::endl;
    (void)::sd_notify(0, "READY=1");
    absl::Status status = Loop(signals.get(), *daemon, env);
    (void)::sd_notify(0, "STOPPING=1");
    status.Update(daemon->Stop());
    RETURN_IF_ERROR(status);
    return kExitOk;
  }

 private:
  template <typename T>
  static absl::Status Set(absl::StatusOr<T> value, T* out) {
    if (value.ok()) *out = *value;
    return value.status();
  }

  std::string ReadyLine() const {
    const Target& t = target_.target;
    std::string line = absl::StrCat("utproxy: ready: queue ", t.queue_first);
    if (t.queue_last != t.queue_first) absl::StrAppend(&line, "-", t.queue_last);
    absl::StrAppend(&line, ", on-port ",
                    t.policy.on_port == 0 ? "the packet's" : absl::StrCat(t.policy.on_port),
                    ", mark ", MarkText(t.policy.mark_value), "/", MarkText(t.policy.mark_mask));
    if (options_.fast_path) {
      absl::StrAppend(&line,
                      ", fast path divert: only packets that are queued are in stats by reason");
    }
    return line;
  }

  // Without --install the rules are the user's.
  void AdviseOfFastPath(Environment& env) const {
    if (!options_.fast_path || options_.install || log_level_ < LogLevel::kInfo) return;
    Log(env, LogLevel::kInfo,
        "--fast-path divert goes by rules, which `utproxy ruleset install` with the same options "
        "makes, or run --install, or");
    // As for a kernel with nft's queue statement: only nft has the words.
    const absl::StatusOr<std::string> rules = PrintRuleset({&target_.target.ruleset, 1}, true);
    env.err << (rules.ok() ? *rules : Printable(rules.status().message()) + "\n");
  }

  void Log(Environment& env, LogLevel level, absl::string_view sentence) const {
    if (level <= log_level_) env.err << "utproxy: " << Printable(sentence) << std::endl;
  }

  // Until SIGTERM or SIGINT, or until a queue is served no more.
  absl::Status Loop(int signal_fd, Daemon& daemon, Environment& env) const {
    int64_t next_tick_ns = MonotonicNs() + kNsPerSec;
    while (true) {
      pollfd fd{.fd = signal_fd, .events = POLLIN, .revents = 0};
      const int64_t wait_ms = (next_tick_ns - MonotonicNs()) / kNsPerMs + 1;
      (void)::poll(&fd, 1, wait_ms > 0 ? static_cast<int>(wait_ms) : 0);
      signalfd_siginfo info{};
      if (::read(signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo != SIGHUP) return absl::OkStatus();
        Log(env, LogLevel::kWarning,
            "SIGHUP: the target came from the command line, which can't "
            "be read again");
      }
      if (MonotonicNs() < next_tick_ns) continue;
      next_tick_ns = MonotonicNs() + kNsPerSec;
      RETURN_IF_ERROR(daemon.Health());
      for (const std::string& sentence : daemon.Tick()) Log(env, LogLevel::kWarning, sentence);
    }
  }

  TargetOptions target_;
  DaemonOptions options_;
  LogLevel log_level_ = LogLevel::kInfo;
};

}  // namespace

CommandEntry RunEntry() {
  return {"run", "the daemon, in the foreground",
          "Takes packets from NFQUEUEs, decides each as the kernel's TPROXY would, and gives the "
          "verdict with the mark. Without --install it touches no rule and no route. Ends on "
          "SIGTERM or SIGINT, when all queued packets have their verdict.",
          "utproxy run --install --proto udp --dport 53 --on-port 1090 --tproxy-mark 0x1",
          [] { return std::unique_ptr<Command>(new RunCommand); }};
}

}  // namespace utproxy::tools
