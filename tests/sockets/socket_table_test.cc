// SPDX-License-Identifier: GPL-3.0-or-later
#include "utproxy/socket_table.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <random>

#include "table_testing.h"

namespace utproxy {
namespace {

using Found = absl::InlinedVector<Socket, 8>;

template <class Table>
std::unique_ptr<Table> MakeTable(size_t max_sockets) {
  absl::StatusOr<std::unique_ptr<Table>> table = Table::Create({.max_sockets = max_sockets});
  EXPECT_TRUE(table.ok()) << table.status();
  return *std::move(table);
}

bool KeyLess(const FlowKey& a, const FlowKey& b) { return std::memcmp(&a, &b, sizeof(a)) < 0; }

// What the table has to be: a multimap that is searched from end to end.
class Model {
 public:
  bool Upsert(const Socket& socket, size_t max) {
    if (Socket* known = Find(socket.key(), socket.cookie)) {
      *known = socket;
      return true;
    }
    if (sockets_.size() == max) return false;
    sockets_.emplace(socket.key(), socket);
    return true;
  }
  bool Erase(const FlowKey& key, uint64_t cookie) {
    auto [first, last] = sockets_.equal_range(key);
    for (; first != last; ++first) {
      if (first->second.cookie != cookie) continue;
      sockets_.erase(first);
      return true;
    }
    return false;
  }
  template <class Predicate>
  size_t EraseIf(Predicate predicate) {
    return std::erase_if(sockets_, [&](const auto& e) { return predicate(e.second); });
  }
  Found All(const FlowKey& key) const {
    Found found;
    auto [first, last] = sockets_.equal_range(key);
    for (; first != last; ++first) found.push_back(first->second);
    std::sort(found.begin(), found.end(), [](const Socket& a, const Socket& b) {
      return std::pair(a.order, a.cookie) < std::pair(b.order, b.cookie);
    });
    return found;
  }
  // By key and cookie.
  std::vector<Socket> Everything() const {
    std::vector<Socket> all;
    for (const auto& [key, socket] : sockets_) all.push_back(socket);
    return all;
  }
  size_t size() const { return sockets_.size(); }

 private:
  Socket* Find(const FlowKey& key, uint64_t cookie) {
    auto [first, last] = sockets_.equal_range(key);
    for (; first != last; ++first) {
      if (first->second.cookie == cookie) return &first->second;
    }
    return nullptr;
  }
  std::multimap<FlowKey, Socket, decltype(&KeyLess)> sockets_{&KeyLess};
};

void SortAll(std::vector<Socket>* sockets) {
  std::sort(sockets->begin(), sockets->end(), [](const Socket& a, const Socket& b) {
    const FlowKey ka = a.key(), kb = b.key();
    return ka == kb ? a.cookie < b.cookie : KeyLess(ka, kb);
  });
}

struct Shape {
  size_t max_sockets;
  uint32_t keys;     // flows drawn from
  uint32_t cookies;  // sockets a flow can have
  int steps;
  int wave;  // steps after which growing turns into shrinking and back
};

template <class Hasher>
class Steps {
 public:
  Steps(const Shape& shape, uint32_t seed)
      : shape_(shape),
        random_(seed),
        table_(MakeTable<BasicSocketTable<Hasher>>(shape.max_sockets)) {}

  void Run() {
    for (int i = 0; i < shape_.steps; ++i) {
      const bool growing = i / shape_.wave % 2 == 0;
      Step(growing);
      if (testing::Test::HasFailure()) return;
      if (i % (shape_.wave / 4) == 0) CompareEverything();
    }
    CompareEverything();
  }
  SocketTableStats stats() const { return table_->stats(); }

 private:
  Socket Draw() {
    Socket s = FlowSocket(Below(shape_.keys), 1 + Below(shape_.cookies));
    s.order = Below(4);
    s.inode = Below(3);
    return s;
  }
  uint32_t Below(uint32_t limit) { return static_cast<uint32_t>(random_() % limit); }

