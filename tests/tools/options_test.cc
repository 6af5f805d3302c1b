// SPDX-License-Identifier: GPL-3.0-or-later
#include "options.h"

#include <gtest/gtest.h>

#include "base/status.h"

namespace utproxy::tools {
namespace {

class Options : public ::testing::Test {
 protected:
  Options() {
    table_.Section("Things");
    table_.Value("--port", "PORT", "a port", [this](absl::string_view text) -> absl::Status {
      if (text == "bad") return WithRemedy(absl::InvalidArgumentError("is bad"), "try 7");
      port_ = std::string(text);
      return absl::OkStatus();
    });
    table_.Flag("--json", "machine output", &json_, "-j");
  }
  void AddArguments(bool repeated = false) {
    table_.Argument({.placeholder = "A", .help = "first", .set = Set(&a_)});
    table_.Argument({.placeholder = "B",
                     .help = "second",
                     .required = false,
                     .repeated = repeated,
                     .set = Set(&b_)});
  }
  Setter Set(std::string* out) {
    return [out](absl::string_view text) {
      *out += std::string(text);
      return absl::OkStatus();
    };
  }
  std::string Error(std::vector<std::string> args) {
    const absl::Status status = table_.Parse(args);
    EXPECT_TRUE(status.ok() || IsUsageError(status));
    return std::string(status.message());
  }

  OptionTable table_;
  std::string port_, a_, b_;
  bool json_ = false;
};

TEST_F(Options, BothFormsOfAValue) {
  EXPECT_EQ(Error({"--port", "5"}), "");
  EXPECT_EQ(port_, "5");
  EXPECT_EQ(Error({"--port=6"}), "");
  EXPECT_EQ(port_, "6");
  EXPECT_EQ(Error({"--port="}), "");
  EXPECT_EQ(port_, "");
  EXPECT_EQ(Error({"--port", "--json"}), "") << "a value may look like an option";
  EXPECT_EQ(port_, "--json");
  EXPECT_FALSE(json_);
}

TEST_F(Options, ShortNames) {
  EXPECT_EQ(Error({"-j"}), "");
  EXPECT_TRUE(json_);
}

TEST_F(Options, WrongWordsAreNamed) {
  EXPECT_EQ(Error({"--por", "5"}), "--por: unknown option") << "no abbreviations";
  EXPECT_EQ(Error({"--x=y"}), "--x: unknown option");
  EXPECT_EQ(Error({"-x"}), "-x: unknown option");
  EXPECT_EQ(Error({"-jj"}), "-jj: unknown option");
  EXPECT_EQ(Error({"--port"}), "--port: PORT is missing");
  EXPECT_EQ(Error({"--json=yes"}), "--json=yes: takes no value");
  EXPECT_EQ(Error({"--port", "bad"}), "--port bad: is bad");
  EXPECT_EQ(Error({"--port=bad"}), "--port bad: is bad");
  EXPECT_EQ(Error({"word"}), "word: unexpected argument");
  EXPECT_EQ(RemedyOf(table_.Parse(std::vector<std::string>{"--port", "bad"})), "try 7");
}

TEST_F(Options, ArgumentsAndOptionsMixUntilTheDashes) {
  AddArguments();
  EXPECT_EQ(Error({"one", "--port", "5", "two", "-j"}), "");
  EXPECT_EQ(a_ + "," + b_, "one,two");
  EXPECT_EQ(Error({"x", "y", "z"}), "z: unexpected argument");
  EXPECT_EQ(Error({}), "A: missing");
  EXPECT_EQ(Error({"--port", "5"}), "A: missing");
  a_ = b_ = "";
  EXPECT_EQ(Error({"--", "--port", "-"}), "");
  EXPECT_EQ(a_ + "," + b_, "--port,-");
}

TEST_F(Options, ARepeatedArgumentTakesTheRest) {
  AddArguments(/*repeated=*/true);
  EXPECT_EQ(Error({"1", "2", "3", "4"}), "");
  EXPECT_EQ(b_, "234");
  EXPECT_EQ(table_.Synopsis(), "[OPTION]... A [B...]");
}

TEST_F(Options, Help) {
  AddArguments();
  table_.Section("Others");
  table_.Value("--a-rather-long-option-name", "WITH-A-VALUE", "which wraps", Set(&a_));
  EXPECT_EQ(table_.Synopsis(), "[OPTION]... A [B]");
  EXPECT_EQ(table_.Help(),
            "Arguments:\n"
            "  A                               first\n"
            "  B                               second\n"
            "\n"
            "Things:\n"
            "      --port PORT                 a port\n"
            "  -j, --json                      machine output\n"
            "\n"
            "Others:\n"
            "      --a-rather-long-option-name WITH-A-VALUE\n"
            "                                  which wraps\n");
}

}  // namespace
}  // namespace utproxy::tools
