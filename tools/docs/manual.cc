// SPDX-License-Identifier: GPL-3.0-or-later
#include "docs/manual.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/str_split.h>
#include <absl/strings/strip.h>

#include <vector>

#include "base/status.h"
#include "commands.h"
#include "config_table.h"
#include "daemon_words.h"

namespace utproxy::tools {
namespace {

// What scdoc takes for markup is shown as it is.
std::string Escaped(absl::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (absl::StrContains("*_\\#|[]+~.", c)) escaped += '\\';
    escaped += c;
  }
  return escaped;
}

std::string Bold(absl::string_view text) { return absl::StrCat("*", Escaped(text), "*"); }
std::string Underlined(absl::string_view text) { return absl::StrCat("_", Escaped(text), "_"); }

std::string Header(absl::string_view section, absl::string_view name, absl::string_view summary) {
  return absl::StrCat(name, "(", section, ") \"utproxy ", UTPROXY_VERSION, "\" \"utproxy\"\n\n",
                      "# NAME\n\n", name, " - ", summary, "\n");
}

void AppendOption(std::string* text, const Option& option) {
  absl::StrAppend(text, "\n");
  if (!option.short_name.empty()) absl::StrAppend(text, Bold(option.short_name), ", ");
  absl::StrAppend(text, Bold(option.name));
  if (!option.placeholder.empty()) absl::StrAppend(text, " ", Underlined(option.placeholder));
  absl::StrAppend(text, "\n\t", Escaped(option.help), "\n");
}

std::string Options(const OptionTable& options) {
  std::string text;
  if (!options.positionals().empty()) absl::StrAppend(&text, "\n# ARGUMENTS\n");
  for (const Positional& p : options.positionals()) {
    absl::StrAppend(&text, "\n", Underlined(p.placeholder), "\n\t", Escaped(p.help), "\n");
  }
  absl::StrAppend(&text, "\n# OPTIONS\n");
  const std::string* section = nullptr;
  for (const Option& option : options.options()) {
    if (section == nullptr || *section != option.section) {
      absl::StrAppend(&text, "\n## ", option.section, "\n");
    }
    section = &option.section;
    AppendOption(&text, option);
  }
  return text;
}

absl::StatusOr<CommandEntry> EntryOf(absl::string_view name) {
  for (const CommandEntry& entry : Commands()) {
    if (entry.name == name) return entry;
  }
  return absl::NotFoundError(absl::StrCat(name, ": no such command"));
}

std::string Head(const CommandEntry& entry) {
  OptionTable options;
  const std::unique_ptr<Command> command = MakeCommand(entry, &options);
  return absl::StrCat(Header("8", absl::StrCat("utproxy-", entry.name), entry.summary),
                      "\n# SYNOPSIS\n\n", Bold(absl::StrCat("utproxy ", entry.name)), " ",
                      Escaped(options.Synopsis()), "\n\n# DESCRIPTION\n\n",
                      Escaped(absl::StrReplaceAll(entry.details, {{"\n", " "}})), "\n",
                      Options(options));
}

// The other pages. utproxy.toml(5) for those commands that read such a file.
std::string SeeAlso(const CommandEntry& entry, const OptionTable& options) {
  std::vector<std::string> pages = {Bold("utproxy") + "(8)"};
  for (const CommandEntry& other : Commands()) {
    if (other.name == entry.name) continue;
    pages.push_back(absl::StrCat(Bold(absl::StrCat("utproxy-", other.name)), "(8)"));
  }
  for (const Option& option : options.options()) {
    if (option.name == "--config") pages.push_back(Bold("utproxy.toml") + "(5)");
  }
  return absl::StrJoin(pages, ", ");
}

std::string Tail(const CommandEntry& entry) {
  OptionTable options;
  const std::unique_ptr<Command> command = MakeCommand(entry, &options);
  std::string text =
      "# EXIT STATUS\n\n*0* where it is done, *1* where it could not be done, *2* where the words "
      "were wrong.\n\n# EXAMPLE\n\n```\n";
  absl::StrAppend(&text, entry.example, "\n```\n\n# SEE ALSO\n\n", SeeAlso(entry, options), "\n");
  return text;
}

std::string CommandRows() {
  std::vector<std::string> rows;
  for (const CommandEntry& entry : Commands()) {
    rows.push_back(absl::StrCat(Bold(absl::StrCat("utproxy-", entry.name)), "(8)\n\t",
                                Escaped(entry.summary), "\n"));
  }
  return absl::StrJoin(rows, "\n");
}

// "PORT", but true or false of an option that has no value on the command line.
std::string ValueText(const Option& option) {
  if (option.placeholder.empty()) return "true|false";
  return option.repeatable ? absl::StrCat(option.placeholder, " or an array of them")
                           : option.placeholder;
}

std::string KeyRows(const OptionTable& table, absl::string_view file_table) {
  std::vector<std::string> rows;
  for (const Option& option : table.options()) {
    if (option.file_table != file_table) continue;
    const std::string key = option.FileName();
    rows.push_back(absl::StrCat(Bold(key), " = ", Underlined(ValueText(option)), "\n\t",
                                Escaped(InFileWords(option.help, table)), "\n"));
  }
  return absl::StrJoin(rows, "\n");
}

absl::StatusOr<std::string> Keys(absl::string_view which) {
  if (which == "daemon") {
    DaemonWords words;
    OptionTable table;
    AddDaemonWords(table, &words);
    return KeyRows(table, "");
  }
  const ParsedTarget target;
  if (which == "target") return KeyRows(target.table, "");
  if (which == "match") return KeyRows(target.table, "match");
  return absl::NotFoundError(absl::StrCat("@keys ", which, "@: no such keys"));
}

// What a line "@...@" stands for, given what is between the two signs.
absl::StatusOr<std::string> Expanded(absl::string_view directive) {
  const std::vector<std::string> words = absl::StrSplit(directive, absl::MaxSplits(' ', 3));
  if (words[0] == "commands" && words.size() == 1) return CommandRows();
  if (words[0] == "page" && words.size() == 4) return Header(words[1], words[2], words[3]);
  if (words[0] == "keys" && words.size() == 2) return Keys(words[1]);
  if ((words[0] == "head" || words[0] == "tail") && words.size() == 2) {
    ASSIGN_OR_RETURN(const CommandEntry entry, EntryOf(words[1]));
    return words[0] == "head" ? Head(entry) : Tail(entry);
  }
  return absl::InvalidArgumentError(absl::StrCat("@", directive, "@: stands for nothing"));
}

}  // namespace

absl::StatusOr<std::string> ManualPage(absl::string_view page) {
  std::string text;
  for (absl::string_view line : absl::StrSplit(absl::StripSuffix(page, "\n"), '\n')) {
    if (line.size() > 2 && absl::ConsumePrefix(&line, "@") && absl::ConsumeSuffix(&line, "@")) {
      ASSIGN_OR_RETURN(const std::string expanded, Expanded(line));
      absl::StrAppend(&text, expanded);
    } else {
      absl::StrAppend(&text, line, "\n");
    }
  }
  return text;
}

}  // namespace utproxy::tools
