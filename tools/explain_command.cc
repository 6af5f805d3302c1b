// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>

#include <istream>
#include <memory>
#include <ostream>
#include <string>

#include "base/status.h"
#include "command.h"
#include "commands.h"
#include "config.h"
#include "daemon/control_client.h"
#include "daemon/explainer.h"
#include "explain_text.h"
#include "packet_spec.h"
#include "printable.h"
#include "target_options.h"
#include "text.h"

namespace utproxy::tools {
namespace {

Color StepColor(const std::string& result) {
  if (result == "none" || result == "no" || result == "forward" || result == "refused" ||
      result == "other" || result == "shadowed") {
    return Color::kBad;
  }
  return Color::kGood;
}

std::string VerdictLine(const Json& json, bool color) {
  const bool accept = json.at("verdict") == "accept";
  const Json& p = json.at("packet");
  const bool v6 = p.at("family") == "ipv6";
  const auto end = [&](const char* address, const char* port) {
    const std::string text = p.at(address).get<std::string>();
    return absl::StrCat(v6 ? "[" : "", text, v6 ? "]:" : ":", p.at(port).get<int>());
  };
  return absl::StrCat(Paint(accept ? "accept" : "drop", accept ? Color::kGood : Color::kBad, color),
                      " ", json.at("reason").get<std::string>(), "  ",
                      p.at("proto").get<std::string>(), " ", end("src", "sport"), " > ",
                      end("dst", "dport"), "  mark ", p.at("mark").get<std::string>(), " > ",
                      json.at("mark").get<std::string>());
}

std::string ProcessText(const Json& json) {
  if (!json.contains("comm")) return "";
  std::string text =
      absl::StrCat("  ", json.at("comm").get<std::string>(), "[", json.at("pid").get<int>(), "]");
  if (json.contains("cgroup")) {
    absl::StrAppend(&text, " in ", json.at("cgroup").get<std::string>());
  }
  return text;
}

std::string SocketLine(const Json& socket) {
  if (socket.is_null()) return "";
  std::string line = absl::StrCat("  socket  ", socket.at("state").get<std::string>(), " ",
                                  socket.at("local").get<std::string>(), "  cookie ",
                                  socket.at("cookie").get<uint64_t>());
  absl::StrAppend(&line, ProcessText(socket));
  return absl::StrCat(line, "\n");
}

std::string PortsText(const Json& ports, size_t width, bool color) {
  std::string text;
  for (const Json& p : ports) {
    const bool chosen = p.at("chosen").get<bool>();
    absl::StrAppend(&text, "      ", chosen ? "* " : "  ",
                    Paint(absl::StrCat("port ", p.at("port").get<int>()),
                          chosen ? Color::kGood : Color::kNone, color),
                    p.at("backup").get<bool>() ? ", backup" : "", "\n",
                    Wrap(p.at("why").get<std::string>(), width, 10));
  }
  return text;
}

std::string CandidatesText(const Json& candidates, size_t width, bool color) {
  std::string text;
  for (const Json& c : candidates) {
    const bool chosen = c.at("chosen").get<bool>();
    absl::StrAppend(
        &text, "      ", chosen ? "* " : "  ",
        Paint(c.at("local").get<std::string>(), chosen ? Color::kGood : Color::kNone, color),
        "  score ", c.at("score").get<int>(), ", ",
        c.at("transparent").get<bool>() ? "transparent" : "not transparent", ProcessText(c), "\n",
        Wrap(c.at("why").get<std::string>(), width, 10));
  }
  return text;
}

}  // namespace

std::string ExplainText(const Json& raw, size_t width, bool color) {
  const Json json = PrintableStrings(raw);
  std::string text = absl::StrCat(VerdictLine(json, color), "\n", SocketLine(json.at("socket")));
  for (const Json& step : json.at("steps")) {
    const std::string result = step.at("result").get<std::string>();
    absl::StrAppend(&text, "  ", Paint(step.at("step").get<std::string>(), Color::kHeading, color),
                    ": ", Paint(result, StepColor(result), color), "\n",
                    Wrap(step.at("why").get<std::string>(), width, 6));
    if (step.contains("ports")) absl::StrAppend(&text, PortsText(step.at("ports"), width, color));
    if (step.contains("candidates")) {
      absl::StrAppend(&text, CandidatesText(step.at("candidates"), width, color));
    }
  }
  if (json.contains("kernel")) {
    for (const auto& [name, what] : json.at("kernel").items()) {
      absl::StrAppend(&text,
                      Wrap(absl::StrCat(name, ": ", what.get<std::string>(), "."), width, 2));
    }
  }
  if (json.contains("differs") && !json.at("differs").empty()) {
    absl::StrAppend(&text, Wrap(absl::StrCat("the mirror and the kernel differ: ",
                                             JsonLine(json.at("differs"))),
                                width, 2));
  }
  return text;
}

namespace {

class ExplainCommand : public Command {
 public:
  void Declare(OptionTable& options) override {
    options.Section("Packet");
    spec_.AddWords(options, /*optional=*/true);
    options.Flag("--batch", "read packets from standard input, one a line", &batch_);
    options.Section("Target");
    target_.AddPolicy(options);
    options.Value("--config", "FILE", "the target is in this configuration file",
                  [this](absl::string_view path) {
                    config_path_ = std::string(path);
                    return absl::OkStatus();
                  });
    options.Value("--target", "NAME",
                  "a target of the file, or of the running daemon (with --live)",
                  [this](absl::string_view name) {
                    target_name_ = std::string(name);
                    return absl::OkStatus();
                  });
    options.Section("Output");
    options.Flag("--live", "ask the running daemon's mirror, and say where the kernel differs",
                 &live_);
    options.Value("--control", "PATH", "the daemon's control socket",
                  [this](absl::string_view path) {
                    control_ = std::string(path);
                    return absl::OkStatus();
                  });
    options.Flag("--json", "one JSON object a packet", &json_, "-j");
  }

