// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_OPTIONS_H_
#define UTPROXY_TOOLS_OPTIONS_H_

#include <absl/status/status.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <functional>
#include <string>
#include <vector>

namespace utproxy::tools {

// An error in how the program was called: the command line exits with 2 for these.
absl::Status UsageError(absl::string_view message);
bool IsUsageError(const absl::Status& status);
// Several of them, in one status: its message is the first, and MoreErrorsOf has the others.
absl::Status UsageErrors(const std::vector<std::string>& messages);
std::vector<std::string> MoreErrorsOf(const absl::Status& status);

// Sets what an option or an argument stands for. Its error is a bare reason ("port must be 0 to
// 65535"): the table says in front of it which word was wrong.
using Setter = std::function<absl::Status(absl::string_view value)>;

struct Option {
  std::string name;         // "--on-port"
  std::string short_name;   // "-j", or empty
  std::string placeholder;  // "PORT"; empty for an option without a value
  std::string help;
  std::string section;  // heading in the help output
  Setter set;           // called with "" for an option without a value
  // In a configuration file (config.h): another name for it than Key(), the table within its table
  // that it stands in, and whether it can be given more than once, there as an array.
  std::string file_name = {};
  std::string file_table = {};
  bool repeatable = false;

  // "on_port": the option's word in a configuration file.
  std::string Key() const;
  // The word that a configuration file has for it.
  std::string FileName() const { return file_name.empty() ? Key() : file_name; }
  Option& InFileAs(absl::string_view other_name) {
    file_name = std::string(other_name);
    return *this;
  }
  Option& InFileTable(absl::string_view table) {
    file_table = std::string(table);
    return *this;
  }
  Option& Repeatable() {
    repeatable = true;
    return *this;
  }
};

struct Positional {
  std::string placeholder;  // "SRC"
  std::string help;
  bool required = true;
  bool repeated = false;  // takes every argument that is left; the last one only
  Setter set;
};

// The words one command takes: the one place that parsing, help, shell completion and configuration
// files read.
// The setters point into the command, which outlives the table. Built and used by one thread.
class OptionTable {
 public:
  // Options added from here on stand below `title` in the help output.
  void Section(absl::string_view title) { section_ = std::string(title); }
  // What they return is valid until the next one is added.
  Option& Value(absl::string_view name, absl::string_view placeholder, absl::string_view help,
                Setter set);
  Option& Flag(absl::string_view name, absl::string_view help, bool* value,
               absl::string_view short_name = "");
  Option& Flag(absl::string_view name, absl::string_view help, std::function<void()> set);
  void Argument(Positional argument) { positionals_.push_back(std::move(argument)); }

  // Has the name of the first option that is given of those added so far, from the `from`-th on,
  // put into `*first`, which outlives the table.
  void NoteFirstGiven(size_t from, std::string* first);

  // Reads `args` GNU style: "--name value", "--name=value", "-j"; options and arguments in any
  // order, "--" ends the options, names are never abbreviated. The first wrong word is the error,
  // a UsageError that names it.
  absl::Status Parse(absl::Span<const std::string> args) const;

  // "[OPTION]... PROTO SRC DST".
  std::string Synopsis() const;
  // One line an option, aligned, in their sections.
  std::string Help() const;

  const std::vector<Option>& options() const { return options_; }
  const std::vector<Positional>& positionals() const { return positionals_; }

 private:
  const Option* Find(absl::string_view name) const;
  absl::Status ParseOption(absl::Span<const std::string> args, size_t* index) const;
  absl::Status SetArgument(const std::string& word, size_t* next) const;

  std::string section_ = "Options";
  std::vector<Option> options_;
  std::vector<Positional> positionals_;
};

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_OPTIONS_H_