  void Step(bool growing) {
    const Socket s = Draw();
    if (Below(20) == 0) {
      UpsertSeveral();
    } else if (Below(10) < (growing ? 8u : 2u)) {
      const absl::Status status = table_->Upsert(s);
      EXPECT_EQ(status.ok(), model_.Upsert(s, shape_.max_sockets)) << status;
      EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    } else if (Below(500) == 0) {
      table_->Reserve(Below(2) == 0 ? 0 : Below(static_cast<uint32_t>(2 * shape_.max_sockets)));
    } else if (Below(500) == 0) {
      const uint32_t inode = Below(3);
      const auto predicate = [&](const Socket& x) { return x.inode == inode; };
      EXPECT_EQ(table_->EraseIf(predicate), model_.EraseIf(predicate));
    } else {
      EXPECT_EQ(table_->Erase(s.key(), s.cookie), model_.Erase(s.key(), s.cookie));
    }
    CompareKey(s.key());
    CompareKey(Draw().key());
    EXPECT_EQ(table_->size(), model_.size());
  }

  void UpsertSeveral() {
    std::vector<Socket> sockets(Below(70));
    bool all = true;
    for (Socket& socket : sockets) {
      socket = Draw();
      all = model_.Upsert(socket, shape_.max_sockets) && all;
    }
    EXPECT_EQ(table_->UpsertAll(sockets).ok(), all);
  }

  void CompareKey(const FlowKey& key) {
    const Found expected = model_.All(key);
    Found found;
    table_->FindAll(key, &found);
    EXPECT_EQ(found, expected);
    const std::optional<Socket> one = table_->FindOne(key);
    EXPECT_EQ(one, expected.empty() ? std::nullopt : std::optional(expected.front()));
  }

  void CompareEverything() {
    std::vector<Socket> expected = model_.Everything(), walked, copied;
    SortAll(&expected);
    table_->ForEach([&](const Socket& s) { walked.push_back(s); });
    SortAll(&walked);
    EXPECT_TRUE(walked == expected);
    table_->Snapshot(&copied);
    SortAll(&copied);
    EXPECT_TRUE(copied == expected);
    std::vector<FlowKey> keys;
    for (uint32_t n = 0; n < shape_.keys; ++n) keys.push_back(FlowSocket(n, 0).key());
    table_->Prefetch(keys);
    table_->PrefetchToWrite(keys);
    std::vector<std::optional<Socket>> found(keys.size());
    table_->FindBatch(keys, [&](size_t i, const auto& socket) { found[i] = socket; });
    for (size_t i = 0; i < keys.size(); ++i) {
      const Found all = model_.All(keys[i]);
      EXPECT_EQ(found[i], all.empty() ? std::nullopt : std::optional(all.front()));
    }
  }

