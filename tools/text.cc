// SPDX-License-Identifier: GPL-3.0-or-later
#include "text.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include <algorithm>

#include "printable.h"

namespace utproxy::tools {
namespace {

// Select Graphic Rendition parameters (ECMA-48, 8.3.117).
const char* Code(Color color) {
  switch (color) {
    case Color::kGood:
      return "32";
    case Color::kBad:
      return "31";
    case Color::kWarning:
      return "33";
    case Color::kFaint:
      return "2";
    case Color::kHeading:
      return "1";
    case Color::kNone:
      break;
  }
  return "0";
}

// Columns on a terminal: bytes of UTF-8 that do not continue a character.
size_t Width(absl::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

std::string Paint(absl::string_view text, Color color, bool enabled) {
  if (!enabled || color == Color::kNone || text.empty()) return std::string(text);
  return absl::StrCat("\x1b[", Code(color), "m", text, "\x1b[0m");
}

std::string Wrap(absl::string_view raw, size_t width, size_t indent) {
  const std::string text = Printable(raw);
  std::string out;
  size_t column = 0;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    const size_t length = Width(word);
    if (column > 0 && column + 1 + length <= width) {
      out += ' ';
      ++column;
    } else {
      if (column > 0) out += '\n';
      out.append(indent, ' ');
      column = indent;
    }
    absl::StrAppend(&out, word);
    column += length;
  }
  return out.empty() ? out : out + "\n";
}

TextTable::TextTable(std::vector<std::string> heading, std::vector<size_t> right_aligned)
    : right_(heading.size()) {
  for (std::string& title : heading) heading_.emplace_back(std::move(title), Color::kHeading);
  for (const size_t column : right_aligned) right_.at(column) = true;
}

void TextTable::Add(std::vector<Cell> row) {
  row.resize(std::min(row.size(), heading_.size()), Cell(""));
  for (Cell& cell : row) cell.text = Printable(cell.text);
  rows_.push_back(std::move(row));
}

std::string TextTable::Row(const std::vector<Cell>& row, const std::vector<size_t>& widths,
                           bool color) const {
  std::string line;
  for (size_t i = 0; i < row.size(); ++i) {
    const std::string pad(widths[i] - Width(row[i].text), ' ');
    const std::string text = Paint(row[i].text, row[i].color, color);
    if (i > 0) line += "  ";
    if (right_[i]) {
      absl::StrAppend(&line, pad, text);
    } else {
      absl::StrAppend(&line, text, i + 1 < row.size() ? pad : "");
    }
  }
  return line + "\n";
}

std::string TextTable::ToString(bool color) const {
  std::vector<size_t> widths(heading_.size());
  for (size_t i = 0; i < heading_.size(); ++i) widths[i] = Width(heading_[i].text);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i].text));
  }
  std::string text = Row(heading_, widths, color);
  for (const auto& row : rows_) text += Row(row, widths, color);
  return text;
}

}  // namespace utproxy::tools
