// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_COMMAND_H_
#define UTPROXY_TOOLS_COMMAND_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "options.h"

namespace utproxy::tools {

// What a command knows of the world outside; tests put their own in its place.
struct Environment {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool out_is_terminal = false;
  size_t width = 80;  // columns that text for people is wrapped to
  // The words of the command line, the command's name first.
  std::vector<std::string> arguments = {};
  // Value of an environment variable; empty where it is not set.
  std::function<std::string(const char* name)> variable = [](const char*) { return std::string(); };

  // Output for people may be coloured: a terminal, and no NO_COLOR (no-color.org).
  bool color() const {
    return out_is_terminal && variable("NO_COLOR").empty() && variable("TERM") != "dumb";
  }
};

// Exit statuses, as users and scripts rely on them.
enum ExitStatus : int { kExitOk = 0, kExitFailed = 1, kExitUsage = 2 };

// One command. An object lives for one invocation: Declare, the words parsed, Check, Run.
class Command {
 public:
  virtual ~Command() = default;
  // Adds the words this command takes; their setters point into this object.
  virtual void Declare(OptionTable& options) = 0;
  // What can be wrong with words that are right each for itself. Errors exit with 2.
  virtual absl::Status Check() { return absl::OkStatus(); }
  // Does it. Returns the exit status; an error exits with 1 (a UsageError with 2).
  virtual absl::StatusOr<int> Run(Environment& env) = 0;
};

// A row of the table of commands.
struct CommandEntry {
  absl::string_view name;
  absl::string_view summary;  // one line for `utproxy --help`
  absl::string_view details;  // a paragraph for `utproxy NAME --help`
  absl::string_view example;  // whole lines that work as they stand, "utproxy NAME ..."
  std::unique_ptr<Command> (*make)();
};

// A new object of the command, which `*options` then has every word of, --help too: what parsing,
// help, manual pages and shell completion go by. The table's setters point into the object.
std::unique_ptr<Command> MakeCommand(const CommandEntry& entry, OptionTable* options);

// Runs `args` (without the program's name) on the table and returns the exit status. Errors are
// one line, "utproxy: WHAT FAILED: WHY", and a second with the remedy where there is one.
int RunCommandLine(absl::Span<const CommandEntry> commands, absl::Span<const std::string> args,
                   Environment& env);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_COMMAND_H_
