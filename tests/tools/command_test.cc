// SPDX-License-Identifier: GPL-3.0-or-later
#include "command.h"

#include <gtest/gtest.h>

#include <sstream>

#include "base/status.h"
#include "commands.h"

namespace utproxy::tools {
namespace {

// Does what its options say.
class Fake : public Command {
 public:
  void Declare(OptionTable& options) override {
    options.Flag("--fail", "fail", &fail_);
    options.Flag("--misuse", "find misuse late", &misuse_);
    options.Flag("--conflict", "find a conflict", &conflict_);
    options.Flag("--one", "exit with 1", &one_);
  }
  absl::Status Check() override {
    return conflict_ ? absl::InvalidArgumentError("--conflict: with itself") : absl::OkStatus();
  }
  absl::StatusOr<int> Run(Environment& env) override {
    env.out << "output\n";
    if (fail_) {
      return WithRemedy(ErrnoStatus(EPERM, "open the door"), "knock first");
    }
    if (misuse_) return UsageError("--misuse: late");
    return one_ ? 1 : 0;
  }

 private:
  bool fail_ = false, misuse_ = false, conflict_ = false, one_ = false;
};

constexpr CommandEntry kTable[] = {
    {"fake", "a fake", "Details of the fake.", "utproxy fake --one",
     [] { return std::unique_ptr<Command>(new Fake); }},
};

struct Result {
  int status;
  std::string out, err;
};

Result Call(std::vector<std::string> args, absl::Span<const CommandEntry> table = kTable) {
  std::istringstream in;
  std::ostringstream out, err;
  Environment env{.in = in, .out = out, .err = err};
  const int status = RunCommandLine(table, args, env);
  return {status, out.str(), err.str()};
}

TEST(CommandLine, ExitStatuses) {
  EXPECT_EQ(Call({"fake"}).status, 0);
  EXPECT_EQ(Call({"fake", "--one"}).status, 1);
  EXPECT_EQ(Call({"fake", "--one"}).err, "");
  EXPECT_EQ(Call({"fake", "--fail"}).status, 1);
  EXPECT_EQ(Call({"fake", "--misuse"}).status, 2);
  EXPECT_EQ(Call({"fake", "--conflict"}).status, 2);
  EXPECT_EQ(Call({"fake", "--nonsense"}).status, 2);
  EXPECT_EQ(Call({"nonsense"}).status, 2);
  EXPECT_EQ(Call({"--nonsense"}).status, 2);
  EXPECT_EQ(Call({}).status, 2);
  EXPECT_EQ(Call({"--help"}).status, 0);
  EXPECT_EQ(Call({"--version"}).status, 0);
}

TEST(CommandLine, Errors) {
  EXPECT_EQ(Call({"fake", "--fail"}).err,
            "utproxy: open the door: Operation not permitted\nknock first\n");
  EXPECT_EQ(Call({"fake", "--fail"}).out, "output\n");
  EXPECT_EQ(Call({"fake", "--conflict"}).err,
            "utproxy: --conflict: with itself\nSee: utproxy fake --help\n");
  EXPECT_EQ(Call({"fake", "--conflict"}).out, "");
  EXPECT_EQ(Call({"fake", "-x"}).err, "utproxy: -x: unknown option\nSee: utproxy fake --help\n");
  EXPECT_EQ(Call({"nonsense"}).err, "utproxy: nonsense: unknown command\nSee: utproxy --help\n");
  EXPECT_EQ(Call({"--nonsense"}).err, "utproxy: --nonsense: unknown option\nSee: utproxy --help\n");
}

TEST(CommandLine, Help) {
  const Result program = Call({"--help"});
  EXPECT_NE(program.out.find("  fake  a fake\n"), std::string::npos);
  EXPECT_EQ(program.err, "");
  const Result command = Call({"fake", "--nonsense", "--help"});
  EXPECT_EQ(command.status, 0);
  EXPECT_EQ(command.out,
            "Usage: utproxy fake [OPTION]...\n\nDetails of the fake.\n\n"
            "Options:\n"
            "      --fail      fail\n"
            "      --misuse    find misuse late\n"
            "      --conflict  find a conflict\n"
            "      --one       exit with 1\n"
            "\nHelp:\n"
            "  -h, --help      this text\n"
            "\nExample:\n  utproxy fake --one\n");
  EXPECT_EQ(Call({"fake", "-h"}).out, command.out);
  EXPECT_EQ(Call({}).err, program.out);
  EXPECT_EQ(Call({"--version"}).out.substr(0, 8), "utproxy ");
}

TEST(CommandLine, OutputThatCannotBeWrittenIsAnError) {
  std::istringstream in;
  std::ostringstream out, err;
  out.setstate(std::ios::badbit);
  Environment env{.in = in, .out = out, .err = err};
  EXPECT_EQ(RunCommandLine(kTable, std::vector<std::string>{"fake"}, env), 1);
  EXPECT_EQ(err.str(), "utproxy: write output: it could not be written\n");
}

TEST(CommandLine, ColourOnlyOnATerminal) {
  std::istringstream in;
  std::ostringstream out, err;
  std::string no_color, term = "xterm";
  Environment env{.in = in, .out = out, .err = err};
  EXPECT_FALSE(env.color());
  env.out_is_terminal = true;
  EXPECT_TRUE(env.color());
  env.variable = [&](const char* name) {
    return std::string(name) == "NO_COLOR" ? no_color : term;
  };
  EXPECT_TRUE(env.color());
  no_color = "1";
  EXPECT_FALSE(env.color());
  no_color = "";
  term = "dumb";
  EXPECT_FALSE(env.color());
}

// The program's own table: every help ends with its example, and every option is described.
TEST(Program, EveryCommandHasHelpThatEndsWithAnExample) {
  ASSERT_FALSE(Commands().empty());
  for (const CommandEntry& entry : Commands()) {
    const Result help = Call({std::string(entry.name), "--help"}, Commands());
    EXPECT_EQ(help.status, 0);
    EXPECT_EQ(entry.example.find("utproxy " + std::string(entry.name)), 0u) << entry.name;
    EXPECT_NE(help.out.find("\nExample:\n  utproxy "), std::string::npos) << entry.name;
    const std::unique_ptr<Command> command = entry.make();
    OptionTable options;
    command->Declare(options);
    for (const Option& option : options.options()) EXPECT_NE(option.help, "") << option.name;
  }
}

TEST(Program, Ruleset) {
  const auto call = [](std::vector<std::string> args) {
    args.insert(args.begin(), "ruleset");
    return Call(args, Commands());
  };
  EXPECT_EQ(call({}).status, 2);
  EXPECT_EQ(call({"frob"}).err.substr(0, 53),
            "utproxy: frob: must be print, install or remove\nSee: ");
  const Result no_mark = call({"install", "--on-port", "1"});
  EXPECT_EQ(no_mark.status, 2);
  EXPECT_EQ(no_mark.err.substr(0, 32), "utproxy: --tproxy-mark: missing\n");
  EXPECT_EQ(call({"install", "--tproxy-mark", "0/1"}).status, 2) << "takes unmarked packets";
  EXPECT_EQ(call({"print", "--tproxy-mark", "1", "--iif", "eth*"}).status, 2);
  const Result print = call({"print", "--tproxy-mark", "0x5/0x7", "--dport", "5353"});
  EXPECT_EQ(print.status, 0) << print.err;
  for (const char* part : {"5353", "0x5", "utproxy", "local default"}) {
    EXPECT_NE(print.out.find(part), std::string::npos) << part << "\n" << print.out;
  }
}

// The words of `line` behind "utproxy COMMAND", with single quotes as a shell reads them.
std::vector<std::string> ShellWords(absl::string_view line) {
  std::vector<std::string> words(1);
  bool quoted = false;
  for (const char c : line) {
    if (c == '\'') {
      quoted = !quoted;
    } else if (c == ' ' && !quoted) {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  words.erase(words.begin(), words.begin() + 2);
  return words;
}

TEST(Program, EveryExampleIsUnderstood) {
  for (const CommandEntry& entry : Commands()) {
    std::istringstream lines{std::string(entry.example)};
    for (std::string line; std::getline(lines, line);) {
      const absl::string_view until = absl::string_view(line).substr(0, line.find_first_of("|<>"));
      std::string trimmed(until);
      while (!trimmed.empty() && trimmed.back() == ' ') trimmed.pop_back();
      const std::unique_ptr<Command> command = entry.make();
      OptionTable options;
      command->Declare(options);
      EXPECT_TRUE(options.Parse(ShellWords(trimmed)).ok())
          << line << ": " << options.Parse(ShellWords(trimmed));
    }
  }
}

}  // namespace
}  // namespace utproxy::tools
