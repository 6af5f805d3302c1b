// SPDX-License-Identifier: GPL-3.0-or-later
#include "trace/filter_parser.h"

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include <charconv>
#include <utility>

#include "base/status.h"

namespace utproxy {
namespace {

constexpr absl::string_view kConditions =
    "proto, host, src, dst, port, sport, dport, verdict, reason, target, queue, mark or iif";

// The text of a word in an error: control characters never reach a terminal.
std::string Quoted(absl::string_view word) {
  return absl::StrCat("'", absl::CHexEscape(word.substr(0, 40)), "'");
}

// Decimal, or with `marks` also 0x hexadecimal and 0 octal; `max` at most.
std::optional<uint32_t> NumberOf(absl::string_view text, uint32_t max, bool marks = false) {
  int base = 10;
  if (marks && absl::StartsWithIgnoreCase(text, "0x")) {
    text.remove_prefix(2);
    base = 16;
  } else if (marks && text.size() > 1 && text[0] == '0') {
    base = 8;
  }
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size() || value > max) return std::nullopt;
  return value;
}

std::optional<uint32_t> ReasonOf(absl::string_view word) {
  for (uint32_t i = 0; i < kReasonCount; ++i) {
    if (word == ReasonName(static_cast<Reason>(i))) return i;
  }
  return std::nullopt;
}

std::string ReasonWords() {
  std::string words;
  for (int i = 0; i < kReasonCount; ++i) {
    absl::StrAppend(&words,
                    i == 0                  ? ""
                    : i + 1 == kReasonCount ? " or "
                                            : ", ",
                    ReasonName(static_cast<Reason>(i)));
  }
  return words;
}

std::optional<uint32_t> ProtoOf(absl::string_view word) {
  if (word == "tcp") return IPPROTO_TCP;
  if (word == "udp") return IPPROTO_UDP;
  return NumberOf(word, 255);
}

std::optional<uint32_t> VerdictOf(absl::string_view word) {
  for (const Verdict verdict : {Verdict::kAccept, Verdict::kDrop}) {
    if (word == VerdictName(verdict)) return static_cast<uint32_t>(verdict);
  }
  return std::nullopt;
}

bool ReadPorts(absl::string_view word, uint32_t* first, uint32_t* last) {
  const std::pair<absl::string_view, absl::string_view> ends =
      absl::StrSplit(word, absl::MaxSplits('-', 1));
  const auto a = NumberOf(ends.first, 65535);
  const auto b = absl::StrContains(word, '-') ? NumberOf(ends.second, 65535) : a;
  if (!a || !b || *a > *b) return false;
  *first = *a;
  *last = *b;
  return true;
}

bool ReadMark(absl::string_view word, uint32_t* value, uint32_t* mask) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(word, absl::MaxSplits('/', 1));
  const auto v = NumberOf(parts.first, UINT32_MAX, true);
  const auto m = absl::StrContains(word, '/') ? NumberOf(parts.second, UINT32_MAX, true)
                                              : std::optional<uint32_t>(UINT32_MAX);
  if (!v || !m) return false;
  *value = *v;
  *mask = *m;
  return true;
}

}  // namespace

absl::StatusOr<Filter> Filter::Compile(absl::string_view text) {
  return FilterParser(text).Parse();
}

absl::Status FilterParser::ErrorAt(const Token& token, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("column ", token.column, ": ", what));
}

// Parentheses and signs are words of their own, with or without blanks around them.
void FilterParser::Split() {
  const auto blank = [](char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); };
  const auto sign = [](char c) { return c == '(' || c == ')' || c == '!'; };
  const auto pair = [this](size_t at) {
    const absl::string_view two = text_.substr(at, 2);
    return two == "&&" || two == "||";
  };
  for (size_t i = 0; i < text_.size();) {
    if (blank(text_[i])) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    if (pair(i)) {
      end = i + 2;
    } else if (!sign(text_[i])) {
      while (end < text_.size() && !blank(text_[end]) && !sign(text_[end]) && !pair(end)) ++end;
    }
    tokens_.push_back({text_.substr(i, end - i), i + 1});
    i = end;
  }
  tokens_.push_back({"", text_.size() + 1});
}

bool FilterParser::Take(absl::string_view word, absl::string_view sign) {
  if (Here().word != word && Here().word != sign) return false;
  if (Here().word.empty()) return false;
  ++next_;
  return true;
}

size_t FilterParser::Add(Node node) {
  filter_.nodes_.push_back(std::move(node));
  return filter_.nodes_.size() - 1;
}

absl::StatusOr<Filter> FilterParser::Parse() {
  if (text_.size() > Filter::kMaxLength) {
    return absl::InvalidArgumentError(
        absl::StrCat("column ", Filter::kMaxLength + 1, ": a filter has at most ",
                     Filter::kMaxLength, " characters: name prefixes rather than addresses"));
  }
  Split();
  if (Here().word.empty()) return std::move(filter_);
  size_t root = 0;
  RETURN_IF_ERROR(Either(0, &root));
  if (Here().word == ")") return ErrorAt(Here(), "')' without its '('");
  if (!Here().word.empty()) {
    return ErrorAt(Here(), absl::StrCat(Quoted(Here().word),
                                        " after a condition: and, or, or the "
                                        "end of the filter"));
  }
  return std::move(filter_);
}

