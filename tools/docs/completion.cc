// SPDX-License-Identifier: GPL-3.0-or-later
#include "docs/completion.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>

#include <algorithm>

namespace utproxy::tools {
namespace {

// "drop|accept", but not "N|N:M".
bool IsWordList(absl::string_view placeholder) {
  return absl::StrContains(placeholder, '|') &&
         std::all_of(placeholder.begin(), placeholder.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || c == '_' || c == '|'; });
}

Offer OfferForPlaceholder(absl::string_view placeholder) {
  if (IsWordList(placeholder)) return {Offer::Kind::kWords, absl::StrSplit(placeholder, '|')};
  if (placeholder == "USER") return {Offer::Kind::kUsers, {}};
  for (const char* file : {"FILE", "PATH", "CAPTURE", "SNAPSHOT"}) {
    if (absl::StartsWith(placeholder, file)) return {Offer::Kind::kFiles, {}};
  }
  return {};
}

std::string CommandNames() {
  return absl::StrJoin(Commands(), " ", [](std::string* out, const CommandEntry& entry) {
    absl::StrAppend(out, entry.name);
  });
}

// What assigns the words that bash offers, of those that begin with $cur, to COMPREPLY. Only the
// program's own words may be compgen -W's, which expands them.
std::string BashReply(const Offer& offer) {
  switch (offer.kind) {
    case Offer::Kind::kNothing:
      return "";
    case Offer::Kind::kWords:
      return absl::StrCat("mapfile -t COMPREPLY < <(compgen -W '", absl::StrJoin(offer.words, " "),
                          "' -- \"$cur\")");
    case Offer::Kind::kFiles:
      return "compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")";
    case Offer::Kind::kInterfaces:
      return "_utproxy_offer < <(cd /sys/class/net && printf '%s\\n' *)";
    case Offer::Kind::kUsers:
      return "_utproxy_offer < <(compgen -u)";
  }
  return "";
}

// The cases of one command: after an option that takes a value, of a word that begins with "-", and
// of an argument, of which the first one that a shell can help with stands for all.
void AppendBashCommand(std::string* text, const CommandEntry& entry) {
  OptionTable table;
  const std::unique_ptr<Command> command = MakeCommand(entry, &table);
  std::vector<std::string> names;
  for (const Option& option : table.options()) {
    names.push_back(option.name);
    if (!option.short_name.empty()) names.push_back(option.short_name);
    if (option.placeholder.empty()) continue;
    const std::string reply = BashReply(OfferFor(option));
    absl::StrAppend(text, "    '", entry.name, " ", option.name, "')", reply.empty() ? "" : " ",
                    reply, " ;;\n");
  }
  std::string argument;
  for (const Positional& p : table.positionals()) {
    if (argument.empty()) argument = BashReply(OfferFor(p));
  }
  const std::string options = BashReply({Offer::Kind::kWords, names});
  absl::StrAppend(text, "    '", entry.name, " '*)\n");
  if (argument.empty()) {
    absl::StrAppend(text, "      ", options, " ;;\n");
  } else {
    absl::StrAppend(text, "      if [[ $cur == -* ]]; then ", options, "\n      else ", argument,
                    "; fi ;;\n");
  }
}

// A word of zsh's _arguments: what ends a description or a message is shown as it is.
std::string ZshText(absl::string_view text) {
  std::string quoted;
  for (const char c : text) {
    if (c == '\'') {
      quoted += "'\\''";
      continue;
    }
    if (absl::StrContains("[]:\\", c)) quoted += '\\';
    quoted += c;
  }
  return quoted;
}

std::string ZshAction(const Offer& offer) {
  switch (offer.kind) {
    case Offer::Kind::kNothing:
      return " ";
    case Offer::Kind::kWords:
      return absl::StrCat("(", absl::StrJoin(offer.words, " "), ")");
    case Offer::Kind::kFiles:
      return "_files";
    case Offer::Kind::kInterfaces:
      return "_net_interfaces";
    case Offer::Kind::kUsers:
      return "_users";
  }
  return " ";
}

void AppendZshCommand(std::string* text, const CommandEntry& entry) {
  OptionTable table;
  const std::unique_ptr<Command> command = MakeCommand(entry, &table);
  absl::StrAppend(text, "    ", entry.name, ")\n      _arguments -s");
  for (const Option& option : table.options()) {
    const bool value = !option.placeholder.empty();
    const std::string behind =
        absl::StrCat("[", ZshText(option.help), "]", value ? ":" : "", ZshText(option.placeholder),
                     value ? ":" : "", value ? ZshAction(OfferFor(option)) : "");
    absl::StrAppend(text, " \\\n        '", option.repeatable ? "*" : "", option.name,
                    value ? "=" : "", behind, "'");
    if (!option.short_name.empty()) {
      absl::StrAppend(text, " \\\n        '", option.short_name, behind, "'");
    }
  }
  for (const Positional& p : table.positionals()) {
    absl::StrAppend(text, " \\\n        '", p.repeated ? "*" : "", ":", ZshText(p.placeholder), ":",
                    ZshAction(OfferFor(p)), "'");
  }
  absl::StrAppend(text, " ;;\n");
}

