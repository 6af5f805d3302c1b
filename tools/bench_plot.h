// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_BENCH_PLOT_H_
#define UTPROXY_TOOLS_BENCH_PLOT_H_

#include <string>
#include <vector>

namespace utproxy::tools {

// One row of the result: a contestant in a case, of all rounds.
struct BenchRow {
  std::string measure;  // "drain, 1 flow"
  std::string unit;     // "kpps"
  std::string contestant;
  std::vector<double> values;  // one a round; empty where the case is not for this contestant

  double median() const;
  double lowest() const;
  double highest() const;
};

// An SVG page: a panel a measure, a bar a row, with a line from the lowest to the highest round.
// Rows of a measure follow each other. Names are the program's own and hold no markup.
std::string PlotSvg(const std::vector<BenchRow>& rows);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_BENCH_PLOT_H_
