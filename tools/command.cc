// SPDX-License-Identifier: GPL-3.0-or-later
#include "command.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include <algorithm>
#include <exception>
#include <istream>
#include <ostream>

#include "base/status.h"
#include "daemon/json.h"
#include "printable.h"

namespace utproxy::tools {
namespace {

constexpr char kProgramExample[] =
    "utproxy run --install --proto udp --dport 53 --on-port 1090 --tproxy-mark 0x1";

int Report(Environment& env, const absl::Status& status, absl::string_view fallback_remedy = "") {
  env.out.flush();
  env.err << "utproxy: " << Printable(status.message()) << "\n";
  for (const std::string& more : MoreErrorsOf(status)) {
    env.err << "utproxy: " << Printable(more) << "\n";
  }
  const std::string remedy = RemedyOf(status);
  const absl::string_view hint = remedy.empty() ? fallback_remedy : absl::string_view(remedy);
  if (!hint.empty()) env.err << Printable(hint) << "\n";
  return IsUsageError(status) ? kExitUsage : kExitFailed;
}

// A full disk or a closed pipe must not look like success.
int Finish(Environment& env, int status) {
  env.out.flush();
  if (env.out.good()) return status;
  return Report(env, absl::DataLossError("write output: it could not be written"));
}

void PrintExample(std::ostream& out, absl::string_view example) {
  out << "\nExample:\n";
  for (const absl::string_view line : absl::StrSplit(example, '\n')) out << "  " << line << "\n";
}

void PrintProgramHelp(absl::Span<const CommandEntry> commands, std::ostream& out) {
  out << "Usage: utproxy COMMAND [OPTION]...\n\n"
         "Redirects TCP and UDP to transparent sockets as the kernel's TPROXY does, decided in\n"
         "user space on packets from an NFQUEUE.\n\nCommands:\n";
  size_t width = 0;
  for (const CommandEntry& c : commands) width = std::max(width, c.name.size());
  for (const CommandEntry& c : commands) {
    out << "  " << c.name << std::string(width - c.name.size() + 2, ' ') << c.summary << "\n";
  }
  out << "\nOptions:\n"
         "  -h, --help     this text; utproxy COMMAND --help for a command's\n"
         "  -V, --version  the program's version\n";
  PrintExample(out, kProgramExample);
}

// A paragraph in lines of at most 80 columns.
std::string Wrapped(absl::string_view paragraph) {
  std::string text;
  size_t column = 0;
  for (const absl::string_view word : absl::StrSplit(paragraph, ' ')) {
    const bool fits = column + 1 + word.size() <= 80;
    if (column > 0) text += fits ? ' ' : '\n';
    column = (column > 0 && fits ? column + 1 : 0) + word.size();
    absl::StrAppend(&text, word);
  }
  return text;
}

void PrintCommandHelp(const CommandEntry& entry, const OptionTable& options, std::ostream& out) {
  out << "Usage: utproxy " << entry.name << " " << options.Synopsis() << "\n\n"
      << Wrapped(entry.details) << "\n\n"
      << options.Help();
  PrintExample(out, entry.example);
}

// What the standard library throws, out of memory or out of threads, is an error like others; and
// so is what the JSON library throws, where a daemon's answer has not what it must.
absl::StatusOr<int> RunGuarded(Command& command, absl::string_view name, Environment& env) {
  try {
    return command.Run(env);
  } catch (const Json::exception& e) {
    return absl::DataLossError(absl::StrCat(name, ": malformed answer: ", e.what()));
  } catch (const std::exception& e) {
    return absl::ResourceExhaustedError(absl::StrCat(name, ": out of resources: ", e.what()));
  }
}

int RunCommand(const CommandEntry& entry, absl::Span<const std::string> args, Environment& env) {
  OptionTable options;
  const std::unique_ptr<Command> command = MakeCommand(entry, &options);
  // --help wins over whatever else is missing or wrong, as someone who asks for it is lost.
  const auto end = std::find(args.begin(), args.end(), "--");
  if (std::any_of(args.begin(), end,
                  [](const std::string& a) { return a == "--help" || a == "-h"; })) {
    PrintCommandHelp(entry, options, env.out);
    return Finish(env, kExitOk);
  }
  absl::Status status = options.Parse(args);
  if (status.ok()) status = command->Check();
  const std::string hint = absl::StrCat("See: utproxy ", entry.name, " --help");
  if (!status.ok()) {
    const int code = Report(env, status, hint);
    return code == kExitFailed ? kExitUsage : code;
  }
  const absl::StatusOr<int> result = RunGuarded(*command, entry.name, env);
  if (!result.ok()) {
    return Report(env, result.status(), IsUsageError(result.status()) ? hint : std::string());
  }
  return Finish(env, *result);
}

}  // namespace

std::unique_ptr<Command> MakeCommand(const CommandEntry& entry, OptionTable* options) {
  std::unique_ptr<Command> command = entry.make();
  command->Declare(*options);
  options->Section("Help");
  // RunCommand looks for it before anything is parsed.
  options->Flag("--help", "this text", [] {}).short_name = "-h";
  return command;
}

int RunCommandLine(absl::Span<const CommandEntry> commands, absl::Span<const std::string> args,
                   Environment& env) {
  if (args.empty()) {
    PrintProgramHelp(commands, env.err);
    return kExitUsage;
  }
  const std::string& word = args[0];
  if (word == "--help" || word == "-h") {
    PrintProgramHelp(commands, env.out);
    return Finish(env, kExitOk);
  }
  if (word == "--version" || word == "-V") {
    env.out << "utproxy " << UTPROXY_VERSION << "\n";
    return Finish(env, kExitOk);
  }
  for (const CommandEntry& entry : commands) {
    if (entry.name != word) continue;
    env.arguments.assign(args.begin(), args.end());
    return RunCommand(entry, args.subspan(1), env);
  }
  const bool option = word.size() > 1 && word[0] == '-';
  return Report(env,
                UsageError(absl::StrCat(word, option ? ": unknown option" : ": unknown command")),
                "See: utproxy --help");
}

}  // namespace utproxy::tools
