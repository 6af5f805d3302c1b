// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "base/status.h"
#include "command.h"
#include "commands.h"
#include "daemon/control_client.h"
#include "daemon/nflog_tracer.h"
#include "target_options.h"
#include "trace/filter.h"
#include "trace_output.h"
#include "values.h"

namespace utproxy::tools {
namespace {

constexpr uint32_t kMaxCount = 1'000'000'000;
constexpr int kNice = 10;

// A verdict or a reason.
absl::Status ParseOutcomeWord(absl::string_view text) {
  for (const Verdict verdict : {Verdict::kAccept, Verdict::kDrop}) {
    if (text == VerdictName(verdict)) return absl::OkStatus();
  }
  std::string reasons;
  for (int i = 0; i < kReasonCount; ++i) {
    const char* name = ReasonName(static_cast<Reason>(i));
    if (text == name) return absl::OkStatus();
    absl::StrAppend(&reasons, ", ", name);
  }
  return absl::InvalidArgumentError(absl::StrCat("must be one of accept, drop", reasons));
}

class TraceCommand : public Command {
 public:
  void Declare(OptionTable& options) override {
    options.Argument({.placeholder = "FILTER",
                      .help = "a condition, such as 'proto udp and dport 53 and verdict drop'",
                      .required = false,
                      .repeated = true,
                      .set = [this](absl::string_view word) {
                        filter_words_.emplace_back(word);
                        return absl::OkStatus();
                      }});
    options.Section("Which decisions");
    AddNumber(options, "--count", "end after N decisions", &count_);
    AddNumber(options, "--last", "the last N that the flight recorder holds, no new ones", &last_);
    options.Value("--until", "WORD", "end after the first with this verdict or reason: drop, ...",
                  [this](absl::string_view word) {
                    until_ = std::string(word);
                    return ParseOutcomeWord(word);
                  });
    options.Section("Copies of packets, without a daemon");
    options.Value("--nflog", "GROUP", "explain what a rule 'log group GROUP' copies",
                  [this](absl::string_view text) -> absl::Status {
                    ASSIGN_OR_RETURN(group_, ParseNumber(text, "group", 0, 65535));
                    return absl::OkStatus();
                  });
    target_.AddPolicy(options);
    options.Section("Output");
    options.Flag("--json", "one JSON object a decision, with every step", &json_, "-j");
    options.Value("--write", "FILE.pcapng",
                  "the packets, each decision as its comment; - for stdout",
                  [this](absl::string_view path) {
                    write_ = std::string(path);
                    return absl::OkStatus();
                  });
    options.Value("--control", "PATH", "the daemon's control socket",
                  [this](absl::string_view path) {
                    control_ = std::string(path);
                    return absl::OkStatus();
                  });
  }

  absl::Status Check() override {
    RETURN_IF_ERROR(target_.Finish());
    const absl::StatusOr<Filter> filter = Filter::Compile(FilterText());
    if (!filter.ok()) return UsageError(absl::StrCat("FILTER: ", filter.status().message()));
    if (last_ != 0 && count_ != 0)
      return UsageError("--count: says the same as --last; leave out one");
    if (last_ != 0 && !until_.empty()) return UsageError("--until: --last shows no new decisions");
    if (group_ && last_ != 0) {
      return UsageError("--last: the flight recorder is a daemon's; leave out --nflog");
    }
    if (!group_ && TargetGiven()) {
      return UsageError(
          "--on-port, --on-ip, --tproxy-mark, --on-miss: go with --nflog; the daemon has targets "
          "of "
          "its own");
    }
    if (target_.target.spread.active()) {
      return UsageError(
          "--on-port: the copies are of packets for the kernel's own TPROXY, whose rule has one "
          "port");
    }
    if (json_ && !write_.empty()) return UsageError("--json: --write has a form of its own");
    return absl::OkStatus();
  }

  absl::StatusOr<int> Run(Environment& env) override {
    ASSIGN_OR_RETURN(output_, MakeOutput(env));
    // On a busy host packets come first.
    (void)!::nice(kNice);
    RETURN_IF_ERROR(group_ ? Copies() : Live(env));
    RETURN_IF_ERROR(output_->Finish());
    return kExitOk;
  }

