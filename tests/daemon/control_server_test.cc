// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/control_server.h"

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/status.h"
#include "daemon/control_client.h"
#include "daemon/control_socket.h"

namespace utproxy {
namespace {

class ControlServerTest : public ::testing::Test {
 protected:
  ControlServerTest()
      : folder_(absl::StrCat(::testing::TempDir(), "/utproxy-control-", ::getpid())),
        path_(folder_ + "/new/control.sock") {}
  ~ControlServerTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<ControlServer> Serve() {
    absl::StatusOr<std::unique_ptr<ControlServer>> server =
        ControlServer::Open(path_, {::geteuid(), ::getegid()});
    EXPECT_TRUE(server.ok()) << server.status();
    (*server)->Serve([](const Json& request, const ControlServer::Writer& write) {
      if (request["command"] == "fail") return absl::NotFoundError("no such thing");
      for (int i = 0; i < 3; ++i) (void)write({{"i", i}});
      return absl::OkStatus();
    });
    return std::move(*server);
  }

  // Sends raw bytes and returns all that comes back.
  std::string Exchange(const std::string& bytes) {
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    (void)::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    ::shutdown(fd.get(), SHUT_WR);
    std::string answer;
    char buffer[4096];
    for (ssize_t n; (n = ::recv(fd.get(), buffer, sizeof buffer, 0)) > 0;) {
      answer.append(buffer, static_cast<size_t>(n));
    }
    return answer;
  }

