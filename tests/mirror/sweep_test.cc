// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/sweep.h"

#include <absl/container/flat_hash_set.h>
#include <gtest/gtest.h>

#include <random>

namespace utproxy {
namespace {

TEST(CookieSet, HoldsWhatAHashSetHolds) {
  CookieSet set;
  absl::flat_hash_set<uint64_t> model;
  std::mt19937_64 random(1);
  const auto draw = [&] {
    // Neighbours mostly, as the kernel gives them; and some from anywhere, the edges too.
    const uint64_t any = random();
    if (any % 8 == 0) return random();
    return any % 8 == 1 ? ~uint64_t{0} - any / 8 % 3 : any / 8 % 3000;
  };
  for (int i = 0; i < 2000; ++i) {
    const uint64_t cookie = draw();
    set.Insert(cookie);
    model.insert(cookie);
  }
  for (int i = 0; i < 20000; ++i) {
    const uint64_t cookie = draw();
    ASSERT_EQ(set.Contains(cookie), model.contains(cookie)) << cookie;
  }
  for (const uint64_t cookie : model) ASSERT_TRUE(set.Contains(cookie)) << cookie;
}

Socket Connection(uint16_t number) {
  Socket s;
  s.local = *Address::Parse("192.0.2.1");
  s.remote = *Address::Parse("198.51.100.1");
  s.local_port = 80;
  s.remote_port = number;
  s.state = SockState::kEstablished;
  s.flags = Socket::kTransparentKnown;
  s.cookie = number;
  return s;
}

TEST(Sweep, LearnsWholeBlocksAndTheRestAndNamesWhatItDidNotSee) {
  const std::unique_ptr<SocketTable> table = *SocketTable::Create({.max_sockets = 1024});
  UdpEpochs epochs;
  TableWriter writer(table.get(), &epochs);
  const InterfaceSnapshot interfaces;
  constexpr uint16_t kCount = 2 * TableWriter::kTogether + 7;
  {
    Sweep sweep(&writer, &interfaces, 0);
    for (uint16_t n = 1; n <= kCount; ++n) sweep.Take(Connection(n));
    EXPECT_EQ(table->size(), 2 * TableWriter::kTogether);
    EXPECT_TRUE(sweep.Finish().empty());
    EXPECT_EQ(table->size(), kCount);
  }
  Sweep next(&writer, &interfaces, 1);
  for (uint16_t n = 1; n <= kCount; ++n) {
    if (n != 5) next.Take(Connection(n));
  }
  const std::vector<Socket> missing = next.Finish();
  ASSERT_EQ(missing.size(), 1u);
  EXPECT_EQ(missing[0].cookie, 5u);
  EXPECT_EQ(table->size(), kCount) << "a suspect stays until the kernel was asked";
}

// What is told while the dump runs is newer than what it still shows.
TEST(Sweep, DoesNotBringBackWhatEndedMeanwhile) {
  const std::unique_ptr<SocketTable> table = *SocketTable::Create({.max_sockets = 1024});
  UdpEpochs epochs;
  TableWriter writer(table.get(), &epochs);
  const InterfaceSnapshot interfaces;
  Sweep sweep(&writer, &interfaces, 0);
  sweep.Take(Connection(1));
  sweep.Learn();
  writer.Destroyed(Connection(1), 1);
  writer.Destroyed(Connection(2), 1);
  sweep.Take(Connection(1));
  sweep.Take(Connection(2));
  EXPECT_TRUE(sweep.Finish().empty());
  const auto first = table->FindOne(Connection(1).key());
  ASSERT_TRUE(first);
  EXPECT_TRUE(first->time_wait());
  EXPECT_FALSE(table->FindOne(Connection(2).key()));
}

}  // namespace
}  // namespace utproxy
