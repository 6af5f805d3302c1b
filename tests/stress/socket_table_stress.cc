// SPDX-License-Identifier: GPL-3.0-or-later
//
// One writer and several readers at once, for a set time, on hashes good and colliding. Readers
// check of every socket that they get that it is whole, that it is no older than what the writer
// had acknowledged before the lookup, and that it had not been erased before; and of every lookup
// that it finds what is never erased.
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/select.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "sockets/table_testing.h"
#include "utproxy/socket_table.h"

namespace utproxy {
namespace {

constexpr uint32_t kSteady = 64;  // flows that are always there
constexpr uint32_t kGroup = 24;   // sockets of one key, of which the even ones are always there
constexpr uint16_t kGroupPort = 8080;
constexpr std::chrono::milliseconds kLeast(700);

uint32_t Mix(uint64_t n, uint32_t generation, uint32_t salt) {
  uint64_t x = (n << 32 | generation) * 0x9e3779b97f4a7c15u + salt;
  x ^= x >> 29;
  return static_cast<uint32_t>((x * 0xbf58476d1ce4e5b9u) >> 32);
}

// All fields beside the key follow from the cookie and the generation in `mark`.
Socket Fill(Socket s, uint32_t generation) {
  s.mark = generation;
  s.inode = Mix(s.cookie, generation, 1);
  s.ifindex = Mix(s.cookie, generation, 2);
  s.flags = static_cast<uint16_t>(Mix(s.cookie, generation, 3));
  return s;
}
bool Whole(const Socket& s) { return s == Fill(s, s.mark); }

Socket Flow(uint32_t n, uint32_t generation) { return Fill(FlowSocket(n, n + 1), generation); }
Socket Member(uint32_t n, uint32_t generation) {
  return Fill(ListenerSocket(kGroupPort, 1000000 + n, n), generation);
}

using Random = std::minstd_rand;

// What the writer has acknowledged of one socket: a generation, and whether it is there.
struct Acknowledged {
  std::atomic<uint32_t> written{0};  // there, at least in this generation (0: not yet)
  std::atomic<uint32_t> erased{0};   // gone up to this generation
};

// Stops threads for a moment wherever they happen to be, by a signal: in the middle of a lookup
// while the writer goes on, and in the middle of a change while readers do.
class Interruptions {
 public:
  explicit Interruptions(std::vector<pthread_t> threads) : threads_(std::move(threads)) {
    struct sigaction action = {};
    action.sa_handler = [](int) {
      const int saved = errno;
      timespec pause = {.tv_sec = 0, .tv_nsec = 100'000};
      pselect(0, nullptr, nullptr, nullptr, &pause, nullptr);
      errno = saved;
    };
    sigaction(SIGUSR1, &action, nullptr);
    thread_ = std::thread([this] { Run(); });
  }
  ~Interruptions() {
    stop_.store(true);
    thread_.join();
  }

 private:
  void Run() {
    for (size_t i = 0; !stop_.load(); ++i) {
      pthread_kill(threads_[i % threads_.size()], SIGUSR1);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
  const std::vector<pthread_t> threads_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

template <class Hasher>
class Stress {
 public:
  // `passing`: flows that come and go in waves.
  explicit Stress(uint32_t passing) : passing_(passing), flows_(kSteady + passing) {
    auto table = BasicSocketTable<Hasher>::Create({.max_sockets = 1 << 14});
    EXPECT_TRUE(table.ok()) << table.status();
    table_ = *std::move(table);
  }

  void Run() {
    for (uint32_t n = 0; n < kSteady; ++n) Put(n);
    for (uint32_t n = 0; n < kGroup; n += 2) PutMember(n);
    std::array readers = {std::thread([this] { Read(1, &Stress::CheckOne); }),
                          std::thread([this] { Read(2, &Stress::CheckBatch); }),
                          std::thread([this] { Read(3, &Stress::CheckGroup); }),
                          std::thread([this] { Read(4, &Stress::CheckSnapshot); })};
    {
      std::vector<pthread_t> threads = {pthread_self()};
      for (std::thread& reader : readers) threads.push_back(reader.native_handle());
      const Interruptions interruptions(std::move(threads));
      Write();
    }
    stop_.store(true);
    for (std::thread& reader : readers) reader.join();
    EXPECT_EQ(failures_, 0) << first_failure_;
    EXPECT_GT(lookups_.load(), 100u);
  }
  SocketTableStats stats() const { return table_->stats(); }

 private:
  using Clock = std::chrono::steady_clock;

  void Put(uint32_t n) {
    ++generation_;
    Check(table_->Upsert(Flow(n, generation_)).ok(), "an upsert failed");
    flows_[n].written.store(generation_, std::memory_order_release);
  }
  void Take(uint32_t n) {
    if (!table_->Erase(Flow(n, 0).key(), n + 1)) return;
    flows_[n].erased.store(generation_, std::memory_order_release);
  }
  void PutMember(uint32_t n) {
    ++generation_;
    Check(table_->Upsert(Member(n, generation_)).ok(), "an upsert failed");
    members_[n].written.store(generation_, std::memory_order_release);
  }
  void TakeMember(uint32_t n) {
    if (!table_->Erase(Member(n, 0).key(), 1000000 + n)) return;
    members_[n].erased.store(generation_, std::memory_order_release);
  }

  void Write() {
    Random random(0);
    const Clock::time_point end = Clock::now() + kLeast;
    // Up and down at least once, however slow the machine is.
    for (uint32_t wave = 0; wave < 2 || Clock::now() < end; ++wave) {
      for (uint32_t i = 0; i < passing_; ++i) {
        const uint32_t n = kSteady + (i * 7 + wave) % passing_;
        wave % 2 == 0 ? Put(n) : Take(n);
        Put(Below(&random, kSteady));
        PutMember(Below(&random, kGroup / 2) * 2);
        const uint32_t passing = Below(&random, kGroup / 2) * 2 + 1;
        Below(&random, 2) == 0 ? PutMember(passing) : TakeMember(passing);
      }
    }
  }

  void Read(uint32_t seed, void (Stress::*check)(Random*)) {
    Random random(seed);
    while (!stop_.load(std::memory_order_relaxed)) {
      (this->*check)(&random);
      lookups_.fetch_add(1, std::memory_order_relaxed);
    }
  }

  // What a reader knows of a flow before it looks it up.
  struct Known {
    uint32_t written;
    uint32_t erased;
  };
  static Known Before(const Acknowledged& a) {
    // `erased` second: where it is under `written`, the socket was there when this was read.
    const uint32_t written = a.written.load(std::memory_order_acquire);
    return {written, a.erased.load(std::memory_order_acquire)};
  }

  void CheckFlow(uint32_t n, const Known& known, const std::optional<Socket>& found) {
    if (!found) {
      Check(n >= kSteady, "a steady flow was missed");
      return;
    }
    Check(found->key() == Flow(n, 0).key() && found->cookie == n + 1, "the wrong socket");
    Check(Whole(*found), "a torn socket");
    Check(found->mark > known.erased, "a socket that had been erased");
    Check(found->mark >= known.written, "a socket that had been replaced");
  }

  static uint32_t Below(Random* random, uint32_t limit) {
    return static_cast<uint32_t>((*random)() >> 4) % limit;
  }
  uint32_t Draw(Random* random) const {
    return Below(random, Below(random, 2) == 0 ? kSteady : kSteady + passing_);
  }

  void CheckOne(Random* random) {
    const uint32_t n = Draw(random);
    const Known known = Before(flows_[n]);
    CheckFlow(n, known, table_->FindOne(Flow(n, 0).key()));
  }

  void CheckBatch(Random* random) {
    std::vector<uint32_t> flows(1 + Below(random, 70));
    std::vector<Known> known;
    std::vector<FlowKey> keys;
    for (uint32_t& n : flows) {
      n = Draw(random);
      known.push_back(Before(flows_[n]));
      keys.push_back(Flow(n, 0).key());
    }
    std::vector<std::optional<Socket>> found(keys.size());
    table_->FindBatch(keys, [&](size_t i, const auto& socket) { found[i] = socket; });
    for (size_t i = 0; i < flows.size(); ++i) CheckFlow(flows[i], known[i], found[i]);
  }

  void CheckGroup(Random*) {
    std::array<Known, kGroup> known;
    for (uint32_t n = 0; n < kGroup; ++n) known[n] = Before(members_[n]);
    absl::InlinedVector<Socket, 8> found;
    table_->FindAll(Member(0, 0).key(), &found);
    uint32_t next = 0, steady = 0;
    for (const Socket& s : found) {
      const uint32_t n = s.order;
      Check(Whole(s) && n < kGroup && s.cookie == 1000000 + n, "a torn or wrong member");
      if (n >= kGroup) return;
      Check(n >= next, "members out of order or twice");
      next = n + 1;
      steady += n % 2 == 0;
      Check(s.mark > known[n].erased, "a member that had been erased");
      Check(s.mark >= known[n].written, "a member that had been replaced");
    }
    Check(steady == kGroup / 2, "a steady member was missed");
    const std::optional<Socket> first = table_->FindOne(Member(0, 0).key());
    Check(first && first->order == 0 && Whole(*first), "the first member was missed");
  }

  void CheckSnapshot(Random*) {
    std::vector<Known> known;
    for (uint32_t n = 0; n < flows_.size(); ++n) known.push_back(Before(flows_[n]));
    std::vector<Socket> all;
    table_->Snapshot(&all);
    std::vector<int> seen(flows_.size());
    uint32_t members = 0;
    for (const Socket& s : all) {
      Check(Whole(s), "a torn socket in a snapshot");
      if (s.cookie >= 1000000) {
        members += s.order % 2 == 0;
        continue;
      }
      const uint32_t n = static_cast<uint32_t>(s.cookie) - 1;
      CheckFlow(n, known[n], s);
      ++seen[n];
    }
    for (uint32_t n = 0; n < kSteady; ++n)
      Check(seen[n] == 1, "a steady flow not once in a snapshot");
    Check(members == kGroup / 2, "steady members not once in a snapshot");
  }

  void Check(bool holds, const char* what) {
    if (holds) return;
    const std::lock_guard<std::mutex> lock(failure_mutex_);
    if (failures_++ == 0) first_failure_ = what;
  }

  const uint32_t passing_;
  std::unique_ptr<BasicSocketTable<Hasher>> table_;
  uint32_t generation_ = 0;
  std::vector<Acknowledged> flows_;
  std::array<Acknowledged, kGroup> members_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> lookups_{0};
  std::mutex failure_mutex_;
  int failures_ = 0;
  std::string first_failure_;
};

constexpr uint32_t kManyBuckets = 3000;  // enough to grow and shrink
constexpr uint32_t kLongChains = 200;

TEST(SocketTableStress, KeyedHash) {
  Stress<FlowHash> stress(kManyBuckets);
  stress.Run();
  EXPECT_GE(stress.stats().rebuilds, 3u);
}

TEST(SocketTableStress, OneChain) { Stress<ConstantHash<0>>(kLongChains).Run(); }

TEST(SocketTableStress, FewBuckets) { Stress<MaskedHash<uint64_t{15} << 60>>(kLongChains).Run(); }

TEST(SocketTableStress, FewTags) {
  Stress<MaskedHash<uint64_t{0xff} << 56>> stress(kManyBuckets);
  stress.Run();
  EXPECT_GE(stress.stats().rebuilds, 3u);
}

}  // namespace
}  // namespace utproxy
