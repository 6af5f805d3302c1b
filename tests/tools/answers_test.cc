// SPDX-License-Identifier: GPL-3.0-or-later
// Commands whose daemon answers what it should not: one of another version, or not ours at all.
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "commands.h"
#include "daemon/control_server.h"

namespace utproxy::tools {
namespace {

using ::testing::HasSubstr;

class AnswersTest : public ::testing::Test {
 protected:
  // What the command says when it has failed.
  std::string ErrorOf(std::vector<std::string> args, const std::string& lines) {
    const std::string path = absl::StrCat(::testing::TempDir(), "/utproxy-answers-", ::getpid());
    auto server = ControlServer::Open(path, {::geteuid(), ::getegid()});
    EXPECT_TRUE(server.ok()) << server.status();
    (*server)->Serve([&lines](const Json&, const ControlServer::Writer& write) {
      (void)write.Lines(lines);
      return absl::OkStatus();
    });
    std::istringstream in;
    std::ostringstream out, err;
    Environment env{.in = in, .out = out, .err = err};
    args.insert(args.end(), {"--control", path});
    status_ = RunCommandLine(Commands(), args, env);
    return err.str();
  }
  int status_ = -1;
};

TEST_F(AnswersTest, KeysThatAreMissing) {
  for (const char* command : {"stats", "sockets", "trace"}) {
    EXPECT_THAT(ErrorOf({command}, "{\"packets\":1,\"packet\":{},\"verdict\":\"drop\"}\n"),
                HasSubstr("malformed answer"))
        << command;
    EXPECT_EQ(status_, kExitFailed);
  }
}

TEST_F(AnswersTest, ValuesOfAnotherKind) {
  EXPECT_THAT(ErrorOf({"stats"}, "{\"packets\":\"many\"}\n"), HasSubstr("malformed answer"));
  EXPECT_THAT(ErrorOf({"trace"}, "{\"lost\":[]}\n"), HasSubstr("malformed answer"));
  EXPECT_THAT(ErrorOf({"trace", "--write", "-"}, "{\"packet\":7}\n"),
              HasSubstr("malformed answer"));
}

TEST_F(AnswersTest, NestedBeyondTheStack) {
  const std::string deep(400'000, '['), end(400'000, ']');
  EXPECT_EQ(ErrorOf({"sockets", "-j"}, absl::StrCat("{\"a\":", deep, end, "}\n")), "");
  EXPECT_EQ(status_, kExitOk);
}

}  // namespace
}  // namespace utproxy::tools
