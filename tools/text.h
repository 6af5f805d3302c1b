// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_TEXT_H_
#define UTPROXY_TOOLS_TEXT_H_

#include <absl/strings/string_view.h>

#include <string>
#include <vector>

namespace utproxy::tools {

enum class Color { kNone, kGood, kBad, kWarning, kFaint, kHeading };

// `text` in a colour of the terminal; unchanged where `enabled` is false (see Environment::color).
std::string Paint(absl::string_view text, Color color, bool enabled);

// `text` broken at blanks into lines of at most `width` columns, each with `indent` blanks in front
// and a newline behind. A word longer than a line has one of its own. What must not reach a
// terminal is made printable, also in the cells below.
std::string Wrap(absl::string_view text, size_t width, size_t indent);

// Text in aligned columns, two blanks apart, the last one not padded.
class TextTable {
 public:
  struct Cell {
    Cell(std::string t, Color c = Color::kNone) : text(std::move(t)), color(c) {}
    Cell(const char* t, Color c = Color::kNone) : text(t), color(c) {}
    std::string text;
    Color color;
  };

  // Right-aligned columns, such as numbers, are named by index.
  explicit TextTable(std::vector<std::string> heading, std::vector<size_t> right_aligned = {});
  // A row shorter than the heading ends early; more cells than it has are ignored.
  void Add(std::vector<Cell> row);
  std::string ToString(bool color) const;

 private:
  std::string Row(const std::vector<Cell>& row, const std::vector<size_t>& widths,
                  bool color) const;

  std::vector<Cell> heading_;
  std::vector<bool> right_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_TEXT_H_