absl::Status FilterParser::Either(int depth, size_t* out) {
  RETURN_IF_ERROR(Both(depth, out));
  while (Take("or", "||")) {
    size_t right = 0;
    RETURN_IF_ERROR(Both(depth, &right));
    *out = Add({.kind = Kind::kOr,
                .a = static_cast<uint32_t>(*out),
                .b = static_cast<uint32_t>(right),
                .prefix = {},
                .word = {}});
  }
  return absl::OkStatus();
}

absl::Status FilterParser::Both(int depth, size_t* out) {
  RETURN_IF_ERROR(Part(depth, out));
  while (Take("and", "&&")) {
    size_t right = 0;
    RETURN_IF_ERROR(Part(depth, &right));
    *out = Add({.kind = Kind::kAnd,
                .a = static_cast<uint32_t>(*out),
                .b = static_cast<uint32_t>(right),
                .prefix = {},
                .word = {}});
  }
  return absl::OkStatus();
}

absl::Status FilterParser::Part(int depth, size_t* out) {
  if (depth > Filter::kMaxDepth) {
    return ErrorAt(Here(), absl::StrCat("more than ", Filter::kMaxDepth,
                                        " parentheses and nots in each other"));
  }
  if (Take("not", "!")) {
    RETURN_IF_ERROR(Part(depth + 1, out));
    *out = Add(
        {.kind = Kind::kNot, .a = static_cast<uint32_t>(*out), .b = 0, .prefix = {}, .word = {}});
    return absl::OkStatus();
  }
  const Token open = Here();
  if (!Take("(", "(")) return Condition(out);
  RETURN_IF_ERROR(Either(depth + 1, out));
  if (Take(")", ")")) return absl::OkStatus();
  if (Here().word.empty()) return ErrorAt(open, "'(' without its ')'");
  return ErrorAt(Here(), absl::StrCat(Quoted(Here().word), " after a condition: and, or, or ')'"));
}

absl::Status FilterParser::Condition(size_t* out) {
  static constexpr struct {
    absl::string_view word;
    Kind kind;
  } kWords[] = {{"proto", Kind::kProto},   {"host", Kind::kHost},       {"src", Kind::kSrc},
                {"dst", Kind::kDst},       {"port", Kind::kPort},       {"sport", Kind::kSport},
                {"dport", Kind::kDport},   {"verdict", Kind::kVerdict}, {"reason", Kind::kReason},
                {"target", Kind::kTarget}, {"queue", Kind::kQueue},     {"mark", Kind::kMark},
                {"iif", Kind::kIif}};
  const Token token = Here();
  for (const auto& [word, kind] : kWords) {
    if (token.word != word) continue;
    ++next_;
    Node node{.kind = kind, .a = 0, .b = 0, .prefix = {}, .word = {}};
    RETURN_IF_ERROR(ReadValue(Here(), &node));
    ++next_;
    *out = Add(std::move(node));
    return absl::OkStatus();
  }
  if (token.word.empty()) {
    return ErrorAt(token, absl::StrCat("a condition is missing: ", kConditions));
  }
  return ErrorAt(token, absl::StrCat(Quoted(token.word), " is no condition: ", kConditions));
}

absl::Status FilterParser::ReadValue(const Token& token, Node* node) const {
  const absl::string_view condition = tokens_[next_ - 1].word;
  if (token.word.empty() || token.word == "(" || token.word == ")" || token.word == "!") {
    return ErrorAt(token, absl::StrCat("a value for ", condition, " is missing"));
  }
  const auto number = [&](std::optional<uint32_t> value, absl::string_view hint) {
    if (value) node->a = *value;
    return value ? absl::OkStatus() : ErrorAt(token, absl::StrCat(Quoted(token.word), hint));
  };
  const auto either = [&](bool good, absl::string_view hint) {
    return good ? absl::OkStatus() : ErrorAt(token, absl::StrCat(Quoted(token.word), hint));
  };
  switch (node->kind) {
    case Kind::kProto:
      return number(ProtoOf(token.word), " is no protocol: tcp, udp, or a number 0 to 255");
    case Kind::kVerdict:
      return number(VerdictOf(token.word), " is no verdict: accept or drop");
    case Kind::kReason:
      return number(ReasonOf(token.word), absl::StrCat(" is no reason: ", ReasonWords()));
    case Kind::kQueue:
      return number(NumberOf(token.word, 65535), " is no queue: a number 0 to 65535");
    case Kind::kPort:
    case Kind::kSport:
    case Kind::kDport:
      return either(ReadPorts(token.word, &node->a, &node->b),
                    " is no port: 0 to 65535, or a range such as 1000-2000");
    case Kind::kMark:
      return either(ReadMark(token.word, &node->a, &node->b),
                    " is no mark: a number such as 1, 0x1 or 0x1/0xff");
    case Kind::kHost:
    case Kind::kSrc:
    case Kind::kDst: {
      const std::optional<Cidr> prefix = ParseCidr(token.word);
      if (prefix) node->prefix = *prefix;
      return either(prefix.has_value(),
                    " is no address: one such as 192.0.2.1 or 2001:db8::1, or a prefix such as "
                    "10.0.0.0/8 with no bits set beyond its length");
    }
    default:
      node->word = std::string(token.word);
      return absl::OkStatus();
  }
}

}  // namespace utproxy