  absl::Status Check() override {
    RETURN_IF_ERROR(target_.Finish());
    if (batch_ == spec_.given()) {
      return UsageError(batch_ ? "explain: --batch reads packets from standard input: leave out "
                                 "the packet's words"
                               : "explain: no packet: PROTO SRC DST, or --batch");
    }
    if (!target_name_.empty() && !live_ && config_path_.empty()) {
      return UsageError("--target: goes with --config or --live");
    }
    const bool target_given = target_.policy_given();
    if (live_ && target_given) {
      return UsageError(
          "--live: asks about the daemon's own target: leave out --on-port, --on-ip, "
          "--tproxy-mark and --on-miss");
    }
    if (config_path_.empty()) return absl::OkStatus();
    if (live_ || target_given) {
      return UsageError(
          "--config: has the target: leave out --live, --on-port, --on-ip, --tproxy-mark and "
          "--on-miss");
    }
    ASSIGN_OR_RETURN(const Configuration configuration, LoadConfig(config_path_, false));
    ASSIGN_OR_RETURN(target_.target, TargetNamed(configuration, target_name_));
    return absl::OkStatus();
  }

  absl::StatusOr<int> Run(Environment& env) override {
    ASSIGN_OR_RETURN(explainer_, Explainer::Open());
    if (!batch_) {
      ASSIGN_OR_RETURN(const Packet packet, spec_.Finish());
      owners_ = ReadSocketOwners();
      RETURN_IF_ERROR(One(packet, env));
      return kExitOk;
    }
    return Batch(env);
  }

 private:
  absl::StatusOr<int> Batch(Environment& env) {
    owners_ = ReadSocketOwners();
    std::string line;
    int exit = kExitOk;
    for (size_t number = 1; std::getline(env.in, line); ++number) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      const absl::StatusOr<Packet> packet = ParsePacketLine(line, SystemInterfaceIndex);
      absl::Status status = packet.status();
      if (status.ok()) status = One(*packet, env);
      if (!status.ok()) {
        // The answers stay in step with the lines; the rest is answered all the same.
        env.out << JsonLine({{"error", absl::StrCat("line ", number, ": ", status.message())}})
                << "\n";
        exit = kExitFailed;
      }
      env.out.flush();
    }
    return exit;
  }

  absl::Status One(const Packet& packet, Environment& env) {
    ASSIGN_OR_RETURN(const Json json, live_ ? Live(packet) : Exact(packet));
    env.out << (json_ || batch_ ? JsonLine(json) + "\n"
                                : ExplainText(json, env.width, env.color()));
    return absl::OkStatus();
  }

  absl::StatusOr<Json> Exact(const Packet& packet) {
    ASSIGN_OR_RETURN(const Explanation explanation,
                     explainer_->Exact(packet, target_.target.policy, target_.target.spread));
    return ToJson(explanation, packet, SystemInterfaceName, owners_, "exact");
  }

  absl::StatusOr<Json> Live(const Packet& packet) {
    Json request;
    request["command"] = "explain";
    request["packet"] = ToJson(packet, SystemInterfaceName);
    if (!target_name_.empty()) request["target"] = target_name_;
    Json answer;
    RETURN_IF_ERROR(AskDaemon(control_, request, [&](const Json& json) { answer = json; }));
    if (!answer.is_object()) return absl::DataLossError("explain: the daemon did not answer");
    return answer;
  }

  PacketSpec spec_{SystemInterfaceIndex};
  TargetOptions target_;
  std::unique_ptr<Explainer> explainer_;
  OwnersByInode owners_;
  std::string control_ = kDefaultControlPath;
  std::string config_path_;
  std::string target_name_;
  bool batch_ = false;
  bool live_ = false;
  bool json_ = false;
};

}  // namespace

CommandEntry ExplainEntry() {
  return {"explain", "show every step of one packet's decision",
          "Says what TPROXY does with a packet, which need not exist: every lookup, every listener "
          "considered and why it was chosen or refused, the mark, and where routing then leads. "
          "Asks the kernel itself, so it needs no daemon, and also explains a router that uses "
          "the kernel's own TPROXY.",
          "utproxy explain tcp 10.0.1.99:40000 10.0.2.99:8080 --iif lo --flags S --on-port 12345 "
          "--tproxy-mark 0x1",
          [] { return std::unique_ptr<Command>(new ExplainCommand); }};
}

}  // namespace utproxy::tools
