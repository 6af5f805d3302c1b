// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>
#include <malloc.h>
#include <poll.h>
#include <sys/signalfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <memory>
#include <optional>
#include <ostream>
#include <tuple>

#include "base/clock.h"
#include "base/status.h"
#include "command.h"
#include "commands.h"
#include "config.h"
#include "daemon/daemon.h"
#include "daemon/json.h"
#include "daemon_words.h"
#include "printable.h"
#include "ruleset/ruleset.h"
#include "service_manager.h"
#include "target_options.h"
#include "values.h"

namespace utproxy::tools {
namespace {

// SIGTERM, SIGINT, SIGHUP and SIGUSR2 as a descriptor. Before any thread is started, so that all
// inherit the blocked mask and no thread is interrupted.
absl::StatusOr<UniqueFd> BlockSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR2}) sigaddset(&set, signal);
  if (::pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) {
    return absl::InternalError("block signals: refused");
  }
  std::signal(SIGPIPE, SIG_IGN);
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, "open signalfd");
  return fd;
}

constexpr uint64_t kStatusTicks = 10;

// A block of kLargeBlock bytes is a mapping of its own, which goes when it is freed, and no
// thread's arena keeps more than kMostKept free at its end. Where nobody says so, glibc raises both
// with each block that is freed, up to 32 and 64 MB: then each arena in which somebody ever listed
// all sockets keeps what that took.
constexpr int kLargeBlock = 256 << 10;
constexpr int kMostKept = 128 << 10;

// Before the first thread is made.
void BoundWhatMallocKeeps() {
  (void)::mallopt(M_MMAP_THRESHOLD, kLargeBlock);
  (void)::mallopt(M_TRIM_THRESHOLD, kMostKept);
}

class RunCommand : public Command {
 public:
  void Declare(OptionTable& options) override {
    options.Section("Configuration");
    options.Value("--config", "FILE", "TOML, with these words; SIGHUP reads it again",
                  [this](absl::string_view path) -> absl::Status {
                    if (path.empty()) return absl::InvalidArgumentError("must be a path");
                    config_path_ = std::string(path);
                    return absl::OkStatus();
                  });
    options.Flag("--check", "only say what is wrong with options and file", &check_only_);
    options.Flag("--take-over", "go on for the utproxy that runs at --control, and lose no packet",
                 &take_over_);
    const size_t before = options.options().size();
    options.Section("Target");
    target_.AddPolicy(options);
    options.Section("Queues");
    target_.AddQueueNumbers(options);
    target_.AddQueueTuning(options);
    target_.AddFastPath(options);
    options.Section("Rules and routes");
    target_.AddQueueRule(options);
    target_.AddMatch(options);
    options.NoteFirstGiven(before, &first_target_word_);
    options.Section("Rules and routes");
    target_.AddInstall(options);
    AddDaemonWords(options, &words_);
  }

