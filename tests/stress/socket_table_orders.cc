// SPDX-License-Identifier: GPL-3.0-or-later
//
// Small cases that a random order of steps hardly ever meets, in every order there is of these: the
// writer goes some way, a lookup some way, the writer some way further, the lookup to its end.
#include <gtest/gtest.h>

#include <set>

#include "sockets/table_testing.h"
#include "stress/schedule.h"

namespace utproxy {
namespace {

// Two chains, by the local port's lowest bit; the tag follows from the remote port.
struct TwoChains {
  static absl::StatusOr<TwoChains> Create() { return TwoChains(); }
  uint64_t operator()(const FlowKey& key) const {
    return (uint64_t{key.local_port % 2u} << 31 | (key.remote_port % 255u + 1)) << 32;
  }
};
using Table = BasicSocketTable<TwoChains>;

Socket In(uint16_t chain, uint16_t n) {
  Socket s = FlowSocket(2u * n, chain * 1000u + n);
  s.local_port = chain;
  return s;
}

// `look` is to say whether what it saw is right.
void TryAllOrders(const std::function<void(Table*)>& prepare,
                  const std::function<void(Table*)>& write,
                  const std::function<bool(const Table&)>& look) {
  const std::unique_ptr<Table> table = *Table::Create({.max_sockets = 1000});
  Schedule::Ended ended;
  for (uint64_t first = 1; !ended.writer_at_first; ++first) {
    ended = {};
    for (uint64_t looked = 1; !ended.reader; ++looked) {
      ended = {};
      for (uint64_t second = 1; !ended.writer && !ended.reader; ++second) {
        table->EraseIf([](const Socket&) { return true; });
        prepare(table.get());
        Schedule schedule(0);
        bool right = false;
        schedule.SetWriter([&] { write(table.get()); });
        schedule.AddReader([&] { right = look(*table); });
        ended = schedule.RunThrice(first, looked, second);
        ASSERT_TRUE(right && !schedule.stuck()) << "a wrong answer in the order " << first << ", "
                                                << looked << ", " << second << ", seed 0";
      }
    }
  }
}

// The bucket's words of tags are two, and read in either order: the new one is in the one, the old
// one in the other.
void TestOneOfTwoIsAlwaysThere(bool new_first) {
  const Socket old = ListenerSocket(8080, 1, 1), next = ListenerSocket(8080, 2, 0);
  const Socket gap = In(80, 100);
  const auto prepare = [&](Table* table) {
    ASSERT_TRUE(table->Upsert(new_first ? gap : old).ok());
    for (uint16_t n = 0; n < 7; ++n) ASSERT_TRUE(table->Upsert(In(80, n)).ok());
    if (!new_first) return;
    ASSERT_TRUE(table->Upsert(old).ok());
    ASSERT_TRUE(table->Erase(gap.key(), gap.cookie));
  };
  const auto write = [&](Table* table) {
    EXPECT_TRUE(table->Upsert(next).ok());
    EXPECT_TRUE(table->Erase(old.key(), old.cookie));
  };
  TryAllOrders(prepare, write, [&](const Table& table) {
    absl::InlinedVector<Socket, 8> found;
    table.FindAll(old.key(), &found);
    return !found.empty();
  });
}

TEST(SocketTableOrders, OneOfTwoIsAlwaysThere) {
  TestOneOfTwoIsAlwaysThere(true);
  TestOneOfTwoIsAlwaysThere(false);
}

// The last of a chain fills a gap, and its slot is taken by another, whose bit is in the filter
// already: else that alone would stamp the chain.
TEST(SocketTableOrders, ASocketThatMovesIsItself) {
  const auto prepare = [&](Table* table) {
    for (uint16_t n = 0; n < 18; ++n) ASSERT_TRUE(table->Upsert(In(80, n)).ok());
  };
  const auto write = [&](Table* table) {
    EXPECT_TRUE(table->Erase(In(80, 0).key(), In(80, 0).cookie));
    EXPECT_TRUE(table->Upsert(In(80, 17 + 16)).ok());
  };
  TryAllOrders(prepare, write, [&](const Table& table) {
    absl::InlinedVector<Socket, 8> found;
    table.FindAll(In(80, 17).key(), &found);
    return found.size() == 1 && found[0] == In(80, 17);
  });
}

// As above, but the new one is the old one's next state.
void TestAReplacedSocketIsThere(bool new_first) {
  const Socket old = ListenerSocket(8080, 1, 1), next = ListenerSocket(8080, 1, 0);
  const Socket gap = In(80, 100);
  const auto prepare = [&](Table* table) {
    ASSERT_TRUE(table->Upsert(new_first ? gap : old).ok());
    for (uint16_t n = 0; n < 7; ++n) ASSERT_TRUE(table->Upsert(In(80, n)).ok());
    if (!new_first) return;
    ASSERT_TRUE(table->Upsert(old).ok());
    ASSERT_TRUE(table->Erase(gap.key(), gap.cookie));
  };
  TryAllOrders(
      prepare, [&](Table* table) { EXPECT_TRUE(table->Upsert(next).ok()); },
      [&](const Table& table) {
        const std::optional<Socket> found = table.FindOne(old.key());
        return found == old || found == next;
      });
}

TEST(SocketTableOrders, AReplacedSocketIsThere) {
  TestAReplacedSocketIsThere(true);
  TestAReplacedSocketIsThere(false);
}

// A follower leaves one chain and is taken for another.
TEST(SocketTableOrders, AFollowerBelongsToOneChain) {
  const auto prepare = [&](Table* table) {
    for (uint16_t n = 0; n < 17; ++n) ASSERT_TRUE(table->Upsert(In(80, n)).ok());
    for (uint16_t n = 0; n < 16; ++n) ASSERT_TRUE(table->Upsert(In(81, n)).ok());
  };
  const auto write = [&](Table* table) {
    EXPECT_TRUE(table->Erase(In(80, 16).key(), In(80, 16).cookie));
    EXPECT_TRUE(table->Upsert(In(81, 16)).ok());
  };
  TryAllOrders(prepare, write, [&](const Table& table) {
    std::vector<Socket> all;
    table.Snapshot(&all);
    std::set<uint64_t> cookies;
    for (const Socket& s : all) cookies.insert(s.cookie);
    return cookies.size() == all.size() && all.size() >= 32;
  });
}

}  // namespace
}  // namespace utproxy
