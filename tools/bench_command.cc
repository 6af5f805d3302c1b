// SPDX-License-Identifier: GPL-3.0-or-later
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <functional>
#include <memory>
#include <ostream>

#include "base/clock.h"
#include "base/status.h"
#include "bench_measure.h"
#include "bench_plot.h"
#include "bench_space.h"
#include "command.h"
#include "commands.h"
#include "daemon/json.h"
#include "text.h"
#include "values.h"

namespace utproxy::tools {
namespace {

constexpr std::array kContestants = {Contestant::kAcceptAll, Contestant::kKernel,
                                     Contestant::kUtproxy};

const char* NameOf(Contestant contestant) {
  switch (contestant) {
    case Contestant::kAcceptAll:
      return "accept-all";
    case Contestant::kKernel:
      return "kernel TPROXY";
    case Contestant::kUtproxy:
      return "utproxy";
  }
  return "";
}

struct Measure {
  std::string name, unit;
  bool needs_queue;
  std::function<absl::StatusOr<double>(Contestant)> run;
};

class BenchCommand : public Command {
 public:
  void Declare(OptionTable& options) override {
    options.Flag("--json", "one JSON object", &json_, "-j");
    options.Value("--plot", "FILE.svg", "draw the figures", [this](absl::string_view path) {
      plot_ = std::string(path);
      return absl::OkStatus();
    });
    options.Value("--rounds", "N", "1 to 99 (3)", [this](absl::string_view text) -> absl::Status {
      ASSIGN_OR_RETURN(rounds_, ParseNumber(text, "rounds", 1, 99));
      return absl::OkStatus();
    });
    options.Flag("--tiny", "little of everything, to see whether it works", &tiny_);
  }

  absl::StatusOr<int> Run(Environment& env) override {
    // Opened first: that it cannot be written is not to be said after half a minute.
    std::ofstream plot(plot_);
    if (!plot_.empty() && !plot) return ErrnoStatus(errno, absl::StrCat("write ", plot_));
    ASSIGN_OR_RETURN(const BenchSpace space, BenchSpace::Enter());
    const std::vector<Measure> measures = Measures(space);
    std::vector<BenchRow> rows = Rows(measures);
    for (uint32_t round = 0; round < (tiny_ ? 1 : rounds_); ++round) {
      RETURN_IF_ERROR(RunRound(measures, round, &rows));
    }
    if (!plot_.empty() && !(plot << PlotSvg(rows) << std::flush)) {
      return ErrnoStatus(errno, absl::StrCat("write ", plot_));
    }
    if (json_) {
      env.out << JsonLine(AsJson(rows)) << "\n";
    } else {
      Print(rows, env);
    }
    return kExitOk;
  }

 private:
  std::vector<Measure> Measures(const BenchSpace& space) const {
    const size_t packets = tiny_ ? 1000 : 50000;
    const int64_t duration_ns = tiny_ ? 50 * kNsPerMs : kNsPerSec;
    std::vector<Measure> measures;
    for (const size_t flows : {size_t{1}, size_t{1000}}) {
      measures.push_back({absl::StrCat("drain, ", flows, flows == 1 ? " flow" : " flows"), "kpps",
                          true, [&space, packets, flows](Contestant c) {
                            return MeasureDrain(space, c, packets, flows);
                          }});
    }
    measures.push_back(
        {"bulk, 8 connections", "Gbit/s", false,
         [&space, duration_ns](Contestant c) { return MeasureBulk(space, c, 8, duration_ns); }});
    return measures;
  }

  static std::vector<BenchRow> Rows(const std::vector<Measure>& measures) {
    std::vector<BenchRow> rows;
    for (const Measure& measure : measures) {
      for (const Contestant contestant : kContestants) {
        rows.push_back({measure.name, measure.unit, NameOf(contestant), {}});
      }
    }
    return rows;
  }

  // Every contestant in turn, another one first each round.
  static absl::Status RunRound(const std::vector<Measure>& measures, size_t round,
                               std::vector<BenchRow>* rows) {
    for (size_t m = 0; m < measures.size(); ++m) {
      for (size_t i = 0; i < kContestants.size(); ++i) {
        const size_t c = (i + round) % kContestants.size();
        if (measures[m].needs_queue && kContestants[c] == Contestant::kKernel) continue;
        ASSIGN_OR_RETURN(const double value, measures[m].run(kContestants[c]));
        (*rows)[m * kContestants.size() + c].values.push_back(value);
      }
    }
    return absl::OkStatus();
  }

  static Json AsJson(const std::vector<BenchRow>& rows) {
    Json results = Json::array();
    for (const BenchRow& row : rows) {
      if (row.values.empty()) continue;
      results.push_back({{"measure", row.measure},
                         {"unit", row.unit},
                         {"contestant", row.contestant},
                         {"median", row.median()},
                         {"lowest", row.lowest()},
                         {"highest", row.highest()},
                         {"rounds", row.values}});
    }
    return {{"results", results}};
  }

  static void Print(const std::vector<BenchRow>& rows, Environment& env) {
    TextTable table({"measure", "contestant", "median", "lowest", "highest", "unit"}, {2, 3, 4});
    const auto number = [](double value) { return absl::StrFormat("%.1f", value); };
    for (const BenchRow& row : rows) {
      if (row.values.empty()) {
        table.Add({row.measure, row.contestant, "-", "-", "-", "has no queue"});
      } else {
        table.Add({row.measure, row.contestant, number(row.median()), number(row.lowest()),
                   number(row.highest()), row.unit});
      }
    }
    env.out << table.ToString(env.color());
  }

  bool json_ = false, tiny_ = false;
  uint32_t rounds_ = 3;
  std::string plot_;
};

}  // namespace

CommandEntry BenchEntry() {
  return {"bench", "throughput of this machine, beside the kernel's TPROXY and a bare queue",
          "In network namespaces of its own, which go when it ends, however it ends: how fast a "
          "queue of small datagrams is drained, and TCP in bulk, by a queue that accepts all "
          "packets (the limit), by the kernel's TPROXY and by utproxy, in turn; medians of the "
          "rounds. Takes less than half a minute. Figures compare within one run only.",
          "utproxy bench --plot figures.svg",
          [] { return std::unique_ptr<Command>(new BenchCommand); }};
}

}  // namespace utproxy::tools