  const Shape shape_;
  std::mt19937_64 random_;
  std::unique_ptr<BasicSocketTable<Hasher>> table_;
  Model model_;
};

TEST(SocketTableSteps, GrowsAndShrinks) {
  Steps<FlowHash> steps(
      {.max_sockets = 1 << 16, .keys = 6000, .cookies = 1, .steps = 60000, .wave = 10000}, 1);
  steps.Run();
  EXPECT_GE(steps.stats().rebuilds, 12u);
}

TEST(SocketTableSteps, SeveralSocketsAKey) {
  Steps<FlowHash>({.max_sockets = 4096, .keys = 40, .cookies = 30, .steps = 20000, .wave = 2500}, 2)
      .Run();
}

TEST(SocketTableSteps, Full) {
  Steps<FlowHash> steps(
      {.max_sockets = 300, .keys = 500, .cookies = 2, .steps = 20000, .wave = 4000}, 3);
  steps.Run();
  EXPECT_GT(steps.stats().rejected, 0u);
}

TEST(SocketTableSteps, OneChain) {
  Steps<ConstantHash<0x123456789abcdef0>>(
      {.max_sockets = 512, .keys = 200, .cookies = 2, .steps = 12000, .wave = 2000}, 4)
      .Run();
}

// The tag that an empty slot seems to have.
TEST(SocketTableSteps, TagZero) {
  Steps<ConstantHash<0>>({.max_sockets = 512, .keys = 8, .cookies = 4, .steps = 4000, .wave = 400},
                         5)
      .Run();
}

TEST(SocketTableSteps, FewBuckets) {
  Steps<MaskedHash<uint64_t{7} << 61>> steps(
      {.max_sockets = 4096, .keys = 1200, .cookies = 2, .steps = 12000, .wave = 3000}, 7);
  steps.Run();
  EXPECT_GE(steps.stats().rebuilds, 2u);
}

TEST(SocketTableSteps, FewTagsInAllBuckets) {
  Steps<MaskedHash<uint64_t{0x3f} << 58>>(
      {.max_sockets = 4096, .keys = 1200, .cookies = 2, .steps = 12000, .wave = 2000}, 8)
      .Run();
}

TEST(SocketTable, RefusesWhatItCannotHold) {
  EXPECT_TRUE(absl::IsInvalidArgument(SocketTable::Create({.max_sockets = 0}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(SocketTable::Create({.max_sockets = 1 << 24}).status()));
  EXPECT_TRUE(SocketTable::Create({.max_sockets = (1 << 24) - 1}).ok());
  const auto table = MakeTable<SocketTable>(1);
  Socket s = FlowSocket(1, 1);
  s.proto = static_cast<Proto>(0);
  EXPECT_TRUE(absl::IsInvalidArgument(table->Upsert(s)));
  EXPECT_EQ(table->size(), 0u);
}

TEST(SocketTable, AFullTableRefusesNewAndReplacesOld) {
  const auto table = MakeTable<SocketTable>(10);
  for (uint32_t n = 0; n < 10; ++n) ASSERT_TRUE(table->Upsert(FlowSocket(n, n)).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(table->Upsert(FlowSocket(10, 10))));
  EXPECT_EQ(table->stats().rejected, 1u);
  EXPECT_FALSE(table->FindOne(FlowSocket(10, 10).key()));
  Socket changed = FlowSocket(3, 3);
  changed.mark = 7;
  EXPECT_TRUE(table->Upsert(changed).ok());
  EXPECT_EQ(table->FindOne(changed.key()), changed);
  EXPECT_TRUE(table->Erase(changed.key(), 3));
  EXPECT_TRUE(table->Upsert(FlowSocket(10, 10)).ok());
  EXPECT_TRUE(table->FindOne(FlowSocket(10, 10).key()));
}

TEST(SocketTable, OneChainGrowsAndShrinks) {
  const auto table = MakeTable<BasicSocketTable<ConstantHash<~uint64_t{0}>>>(2000);
  for (uint32_t n = 0; n < 1100; ++n) ASSERT_TRUE(table->Upsert(FlowSocket(n, n)).ok());
  const uint64_t grown = table->stats().rebuilds;
  EXPECT_GE(grown, 4u);
  for (uint32_t n = 0; n < 1100; ++n) ASSERT_EQ(table->FindOne(FlowSocket(n, n).key())->cookie, n);
  EXPECT_EQ(table->EraseIf([](const Socket& s) { return s.cookie % 5 != 0; }), 880u);
  EXPECT_EQ(table->stats().rebuilds, grown + 1);
  for (uint32_t n = 0; n < 1100; ++n) {
    ASSERT_EQ(table->FindOne(FlowSocket(n, n).key()).has_value(), n % 5 == 0) << n;
  }
}

TEST(SocketTable, ListenersOfAKeyComeInChainOrder) {
  const auto table = MakeTable<SocketTable>(100);
  for (const auto& [cookie, order] : {std::pair(1, 5), std::pair(2, 3), std::pair(3, 9)}) {
    ASSERT_TRUE(table->Upsert(ListenerSocket(80, cookie, order)).ok());
  }
  ASSERT_TRUE(table->Upsert(ListenerSocket(81, 4, 0)).ok());
  const FlowKey key{.local_port = 80};
  Found found;
  table->FindAll(key, &found);
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].cookie, 2u);
  EXPECT_EQ(found[1].cookie, 1u);
  EXPECT_EQ(found[2].cookie, 3u);
  EXPECT_EQ(table->FindOne(key)->cookie, 2u);
  ASSERT_TRUE(table->Erase(key, 2));
  EXPECT_EQ(table->FindOne(key)->cookie, 1u);
}

TEST(SocketTable, ProtocolsAndPortsAreTold) {
  const auto table = MakeTable<SocketTable>(100);
  Socket s = ListenerSocket(53, 1, 0);
  s.proto = Proto::kUdp;
  ASSERT_TRUE(table->Upsert(s).ok());
  EXPECT_FALSE(table->FindOne({.local_port = 53}));
  EXPECT_FALSE(table->FindOne({.remote_port = 53, .proto = Proto::kUdp}));
  EXPECT_TRUE(table->FindOne({.local_port = 53, .proto = Proto::kUdp}));
}

TEST(SocketTable, MemoryStaysWithinItsBoundsAndIsGivenBack) {
  const auto table = MakeTable<SocketTable>(1 << 18);
  const size_t empty = table->stats().bytes;
  constexpr uint32_t kCount = 200000;
  for (uint32_t n = 0; n < kCount; ++n) {
    ASSERT_TRUE(table->Upsert(FlowSocket(n, n)).ok());
    ASSERT_LE(table->stats().bytes, 128 * table->size() + empty) << n;
  }
  const size_t full = table->stats().bytes;
  for (uint32_t n = 0; n < kCount; ++n) {
    ASSERT_EQ(n % 1000 == 0 || table->Erase(FlowSocket(n, 0).key(), n), true);
  }
  EXPECT_EQ(table->size(), kCount / 1000);
  EXPECT_LT(table->stats().bytes, full / 50);
  for (uint32_t n = 0; n < kCount; n += 1000) EXPECT_TRUE(table->FindOne(FlowSocket(n, 0).key()));
}

TEST(SocketTable, RoomReservedIsKeptUntilItIsNot) {
  const auto table = MakeTable<SocketTable>(1 << 18);
  const size_t empty = table->stats().bytes;
  table->Reserve(100000);
  EXPECT_EQ(table->stats().rebuilds, 1u);
  for (uint32_t n = 0; n < 100000; ++n) ASSERT_TRUE(table->Upsert(FlowSocket(n, n)).ok());
  for (uint32_t n = 0; n < 100000; ++n) ASSERT_TRUE(table->Erase(FlowSocket(n, 0).key(), n));
  EXPECT_EQ(table->stats().rebuilds, 1u);
  table->Reserve(0);
  EXPECT_EQ(table->stats().rebuilds, 2u);
  EXPECT_EQ(table->stats().bytes, empty);
}

// In a process of its own, whose limit on memory is then its own too.
void GrowUntilRefused() {
  const auto table = MakeTable<SocketTable>(1 << 22);
  for (uint32_t n = 0; n < 1000; ++n) {
    if (!table->Upsert(FlowSocket(n, n)).ok()) _exit(1);
  }
  std::ifstream statm("/proc/self/statm");
  size_t pages[6];
  for (size_t& field : pages) statm >> field;
  // The sixth is what RLIMIT_DATA limits, and the program's stack.
  const rlim_t limit = pages[5] * 4096 + (16 << 20);
  const rlimit limits = {.rlim_cur = limit, .rlim_max = limit};
  if (setrlimit(RLIMIT_DATA, &limits) != 0) _exit(2);
  uint32_t n = 1000;
  absl::Status status;
  while (n < 1000000 && status.ok()) {
    status = table->Upsert(FlowSocket(n, n));
    n += status.ok();
  }
  if (!absl::IsResourceExhausted(status) || table->stats().rejected != 1) _exit(3);
  if (table->Upsert(FlowSocket(n, n)).ok() || table->size() != n) _exit(4);
  for (uint32_t i = 0; i < n; ++i) {
    if (table->FindOne(FlowSocket(i, 0).key()) != FlowSocket(i, i)) _exit(5);
  }
  for (uint32_t i = n / 4; i < n; ++i) table->Erase(FlowSocket(i, 0).key(), i);
  if (!table->Upsert(FlowSocket(n, n)).ok()) _exit(6);
  fprintf(stderr, "%s", std::string(status.message()).c_str());
  _exit(0);
}

TEST(SocketTableDeathTest, MemoryRefusedByTheSystemIsAnErrorAndNothingElse) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer's own memory would be refused";
#endif
  EXPECT_EXIT(GrowUntilRefused(), testing::ExitedWithCode(0), "getting .* the socket table");
}

}  // namespace
}  // namespace utproxy
