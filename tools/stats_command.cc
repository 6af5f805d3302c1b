// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>
#include <unistd.h>

#include <memory>
#include <ostream>

#include "base/status.h"
#include "command.h"
#include "commands.h"
#include "daemon/control_client.h"
#include "daemon/daemon.h"
#include "text.h"

namespace utproxy::tools {
namespace {

// A heading and its numbers, "  name  value", zeroes left out where `skip_zero`.
std::string Section(const char* title, const Json& numbers, bool skip_zero, bool color) {
  TextTable table({title, ""}, {1});
  bool any = false;
  for (const auto& [key, value] : numbers.items()) {
    if (skip_zero && value.is_number() && value.get<double>() == 0) continue;
    table.Add(
        {absl::StrCat("  ", key), value.is_string() ? value.get<std::string>() : value.dump()});
    any = true;
  }
  return any ? table.ToString(color) : std::string();
}

std::string QueueTable(const Json& queues, bool color) {
  TextTable table({"queue", "packets", "depth", "dropped", "user_dropped", "target"},
                  {0, 1, 2, 3, 4});
  for (const Json& q : queues) {
    const auto cell = [&](const char* key) { return q.contains(key) ? q[key].dump() : "?"; };
    table.Add({cell("queue"), cell("packets"), cell("depth"), cell("dropped"), cell("user_dropped"),
               q.value("target", "")});
  }
  return table.ToString(color);
}

// Of the target's reasons the ones that occurred.
std::string ReasonsText(const Json& reasons) {
  std::string text;
  for (const auto& [reason, count] : reasons.items()) {
    if (count != 0) absl::StrAppend(&text, text.empty() ? "" : ", ", reason, " ", count.dump());
  }
  return text;
}

// Of targets with several on-ports.
std::string PortTable(const Json& targets, bool color) {
  TextTable table({"target", "on-port", "packets", "listeners"}, {1, 2});
  bool any = false;
  for (const auto& [name, target] : targets.items()) {
    if (!target.contains("on_ports")) continue;
    for (const Json& port : target.at("on_ports")) {
      std::string listeners;
      for (const Json& what : port.at("listens")) {
        absl::StrAppend(&listeners, listeners.empty() ? "" : ", ", what.get<std::string>());
      }
      table.Add({name,
                 absl::StrCat(port.at("port").dump(), port.at("backup") == true ? " (backup)" : ""),
                 port.at("packets").dump(), listeners.empty() ? "none" : listeners});
      any = true;
    }
  }
  return any ? table.ToString(color) : std::string();
}

// Only where there are several: with one the totals are its own.
std::string TargetTable(const Json& targets, bool color) {
  if (targets.size() < 2) return "";
  TextTable table({"target", "packets", "accepted", "dropped", "reasons"}, {1, 2, 3});
  for (const auto& [name, target] : targets.items()) {
    table.Add({name, target.at("packets").dump(), target.at("verdicts").at("accept").dump(),
               target.at("verdicts").at("drop").dump(), ReasonsText(target.at("reasons"))});
  }
  return table.ToString(color);
}

std::string ToText(const Json& stats, double packets_per_second, bool color) {
  std::string text;
  Json totals = {{"uptime_s", stats.at("uptime_s")},
                 {"packets", stats.at("packets")},
                 {"bytes", stats.at("bytes")},
                 {"accepted", stats.at("verdicts").at("accept")},
                 {"dropped", stats.at("verdicts").at("drop")}};
  if (packets_per_second >= 0) {
    totals["packets_per_second"] = static_cast<uint64_t>(packets_per_second);
  }
  absl::StrAppend(&text, Section("packets", totals, false, color));
  absl::StrAppend(&text, Section("reasons", stats.at("reasons"), true, color));
  const std::string losses = Section("losses", stats.at("losses"), true, color);
  absl::StrAppend(&text, losses.empty() ? "losses  none\n" : losses);
  absl::StrAppend(&text, Section("decided by", stats.at("decided_by"), false, color));
  absl::StrAppend(&text, Section("decide_ns", stats.at("decide_ns"), false, color));
  absl::StrAppend(&text, Section("mirror", stats.at("mirror"), true, color));
  absl::StrAppend(&text, Section("steering", stats.at("steering"), true, color));
  if (stats.contains("fast_path")) {
    absl::StrAppend(
        &text, Section("fast path (in none of the above)", stats.at("fast_path"), false, color));
  }
  absl::StrAppend(&text, TargetTable(stats.at("targets"), color));
  absl::StrAppend(&text, PortTable(stats.at("targets"), color));
  absl::StrAppend(&text, QueueTable(stats.at("queues"), color));
  return text;
}

class StatsCommand : public Command {
 public:
  void Declare(OptionTable& options) override {
    options.Flag("--json", "JSON; one object a second with --watch", &json_, "-j");
    options.Flag("--watch", "again every second, until interrupted", &watch_);
    options.Value("--control", "PATH", "the daemon's control socket",
                  [this](absl::string_view path) {
                    control_ = std::string(path);
                    return absl::OkStatus();
                  });
  }

  absl::StatusOr<int> Run(Environment& env) override {
    double before = -1;
    while (true) {
      ASSIGN_OR_RETURN(const Json stats, Ask());
      const double packets = stats.at("packets").get<double>();
      const double rate = before < 0 ? -1 : packets - before;
      before = packets;
      if (watch_ && !json_ && env.out_is_terminal) env.out << "\x1b[H\x1b[2J";
      env.out << (json_ ? JsonLine(stats) + "\n" : ToText(stats, rate, env.color()));
      env.out.flush();
      if (!watch_ || !env.out.good()) return kExitOk;
      ::sleep(1);
    }
  }

 private:
  absl::StatusOr<Json> Ask() const {
    Json stats;
    RETURN_IF_ERROR(AskDaemon(
        control_, {{"command", "stats"}}, [&](const Json& json) { stats = json; }, kBeginNs));
    if (!stats.contains("packets")) return absl::DataLossError("stats: the daemon did not answer");
    return stats;
  }

  std::string control_ = kDefaultControlPath;
  bool json_ = false;
  bool watch_ = false;
};

}  // namespace

CommandEntry StatsEntry() {
  return {"stats", "what the running daemon has done",
          "Packets and verdicts by reason, losses by cause, how decisions came about, the mirror's "
          "size and age, the queues' depth. Percentiles of decide_ns are upper bounds of powers of "
          "two.",
          "utproxy stats -j", [] { return std::unique_ptr<Command>(new StatsCommand); }};
}

}  // namespace utproxy::tools
