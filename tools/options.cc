// SPDX-License-Identifier: GPL-3.0-or-later
#include "options.h"

#include <absl/strings/cord.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/str_split.h>
#include <absl/strings/strip.h>

#include <algorithm>

#include "base/status.h"

namespace utproxy::tools {
namespace {

constexpr char kUsageUrl[] = "utproxy/usage";
constexpr char kMoreUrl[] = "utproxy/more-errors";  // a line each

// "-" alone is an argument, as it names standard input elsewhere.
bool LooksLikeOption(absl::string_view word) { return word.size() > 1 && word[0] == '-'; }

absl::Status Refuse(absl::string_view where, const absl::Status& why) {
  absl::Status status = UsageError(absl::StrCat(where, ": ", why.message()));
  const std::string remedy = RemedyOf(why);
  return remedy.empty() ? status : WithRemedy(std::move(status), remedy);
}

std::string Label(const Option& option) {
  std::string label = option.short_name.empty() ? std::string("    ") : option.short_name + ", ";
  absl::StrAppend(&label, option.name);
  if (!option.placeholder.empty()) absl::StrAppend(&label, " ", option.placeholder);
  return label;
}

void AppendRow(std::string* text, absl::string_view label, absl::string_view help, size_t width) {
  absl::StrAppend(text, "  ", label);
  if (label.size() > width) {
    absl::StrAppend(text, "\n", std::string(2 + width, ' '));
  } else {
    text->append(width - label.size(), ' ');
  }
  absl::StrAppend(text, "  ", help, "\n");
}

}  // namespace

absl::Status UsageError(absl::string_view message) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kUsageUrl, absl::Cord());
  return status;
}

bool IsUsageError(const absl::Status& status) { return status.GetPayload(kUsageUrl).has_value(); }

std::string Option::Key() const {
  return absl::StrReplaceAll(absl::StripPrefix(name, "--"), {{"-", "_"}});
}

absl::Status UsageErrors(const std::vector<std::string>& messages) {
  absl::Status status = UsageError(messages.front());
  const auto more = absl::MakeConstSpan(messages).subspan(1);
  if (!more.empty()) status.SetPayload(kMoreUrl, absl::Cord(absl::StrJoin(more, "\n")));
  return status;
}

std::vector<std::string> MoreErrorsOf(const absl::Status& status) {
  const absl::optional<absl::Cord> more = status.GetPayload(kMoreUrl);
  if (!more) return {};
  return absl::StrSplit(std::string(*more), '\n');
}

Option& OptionTable::Value(absl::string_view name, absl::string_view placeholder,
                           absl::string_view help, Setter set) {
  options_.push_back({.name = std::string(name),
                      .short_name = "",
                      .placeholder = std::string(placeholder),
                      .help = std::string(help),
                      .section = section_,
                      .set = std::move(set)});
  return options_.back();
}

Option& OptionTable::Flag(absl::string_view name, absl::string_view help,
                          std::function<void()> set) {
  options_.push_back({.name = std::string(name),
                      .short_name = "",
                      .placeholder = "",
                      .help = std::string(help),
                      .section = section_,
                      .set = [set = std::move(set)](absl::string_view) {
                        set();
                        return absl::OkStatus();
                      }});
  return options_.back();
}

Option& OptionTable::Flag(absl::string_view name, absl::string_view help, bool* value,
                          absl::string_view short_name) {
  Option& option = Flag(name, help, [value] { *value = true; });
  option.short_name = std::string(short_name);
  return option;
}

void OptionTable::NoteFirstGiven(size_t from, std::string* first) {
  for (size_t i = from; i < options_.size(); ++i) {
    options_[i].set = [first, name = options_[i].name,
                       set = std::move(options_[i].set)](absl::string_view value) {
      if (first->empty()) *first = name;
      return set(value);
    };
  }
}

const Option* OptionTable::Find(absl::string_view name) const {
  const auto it = std::find_if(options_.begin(), options_.end(), [name](const Option& option) {
    return option.name == name || (!option.short_name.empty() && option.short_name == name);
  });
  return it == options_.end() ? nullptr : &*it;
}

absl::Status OptionTable::ParseOption(absl::Span<const std::string> args, size_t* index) const {
  const std::string& word = args[*index];
  const size_t equals = absl::StartsWith(word, "--") ? word.find('=') : std::string::npos;
  const std::string name = word.substr(0, equals);
  const Option* option = Find(name);
  if (option == nullptr) return UsageError(absl::StrCat(name, ": unknown option"));
  if (option->placeholder.empty()) {
    if (equals != std::string::npos) return UsageError(absl::StrCat(word, ": takes no value"));
    return option->set("");
  }
  std::string value;
  if (equals != std::string::npos) {
    value = word.substr(equals + 1);
  } else if (*index + 1 < args.size()) {
    value = args[++*index];
  } else {
    return UsageError(absl::StrCat(name, ": ", option->placeholder, " is missing"));
  }
  if (absl::Status status = option->set(value); !status.ok()) {
    return Refuse(absl::StrCat(name, " ", value), status);
  }
  return absl::OkStatus();
}

absl::Status OptionTable::SetArgument(const std::string& word, size_t* next) const {
  if (*next >= positionals_.size()) {
    return UsageError(absl::StrCat(word, ": unexpected argument"));
  }
  const Positional& positional = positionals_[*next];
  if (!positional.repeated) ++*next;
  if (absl::Status status = positional.set(word); !status.ok()) return Refuse(word, status);
  return absl::OkStatus();
}

absl::Status OptionTable::Parse(absl::Span<const std::string> args) const {
  bool options_end = false;
  size_t next = 0;
  size_t arguments = 0;
  for (size_t i = 0; i < args.size(); ++i) {
    if (!options_end && args[i] == "--") {
      options_end = true;
    } else if (!options_end && LooksLikeOption(args[i])) {
      RETURN_IF_ERROR(ParseOption(args, &i));
    } else {
      RETURN_IF_ERROR(SetArgument(args[i], &next));
      ++arguments;
    }
  }
  if (arguments < positionals_.size() && positionals_[arguments].required) {
    return UsageError(absl::StrCat(positionals_[arguments].placeholder, ": missing"));
  }
  return absl::OkStatus();
}

std::string OptionTable::Synopsis() const {
  std::string text = options_.empty() ? "" : "[OPTION]...";
  for (const Positional& p : positionals_) {
    if (!text.empty()) text += ' ';
    const std::string word = p.repeated ? p.placeholder + "..." : p.placeholder;
    absl::StrAppend(&text, p.required ? word : absl::StrCat("[", word, "]"));
  }
  return text;
}

std::string OptionTable::Help() const {
  size_t width = 0;
  constexpr size_t kWidest = 30;
  for (const Option& o : options_) width = std::max(width, std::min(Label(o).size(), kWidest));
  for (const Positional& p : positionals_) width = std::max(width, p.placeholder.size());
  std::string text;
  if (!positionals_.empty()) absl::StrAppend(&text, "Arguments:\n");
  for (const Positional& p : positionals_) AppendRow(&text, p.placeholder, p.help, width);
  const std::string* section = nullptr;
  for (const Option& o : options_) {
    if (section == nullptr || *section != o.section) {
      absl::StrAppend(&text, text.empty() ? "" : "\n", o.section, ":\n");
    }
    section = &o.section;
    AppendRow(&text, Label(o), o.help, width);
  }
  return text;
}

}  // namespace utproxy::tools