 private:
  absl::Status Live(Environment& env) {
    RETURN_IF_ERROR(TellOfFastPath(env));
    return StreamFromDaemon(
        control_, Request(), [this](const Json& json) { return Take(json); },
        [this] { output_->Flush(); });
  }

  absl::Status TellOfFastPath(Environment& env) const {
    bool carries = false;
    RETURN_IF_ERROR(AskDaemon(control_, {{"command", "stats"}}, [&](const Json& stats) {
      carries = carries || stats.contains("fast_path");
    }));
    if (!carries) return absl::OkStatus();
    env.err << "utproxy: note: the fast path carries packets of decided flows past the queue; "
               "those are not shown, utproxy stats counts them\n"
            << std::flush;
    return absl::OkStatus();
  }

  absl::Status Copies() {
    ASSIGN_OR_RETURN(Filter filter, Filter::Compile(FilterText()));
    ASSIGN_OR_RETURN(
        const auto tracer,
        NflogTracer::Open(static_cast<uint16_t>(*group_), target_.target.policy, std::move(filter),
                          {.steps = json_, .raw = !write_.empty()}));
    uint64_t taken = 0;
    // What could not be explained is no decision.
    const auto take = [&](const Json& json) {
      taken += json.contains("verdict") ? 1 : 0;
      return Take(json) && (count_ == 0 || taken < count_);
    };
    return tracer->Run(
        take, [this](uint64_t lost, uint64_t total) { output_->Lost(lost, total); },
        [this] { output_->Flush(); });
  }

  bool TargetGiven() const { return target_.policy_given(); }

  static void AddNumber(OptionTable& options, const char* name, const char* help, uint32_t* out) {
    options.Value(name, "N", help, [out](absl::string_view text) -> absl::Status {
      ASSIGN_OR_RETURN(*out, ParseNumber(text, "number", 1, kMaxCount));
      return absl::OkStatus();
    });
  }

  std::string FilterText() const { return absl::StrJoin(filter_words_, " "); }

  absl::StatusOr<std::unique_ptr<TraceOutput>> MakeOutput(Environment& env) const {
    if (!write_.empty()) return MakeCaptureOutput(write_, env);
    return json_ ? MakeJsonOutput(env) : MakeTextOutput(env);
  }

  Json Request() const {
    Json request;
    request["command"] = "trace";
    request["filter"] = FilterText();
    request["count"] = count_;
    request["last"] = last_;
    request["steps"] = json_;
    request["raw"] = !write_.empty();
    return request;
  }

  // False where no more is wanted.
  bool Take(const Json& json) {
    if (json.contains("lost")) {
      output_->Lost(json.at("lost").get<uint64_t>(), json.at("lost_total").get<uint64_t>());
      return true;
    }
    const bool decided = json.contains("verdict");
    if (!decided && !json.contains("packet")) return true;
    if (!output_->Take(json)) return false;
    return !decided || until_.empty() ||
           (json.at("verdict") != until_ && json.at("reason") != until_);
  }

  std::vector<std::string> filter_words_;
  std::string control_ = kDefaultControlPath;
  std::string until_;
  std::string write_;
  uint32_t count_ = 0;
  uint32_t last_ = 0;
  std::optional<uint32_t> group_;
  TargetOptions target_;
  bool json_ = false;
  std::unique_ptr<TraceOutput> output_;
};

}  // namespace

CommandEntry TraceEntry() {
  return {"trace", "decisions as they happen",
          "Shows what the running daemon decides, a line a packet, or with --last what it decided "
          "last; not what the fast path carries past it. A reader that is too slow loses "
          "decisions, which are counted and shown; packets "
          "do not wait for it. With --nflog GROUP it explains copies of packets instead, as on a "
          "router "
          "that uses the kernel's TPROXY: no daemon, and no delay to traffic. Conditions of a "
          "FILTER: proto, host, src, dst, port, sport, dport, "
          "verdict, reason, target, queue, mark, iif; with and, or, not and parentheses.",
          "utproxy trace --nflog 5 --on-port 1090 --tproxy-mark 0x1\nutproxy trace 'proto udp and "
          "dport 53 and verdict drop'",
          [] { return std::unique_ptr<Command>(new TraceCommand); }};
}

}  // namespace utproxy::tools
