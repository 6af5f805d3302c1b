// SPDX-License-Identifier: GPL-3.0-or-later
#include "bench_plot.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <algorithm>

namespace utproxy::tools {
namespace {

constexpr int kLeft = 130, kWidth = 560, kStep = 22;
constexpr char kOurs[] = "#1b7837", kTheirs[] = "#8c8c8c", kInk[] = "#222";

std::string Text(int x, int y, const char* anchor, absl::string_view words) {
  return absl::StrFormat("<text x=\"%d\" y=\"%d\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", x, y,
                         anchor, kInk, words);
}

std::string Bar(double x, int y, double width, int height, const char* colour) {
  return absl::StrFormat("<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n",
                         x, y, width, height, colour);
}

double Longest(const std::vector<BenchRow>& rows, const std::string& measure) {
  double longest = 0;
  for (const BenchRow& row : rows) {
    if (row.measure == measure && !row.values.empty()) longest = std::max(longest, row.highest());
  }
  return longest;
}

}  // namespace

double BenchRow::median() const {
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const size_t n = sorted.size();
  return n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}
double BenchRow::lowest() const { return *std::min_element(values.begin(), values.end()); }
double BenchRow::highest() const { return *std::max_element(values.begin(), values.end()); }

std::string PlotSvg(const std::vector<BenchRow>& rows) {
  std::string body, measure;
  int y = 10;
  for (const BenchRow& row : rows) {
    if (row.values.empty()) continue;
    if (row.measure != measure) {
      measure = row.measure;
      absl::StrAppend(&body, Text(12, y + 16, "start", absl::StrCat(measure, ", ", row.unit)));
      y += 26;
    }
    const double unit = (kWidth - kLeft - 70) / Longest(rows, measure);
    absl::StrAppend(
        &body, Text(kLeft - 8, y + 12, "end", row.contestant),
        Bar(kLeft, y, row.median() * unit, kStep - 7,
            row.contestant == "utproxy" ? kOurs : kTheirs),
        Bar(kLeft + row.lowest() * unit, y + 7, (row.highest() - row.lowest()) * unit, 1, kInk),
        Text(static_cast<int>(kLeft + row.highest() * unit) + 8, y + 12, "start",
             absl::StrFormat("%.1f", row.median())));
    y += kStep;
  }
  return absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n%s</svg>\n",
      kWidth, y + 10, body);
}

}  // namespace utproxy::tools
