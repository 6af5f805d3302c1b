// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/estate.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>

#include "daemon/predecessor.h"

namespace utproxy {
namespace {

TEST(WordsFile, KeepsTheLastText) {
  auto words = WordsFile::Open(UniqueFd());
  ASSERT_TRUE(words.ok()) << words.status();
  EXPECT_EQ(WordsFile::Read(words->fd()), "");
  ASSERT_TRUE(words->Write(std::string(100000, 'x')).ok());
  ASSERT_TRUE(words->Write("shorter").ok());
  EXPECT_EQ(WordsFile::Read(words->fd()), "shorter");
  auto next = WordsFile::Open(UniqueFd(::dup(words->fd())));
  ASSERT_TRUE(next.ok());
  ASSERT_TRUE(next->Write("").ok());
  EXPECT_EQ(WordsFile::Read(words->fd()), "");
  EXPECT_FALSE(next->Write(std::string(WordsFile::kMaxBytes + 1, 'x')).ok());
}

TEST(WordsFile, ReadsNothingFromWhatIsDamaged) {
  auto words = WordsFile::Open(UniqueFd());
  ASSERT_TRUE(words.ok());
  ASSERT_TRUE(words->Write("text").ok());
  ASSERT_EQ(::pwrite(words->fd(), "9", 1, 15), 1);  // a length that it does not have
  EXPECT_EQ(WordsFile::Read(words->fd()), "");
  ASSERT_EQ(::pwrite(words->fd(), "x", 1, 0), 1);
  EXPECT_EQ(WordsFile::Read(words->fd()), "");
  EXPECT_EQ(WordsFile::Read(-1), "");
}

TEST(Estate, IsTakenOnce) {
  Estate estate;
  EXPECT_TRUE(estate.empty());
  estate.Add(QueueName(7), UniqueFd(::eventfd(0, EFD_CLOEXEC)));
  EXPECT_TRUE(estate.Has("queue-7"));
  EXPECT_TRUE(estate.Take("queue-7").valid());
  EXPECT_FALSE(estate.Take("queue-7").valid());
  EXPECT_EQ(estate.Words(), "");
}

// More than go into one message.
TEST(SendEstate, SendsAllInSeveralLines) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  const UniqueFd mine(ends[0]);
  UniqueFd theirs(ends[1]);
  Belongings belongings;
  for (uint16_t i = 0; i < 150; ++i) belongings.emplace_back(QueueName(i), mine.get());
  EXPECT_TRUE(SendEstate(mine.get(), -1, belongings));
  std::string text(65536, '\0');
  size_t lines = 0;
  while (lines < 3) {
    const ssize_t n = ::recv(theirs.get(), text.data(), text.size(), MSG_DONTWAIT);
    ASSERT_GT(n, 0);
    for (ssize_t i = 0; i < n; ++i) lines += text[static_cast<size_t>(i)] == '\n' ? 1 : 0;
  }
  EXPECT_EQ(lines, 3u);
  theirs.reset();
  EXPECT_FALSE(SendEstate(mine.get(), -1, belongings));
}

}  // namespace
}  // namespace utproxy