  const std::string folder_;
  const std::string path_;
};

TEST_F(ControlServerTest, AnswersInOrderAndCleansUp) {
  {
    const auto server = Serve();
    struct stat info {};
    ASSERT_EQ(::stat(path_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0660u);
    std::vector<int> seen;
    const absl::Status status = AskDaemon(path_, {{"command", "count"}}, [&](const Json& json) {
      seen.push_back(json["i"].get<int>());
    });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(seen, (std::vector<int>{0, 1, 2}));
    EXPECT_THAT(Exchange("{\"command\": \"count\"}\n"), ::testing::EndsWith("{\"end\":true}\n"));
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(ControlServerTest, IdleClientsHoldUpNeitherOthersNorTheEnd) {
  auto server = Serve();
  std::vector<UniqueFd> idle;
  for (size_t i = 0; i + 1 < ControlServer::kMaxClients; ++i) {
    idle.emplace_back(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    ASSERT_EQ(::connect(idle.back().get(), reinterpret_cast<sockaddr*>(&address), sizeof address),
              0);
  }
  EXPECT_THAT(Exchange("{\"command\": \"count\"}\n"), ::testing::HasSubstr("{\"i\":2}"));
  server.reset();  // cuts them off
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(ControlServerTest, AnErrorReachesTheAsker) {
  const auto server = Serve();
  const absl::Status status = AskDaemon(path_, {{"command", "fail"}}, [](const Json&) {});
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("no such thing"));
}

TEST_F(ControlServerTest, NobodyThereIsAnErrorWithARemedy) {
  const absl::Status status = AskDaemon(path_, {{"command", "stats"}}, [](const Json&) {});
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(RemedyOf(status), ::testing::HasSubstr("utproxy run"));
}

// A daemon that is stopped or stuck: its kernel still takes connections, until the backlog is full.
TEST_F(ControlServerTest, WhoDoesNotBeginIsGivenUp) {
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path());
  const absl::StatusOr<sockaddr_un> address = ControlAddress(path_);
  ASSERT_TRUE(address.ok());
  const UniqueFd stuck(::socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(::bind(stuck.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address), 0);
  ASSERT_EQ(::listen(stuck.get(), 1), 0);
  const auto expect_given_up = [](const absl::Status& status) {
    EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::EndsWith(": no answer within 3 s"));
    EXPECT_THAT(RemedyOf(status), ::testing::HasSubstr("stopped or stuck"));
  };
  expect_given_up(AskDaemon(path_, {{"command", "stats"}}, [](const Json&) {}));
  const UniqueFd full(::socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(Connect(full.get(), *address), 0);  // the one before still counts
  expect_given_up(StreamFromDaemon(
      path_, {{"command", "trace"}}, [](const Json&) { return true; }, [] {}));
}

TEST_F(ControlServerTest, ASlowAnswerIsWaitedForAsLongAsAsked) {
  absl::StatusOr<std::unique_ptr<ControlServer>> server =
      ControlServer::Open(path_, {::geteuid(), ::getegid()});
  ASSERT_TRUE(server.ok()) << server.status();
  (*server)->Serve([](const Json&, const ControlServer::Writer& write) {
    (void)write({{"i", 1}});
    (void)write.Wait(kBeginNs / kNsPerMs + 500);
    return absl::OkStatus();
  });
  int seen = 0;
  const auto count = [&](const Json& json) { seen += json["i"].get<int>(); };
  EXPECT_TRUE(AskDaemon(path_, {{"command", "count"}}, count).ok());
  EXPECT_EQ(seen, 1);
  const absl::Status status = AskDaemon(path_, {{"command", "count"}}, count, kNsPerSec);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_EQ(seen, 1);
}

// Of as many as there may be all are served; the next one is told why it is not, and served once
// one of them has gone.
TEST_F(ControlServerTest, OneTooManyIsToldSo) {
  absl::StatusOr<std::unique_ptr<ControlServer>> server =
      ControlServer::Open(path_, {::geteuid(), ::getegid()});
  ASSERT_TRUE(server.ok()) << server.status();
  (*server)->Serve([](const Json& request, const ControlServer::Writer& write) {
    (void)write({{"i", 1}});
    // As a trace does.
    while (request["command"] == "stay" && write.Wait(10)) continue;
    return absl::OkStatus();
  });
  std::vector<UniqueFd> staying;
  const absl::StatusOr<sockaddr_un> address = ControlAddress(path_);
  for (size_t i = 0; i < ControlServer::kMaxClients; ++i) {
    staying.emplace_back(::socket(AF_UNIX, SOCK_STREAM, 0));
    const int fd = staying.back().get();
    ASSERT_EQ(Connect(fd, *address), 0);
    ASSERT_TRUE(WriteAll(fd, -1, "{\"command\": \"stay\"}\n", kNsPerSec));
    std::string rest;
    for (const char* line : {"{\"begin\":true}", "{\"i\":1}"}) {
      EXPECT_EQ(ReadLine(fd, -1, 100, MonotonicNs() + 5 * kNsPerSec, &rest), line) << i;
    }
  }
  const auto ask = [&] { return AskDaemon(path_, {{"command", "count"}}, [](const Json&) {}); };
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(
        std::string(ask().message()),
        ::testing::EndsWith("it has 16 clients already, as many as it serves at a time; end "
                            "one, such as a 'utproxy trace'"));
  }
  staying.pop_back();
  // Who comes while others are being refused may be refused at once.
  const int64_t end_ns = MonotonicNs() + 20 * kNsPerSec;
  bool served = false;
  while (!served && MonotonicNs() < end_ns) served = ask().ok();
  EXPECT_TRUE(served);
}

// A stream that has begun and then says nothing more, not even that it goes on.
TEST_F(ControlServerTest, AStreamThatFallsSilentIsGivenUp) {
  absl::StatusOr<std::unique_ptr<ControlServer>> server =
      ControlServer::Open(path_, {::geteuid(), ::getegid()});
  ASSERT_TRUE(server.ok()) << server.status();
  (*server)->Serve([](const Json&, const ControlServer::Writer& write) {
    (void)write({{"i", 1}});
    while (write.Wait(100)) continue;
    return absl::OkStatus();
  });
  int seen = 0;
  const int64_t before_ns = MonotonicNs();
  const absl::Status status = StreamFromDaemon(
      path_, {{"command", "trace"}}, [&](const Json&) { return ++seen > 0; }, [] {}, kNsPerSec);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_GE(MonotonicNs() - before_ns, kNsPerSec);
  EXPECT_EQ(seen, 1);
  EXPECT_THAT(RemedyOf(status), ::testing::HasSubstr("stopped or stuck"));
}

TEST_F(ControlServerTest, HostileRequestsAreRefusedAndTheNextOneServed) {
  const auto server = Serve();
  const std::string cases[] = {"",
                               "\n",
                               "stats\n",
                               "[]\n",
                               "{}\n",
                               "{\"command\": 7}\n",
                               std::string(4096, '['),
                               std::string(4000, '[') + "\n",
                               std::string(1 << 20, 'a') + "\n",
                               std::string("\0\xff\n", 3)};
  for (const std::string& bytes : cases) {
    const std::string answer = Exchange(bytes);
    EXPECT_EQ(answer.find("\"i\""), std::string::npos);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    std::string bytes(random() % 300, ' ');
    for (char& c : bytes) c = static_cast<char>(random());
    (void)Exchange(bytes);
  }
  EXPECT_THAT(Exchange("{\"command\": \"count\"}\n"), ::testing::HasSubstr("{\"i\":2}"));
}

TEST_F(ControlServerTest, AStaleSocketFileIsReplacedALivingOneIsNot) {
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path());
  {
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  const auto server = Serve();
  const auto second = ControlServer::Open(path_, {::geteuid(), ::getegid()});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Exchange("{\"command\": \"count\"}\n"), ::testing::HasSubstr("{\"i\":0}"));
}

TEST_F(ControlServerTest, AnOrdinaryFileIsLeftAlone) {
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path());
  std::ofstream(path_) << "precious";
  EXPECT_FALSE(ControlServer::Open(path_, {::geteuid(), ::getegid()}).ok());
  EXPECT_EQ(std::filesystem::file_size(path_), 8u);
}

}  // namespace
}  // namespace utproxy
