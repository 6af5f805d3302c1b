// SPDX-License-Identifier: GPL-3.0-or-later
//
// One writer and several readers at once, for a set time, on hashes good and colliding.
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/select.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>
#include <vector>

#include "stress/table_checks.h"

namespace utproxy {
namespace {

constexpr std::chrono::milliseconds kLeast(700);

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
  explicit Stress(uint32_t passing) : checks_({.steady = 64, .passing = passing, .group = 24}) {}

  void Run() {
    constexpr auto kKinds = TableChecks<Hasher>::kKinds;
    std::vector<std::thread> readers;
    for (size_t i = 0; i < kKinds.size(); ++i) {
      readers.emplace_back([this, i, kKinds] { Read(static_cast<uint32_t>(i + 1), kKinds[i]); });
    }
    {
      std::vector<pthread_t> threads = {pthread_self()};
      for (std::thread& reader : readers) threads.push_back(reader.native_handle());
      const Interruptions interruptions(std::move(threads));
      const Clock::time_point end = Clock::now() + kLeast;
      // Up and down at least once, however slow the machine is.
      checks_.Write([&](uint32_t waves) { return waves < 2 || Clock::now() < end; });
    }
    stop_.store(true);
    for (std::thread& reader : readers) reader.join();
    EXPECT_EQ(checks_.failures(), 0) << checks_.first_failure();
    EXPECT_GT(lookups_.load(), 100u);
  }
  SocketTableStats stats() const { return checks_.stats(); }

 private:
  using Clock = std::chrono::steady_clock;

  void Read(uint32_t seed, void (TableChecks<Hasher>::*check)(Random*)) {
    Random random(seed);
    while (!stop_.load(std::memory_order_relaxed)) {
      (checks_.*check)(&random);
      lookups_.fetch_add(1, std::memory_order_relaxed);
    }
  }

  TableChecks<Hasher> checks_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> lookups_{0};
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