  absl::Status Check() override {
    if (!config_path_.empty()) {
      if (first_target_word_.empty()) return absl::OkStatus();
      return UsageError(
          absl::StrCat(first_target_word_, ": goes into the file where there is --config"));
    }
    RETURN_IF_ERROR(target_.Finish());
    if (!target_.target.install && !target_.first_install_option().empty()) {
      return UsageError(absl::StrCat(target_.first_install_option(), ": goes with --install"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<int> Run(Environment& env) override {
    ASSIGN_OR_RETURN(Configuration configuration, Configured());
    Use(configuration, env);
    if (check_only_) {
      WarnOfLoops(env);
      return kExitOk;
    }
    BoundWhatMallocKeeps();
    ASSIGN_OR_RETURN(const UniqueFd signals, BlockSignals());
    AdviseOfFastPath(env);
    ASSIGN_OR_RETURN(const std::unique_ptr<Daemon> daemon, Start(configuration, env));
    for (const std::string& w : daemon->warnings()) Log(env, LogLevel::kWarning, w);
    env.err << "utproxy: ready: " << TargetsText() << std::endl;
    manager_.Keep(daemon->belongings());
    manager_.Ready(daemon->Summary());
    const absl::StatusOr<Ending> ending = Loop(signals.get(), *daemon, env);
    absl::Status status = ending.status();
    manager_.Stopping();
    status.Update(ending.ok() && *ending == Ending::kLeft ? daemon->Leave() : daemon->Stop());
    if (!ending.ok() || *ending == Ending::kStopped) manager_.Keep({});
    RETURN_IF_ERROR(status);
    return kExitOk;
  }

 private:
  enum class Ending : uint8_t {
    kStopped,     // all that it did is undone
    kLeft,        // what it has is kept for the next one
    kHandedOver,  // another one goes on
  };

  // With what the daemon before was doing, where there was one; then goes over to the
  // configuration.
  absl::StatusOr<std::unique_ptr<Daemon>> Start(const Configuration& configuration,
                                                Environment& env) {
    Inheritance inheritance;
    std::vector<std::string> warnings;
    inheritance.estate = manager_.Inherited(&warnings);
    for (const std::string& w : warnings) Log(env, LogLevel::kWarning, w);
    if (take_over_) {
      ASSIGN_OR_RETURN(inheritance.predecessor, Predecessor::Connect(options_.control_path));
      inheritance.estate = std::move(inheritance.predecessor->estate());
    }
    DaemonOptions first = options_;
    if (!inheritance.estate.empty()) {
      first.targets = EarlierTargets(inheritance.estate.Words(), configuration.targets);
      if (first.targets.empty()) {
        first.targets = configuration.targets;
        Log(env, LogLevel::kWarning,
            "take over: the configuration before is not understood: packets that wait are decided "
            "by this one");
      }
    }
    ASSIGN_OR_RETURN(std::unique_ptr<Daemon> daemon, Daemon::Start(first, std::move(inheritance)));
    if (first.targets != configuration.targets) {
      const auto sentences = daemon->Reload(configuration.targets);
      if (!sentences.ok()) return sentences.status();
      for (const std::string& sentence : *sentences) Log(env, LogLevel::kWarning, sentence);
    }
    KeepWords(*daemon, configuration, env);
    return daemon;
  }

  // What a later process reads by EarlierTargets().
  void KeepWords(Daemon& daemon, const Configuration& configuration, Environment& env) const {
    const Json words = {{"arguments", env.arguments}, {"text", configuration.text}};
    const std::string text = words.dump(-1, ' ', false, Json::error_handler_t::replace);
    const absl::Status status = daemon.KeepWords(text);
    if (!status.ok()) Log(env, LogLevel::kWarning, status.message());
  }

  // The targets of the daemon before, whose words these are. How its queues are read is `now`'s
  // affair. Empty where the words are not understood.
  static std::vector<Target> EarlierTargets(const std::string& words,
                                            const std::vector<Target>& now) {
    const Json json = Json::parse(words, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("arguments") || !json["arguments"].is_array() ||
        !json.contains("text") || !json["text"].is_string()) {
      return {};
    }
    std::vector<std::string> arguments;
    for (const Json& word : json["arguments"]) {
      if (word.is_string()) arguments.push_back(word.get<std::string>());
    }
    if (!arguments.empty()) arguments.erase(arguments.begin());  // "run"
    RunCommand earlier;
    OptionTable table;
    earlier.Declare(table);
    if (!table.Parse(arguments).ok() || !earlier.Check().ok()) return {};
    std::vector<Target> targets = {earlier.target_.target};
    if (!earlier.config_path_.empty()) {
      std::vector<Mistake> mistakes;
      targets = ParseConfig(json["text"].get<std::string>(), earlier.config_path_,
                            earlier.target_.target.install, &mistakes)
                    .targets;
      if (!mistakes.empty()) return {};
    }
    for (Target& target : targets) {
      for (const Target& other : now) {
        if (other.queue_last < target.queue_first || target.queue_last < other.queue_first)
          continue;
        target.queue = other.queue;
        target.cpus = other.cpus;
        break;
      }
    }
    return targets;
  }

  // The file's, or the one target of the command line.
  absl::StatusOr<Configuration> Configured() const {
    Configuration configuration;
    if (config_path_.empty()) {
      configuration.targets = {target_.target};
      if (const std::optional<int> cpu = CpuOutOfReach(target_.target)) {
        return UsageError(absl::StrCat("--cpu ", *cpu, kNoSuchCpu));
      }
    } else {
      ASSIGN_OR_RETURN(configuration, LoadConfig(config_path_, target_.target.install));
      RETURN_IF_ERROR(CheckCpus(configuration, config_path_));
    }
    configuration.daemon = configuration.daemon.Under(words_);
    return configuration;
  }

  void Use(const Configuration& configuration, Environment& env) {
    const DaemonWords& daemon = configuration.daemon;
    log_level_ = daemon.log_level.value_or(LogLevel::kInfo);
    options_.targets = configuration.targets;
    options_.steer = daemon.steer.value_or(SteerMode::kAuto);
    options_.control_path = daemon.control.value_or(kDefaultControlPath);
    options_.metrics = daemon.metrics;
    options_.control_group = daemon.control_group;
    options_.privileges = {.account = daemon.user ? daemon.user : default_account_,
                           .seccomp = daemon.seccomp.value_or(DefaultSeccomp()),
                           .takes_sockets = false};
    for (const std::string& w : configuration.warnings) Log(env, LogLevel::kWarning, w);
  }

  // A configuration that can't be used changes nothing.
  void Reload(Daemon& daemon, Environment& env) {
    if (config_path_.empty()) {
      return Log(env, LogLevel::kWarning,
                 "SIGHUP: the target came from the command line, which can't be read again");
    }
    manager_.Reloading();
    const absl::Status status = TryReload(daemon, env);
    if (!status.ok()) {
      Log(env, LogLevel::kError, status.message());
      for (const std::string& more : MoreErrorsOf(status)) Log(env, LogLevel::kError, more);
      if (!RemedyOf(status).empty()) Log(env, LogLevel::kError, RemedyOf(status));
      Log(env, LogLevel::kError, "reload refused: the configuration before goes on");
    }
    manager_.Ready(daemon.Summary());
  }

  absl::Status TryReload(Daemon& daemon, Environment& env) {
    ASSIGN_OR_RETURN(const Configuration configuration, Configured());
    ASSIGN_OR_RETURN(std::vector<std::string> sentences, daemon.Reload(configuration.targets));
    KeepWords(daemon, configuration, env);
    manager_.Keep(daemon.belongings());
    const DaemonOptions before = options_;
    Use(configuration, env);
    if (options_.steer != before.steer) sentences.push_back("steer: changes with a restart");
    if (options_.control_path != before.control_path) {
      sentences.push_back("control: changes with a restart");
    }
    const auto place = [](const DaemonOptions& options) {
      const std::optional<Endpoint>& m = options.metrics;
      return m ? EndpointToString(m->address, m->port, m->family) : std::string();
    };
    if (place(options_) != place(before)) sentences.push_back("metrics: changes with a restart");
    const auto who = [](const DaemonOptions& options) {
      const std::optional<Account>& account = options.privileges.account;
      return std::tuple(account ? account->uid : 0, account ? account->gid : 0,
                        options.control_group, options.privileges.seccomp);
    };
    if (who(options_) != who(before)) {
      sentences.push_back("user, control_group and seccomp: change with a restart");
    }
    std::vector<Target> targets = std::move(options_.targets);
    options_ = before;
    options_.targets = std::move(targets);
    for (const std::string& sentence : sentences) Log(env, LogLevel::kWarning, sentence);
    Log(env, LogLevel::kInfo, absl::StrCat("reloaded: ", TargetsText()));
    return absl::OkStatus();
  }

  static std::string QueuesText(const Target& t) {
    return t.queue_last == t.queue_first ? absl::StrCat(t.queue_first)
                                         : absl::StrCat(t.queue_first, "-", t.queue_last);
  }

  std::string TargetsText() const {
    std::string line;
    bool fast_path = false;
    for (const Target& t : options_.targets) {
      if (&t != &options_.targets.front()) absl::StrAppend(&line, "; ");
      if (options_.targets.size() > 1) absl::StrAppend(&line, t.name, ": ");
      absl::StrAppend(&line, "queue ", QueuesText(t), ", on-port ",
                      t.spread.active()       ? t.spread.ToString()
                      : t.policy.on_port == 0 ? "the packet's"
                                              : absl::StrCat(t.policy.on_port),
                      ", mark ", MarkText(t.policy.mark_value), "/", MarkText(t.policy.mark_mask));
      fast_path = fast_path || t.ruleset.fast_path;
    }
    if (fast_path) {
      absl::StrAppend(&line,
                      ", fast path divert: only packets that are queued are in stats by reason");
    }
    return line;
  }

  // As installing does, which --check does not come to.
  void WarnOfLoops(Environment& env) const {
    for (const std::string& w : LoopsIn(SpecsToInstall(options_.targets))) {
      Log(env, LogLevel::kWarning, w);
    }
  }

  // Without --install the rules are the user's.
  void AdviseOfFastPath(Environment& env) const {
    std::vector<RulesetSpec> specs;
    for (const Target& t : options_.targets) {
      if (t.ruleset.fast_path && !t.install) specs.push_back(t.ruleset);
    }
    if (specs.empty() || log_level_ < LogLevel::kInfo) return;
    Log(env, LogLevel::kInfo,
        "--fast-path divert goes by rules, which `utproxy ruleset install` with the same options "
        "makes, or run --install, or");
    // As for a kernel with nft's queue statement: only nft has the words.
    const absl::StatusOr<std::string> rules = PrintRuleset(specs, true);
    env.err << (rules.ok() ? *rules : Printable(rules.status().message()) + "\n");
  }

  void Log(Environment& env, LogLevel level, absl::string_view sentence) const {
    if (level <= log_level_) env.err << "utproxy: " << Printable(sentence) << std::endl;
  }

  absl::Status Tick(Daemon& daemon, Environment& env) {
    RETURN_IF_ERROR(daemon.Health());
    for (const std::string& sentence : daemon.Tick()) Log(env, LogLevel::kWarning, sentence);
    if (++ticks_ % kStatusTicks == 0) manager_.Status(daemon.Summary());
    return absl::OkStatus();
  }

  void Watch(Daemon& daemon, Environment& env) {
    for (const std::string& name : manager_.Watch(daemon.Beats(), MonotonicNs())) {
      Log(env, LogLevel::kError,
          absl::StrCat(name,
                       ": its thread is stuck; the service manager is told no more that all "
                       "is well"));
    }
  }

  // SIGUSR2: the service manager's word that it starts another one, for which it keeps all.
  Ending EndingOf(uint32_t signal, Environment& env) const {
    if (signal != SIGUSR2) return Ending::kStopped;
    if (manager_.keeps()) return Ending::kLeft;
    Log(env, LogLevel::kWarning, "SIGUSR2: no service manager keeps the queues: they are closed");
    return Ending::kStopped;
  }

  // Until SIGTERM, SIGINT or SIGUSR2, until another one goes on for this, or until a queue is
  // served no more.
  absl::StatusOr<Ending> Loop(int signal_fd, Daemon& daemon, Environment& env) {
    const int64_t watch_ns = manager_.watch_every_ns();
    int64_t next_tick_ns = MonotonicNs() + kNsPerSec;
    int64_t next_watch_ns = watch_ns > 0 ? MonotonicNs() : INT64_MAX;
    while (true) {
      std::array<pollfd, 3> fds{{{.fd = signal_fd, .events = POLLIN, .revents = 0},
                                 {.fd = daemon.wake_fd(), .events = POLLIN, .revents = 0},
                                 {.fd = daemon.take_over_fd(), .events = POLLIN, .revents = 0}}};
      const int64_t next_ns = std::min(next_tick_ns, next_watch_ns);
      const int64_t wait_ms = (next_ns - MonotonicNs()) / kNsPerMs + 1;
      (void)::poll(fds.data(), fds.size(), wait_ms > 0 ? static_cast<int>(wait_ms) : 0);
      signalfd_siginfo info{};
      if (::read(signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo != SIGHUP) return EndingOf(info.ssi_signo, env);
        Reload(daemon, env);
      }
      if (fds[2].revents != 0 && daemon.HandOver()) {
        Log(env, LogLevel::kInfo, "another utproxy has taken over");
        return Ending::kHandedOver;
      }
      if (MonotonicNs() >= next_watch_ns) {
        next_watch_ns = MonotonicNs() + watch_ns;
        Watch(daemon, env);
      }
      if (fds[1].revents == 0 && MonotonicNs() < next_tick_ns) continue;
      next_tick_ns = MonotonicNs() + kNsPerSec;
      RETURN_IF_ERROR(Tick(daemon, env));
    }
  }

  TargetOptions target_;
  std::string first_target_word_;
  DaemonWords words_;
  std::string config_path_;
  bool check_only_ = false;
  bool take_over_ = false;
  // Looked up while this process is still who started it: a reload is another user's.
  const std::optional<Account> default_account_ = DefaultAccount();
  DaemonOptions options_;
  LogLevel log_level_ = LogLevel::kInfo;
  ServiceManager manager_;
  uint64_t ticks_ = 0;
};

}  // namespace

CommandEntry RunEntry() {
  return {"run", "the daemon, in the foreground",
          "Takes packets from NFQUEUEs, decides each as the kernel's TPROXY would, and gives the "
          "verdict with the mark. Without --install it touches no rule and no route. Ends on "
          "SIGTERM or SIGINT, when all queued packets have their verdict. With --config it has its "
          "targets from a file: the words of these options with _ for -, but mark for "
          "--tproxy-mark, and queues; SIGHUP goes over to what the file says then.",
          "utproxy run --install --proto udp --dport 53 --on-port 1090 --tproxy-mark 0x1",
          [] { return std::unique_ptr<Command>(new RunCommand); }};
}

}  // namespace utproxy::tools