std::string FishText(absl::string_view text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "'";
}

// The switches of fish's `complete` for a value or an argument.
std::string FishOffer(const Offer& offer) {
  switch (offer.kind) {
    case Offer::Kind::kNothing:
      return "";
    case Offer::Kind::kWords:
      return absl::StrCat(" -a ", FishText(absl::StrJoin(offer.words, " ")));
    case Offer::Kind::kFiles:
      return " -F";
    case Offer::Kind::kInterfaces:
      return " -a '(__fish_print_interfaces)'";
    case Offer::Kind::kUsers:
      return " -a '(__fish_complete_users)'";
  }
  return "";
}

void AppendFishCommand(std::string* text, const CommandEntry& entry) {
  OptionTable table;
  const std::unique_ptr<Command> command = MakeCommand(entry, &table);
  const std::string complete =
      absl::StrCat("complete -c utproxy -n '__utproxy_command ", entry.name, "'");
  for (const Option& option : table.options()) {
    absl::StrAppend(text, complete, " -l ", option.name.substr(2));
    if (!option.short_name.empty()) absl::StrAppend(text, " -s ", option.short_name.substr(1));
    if (!option.placeholder.empty()) {
      const Offer offer = OfferFor(option);
      absl::StrAppend(text, offer.kind == Offer::Kind::kFiles ? " -r" : " -x", FishOffer(offer));
    }
    absl::StrAppend(text, " -d ", FishText(option.help), "\n");
  }
  for (const Positional& p : table.positionals()) {
    const std::string offer = FishOffer(OfferFor(p));
    if (!offer.empty()) absl::StrAppend(text, complete, offer, "\n");
  }
}

constexpr char kBashHead[] =
    R"(# utproxy(8): completion for bash, made from the program's own table of options
# Of the lines of its input those that begin with $cur, quoted. Others choose them: a network
# interface may be called '$(reboot)', so they are neither expanded here nor once they are inserted.
_utproxy_offer() {
  local word quoted
  while IFS= read -r word; do
    printf -v quoted %q "$word"
    if [[ $word == "$cur"* || $quoted == "$cur"* ]]; then COMPREPLY+=("$quoted"); fi
  done
}
_utproxy() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=
  COMPREPLY=()
  [ "$COMP_CWORD" -gt 1 ] && prev=${COMP_WORDS[COMP_CWORD - 1]}
  # bash takes --name=value for three words.
  if [ "$cur" = = ]; then cur=
  elif [ "$prev" = = ]; then prev=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  if [ "$COMP_CWORD" -eq 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W ')";

constexpr char kBashMiddle[] = R"( --help --version' -- "$cur")
    return
  fi
  case "${COMP_WORDS[1]} $prev" in
)";

constexpr char kFishHead[] =
    R"(# utproxy(8): completion for fish, made from the program's own table of options
function __utproxy_command
    set -l words (commandline -opc)
    test (count $words) -ge 2; and contains -- $words[2] $argv
end
function __utproxy_no_command
    test (count (commandline -opc)) -eq 1
end
complete -c utproxy -f
complete -c utproxy -n __utproxy_no_command -s h -l help -d 'what commands there are'
complete -c utproxy -n __utproxy_no_command -s V -l version -d 'the version'
)";

}  // namespace

Offer OfferFor(const Option& option) {
  if (option.name == "--iif") return {Offer::Kind::kInterfaces, {}};
  return OfferForPlaceholder(option.placeholder);
}

Offer OfferFor(const Positional& argument) { return OfferForPlaceholder(argument.placeholder); }

std::string BashCompletion() {
  std::string text = absl::StrCat(kBashHead, CommandNames(), kBashMiddle);
  for (const CommandEntry& entry : Commands()) AppendBashCommand(&text, entry);
  absl::StrAppend(&text, "  esac\n}\ncomplete -F _utproxy utproxy\n");
  return text;
}

std::string ZshCompletion() {
  std::string text =
      "#compdef utproxy\n"
      "# utproxy(8): completion for zsh, made from the program's own table of options\n"
      "_utproxy() {\n  local -a commands=(\n";
  for (const CommandEntry& entry : Commands()) {
    absl::StrAppend(&text, "    '", entry.name, ":", ZshText(entry.summary), "'\n");
  }
  absl::StrAppend(&text,
                  "  )\n  if (( CURRENT == 2 )); then\n    _describe -t commands command commands\n"
                  "    _arguments '--help[what commands there are]' '--version[the version]'\n"
                  "    return\n  fi\n"
                  "  local name=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $name in\n");
  for (const CommandEntry& entry : Commands()) AppendZshCommand(&text, entry);
  absl::StrAppend(&text, "  esac\n}\n_utproxy \"$@\"\n");
  return text;
}

std::string FishCompletion() {
  std::string text = kFishHead;
  for (const CommandEntry& entry : Commands()) {
    absl::StrAppend(&text, "complete -c utproxy -n __utproxy_no_command -a ", entry.name, " -d ",
                    FishText(entry.summary), "\n");
  }
  for (const CommandEntry& entry : Commands()) AppendFishCommand(&text, entry);
  return text;
}

}  // namespace utproxy::tools
