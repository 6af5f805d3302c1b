// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TRACE_FILTER_PARSER_H_
#define UTPROXY_TRACE_FILTER_PARSER_H_

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "trace/filter.h"

namespace utproxy {

// Compiles one filter by recursive descent:
//   either := both { "or" both }     both := part { "and" part }
//   part   := "not" part | "(" either ")" | condition
class FilterParser {
 public:
  explicit FilterParser(absl::string_view text) : text_(text) {}
  absl::StatusOr<Filter> Parse();

 private:
  using Kind = Filter::Kind;
  using Node = Filter::Node;
  struct Token {
    absl::string_view word;  // empty at the end
    size_t column;           // from 1
  };

  void Split();
  const Token& Here() const { return tokens_[next_]; }
  bool Take(absl::string_view word, absl::string_view sign);
  // Each leaves the index of its node in `*out`.
  absl::Status Either(int depth, size_t* out);
  absl::Status Both(int depth, size_t* out);
  absl::Status Part(int depth, size_t* out);
  absl::Status Condition(size_t* out);
  absl::Status ReadValue(const Token& token, Node* node) const;
  size_t Add(Node node);
  static absl::Status ErrorAt(const Token& token, absl::string_view what);

  const absl::string_view text_;
  std::vector<Token> tokens_;
  size_t next_ = 0;
  Filter filter_;
};

}  // namespace utproxy

#endif  // UTPROXY_TRACE_FILTER_PARSER_H_
