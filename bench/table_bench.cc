// SPDX-License-Identifier: GPL-3.0-or-later
//
// How long a lookup in the socket table takes, one by one and batched, against other maps, see
// table_contenders.h. All hold the same sockets, are asked for the same keys in the same random
// order, and must give the same checksum.
//
// Names are CONTENDER/entries/hit or miss/v4 or v6/changes a second/readers. An iteration is
// kBlock lookups. `bytes` is the memory that a socket takes, by the growth of the process.
// bench/table_report.py runs it and reads its JSON.
#include <absl/strings/str_cat.h>
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "table_contenders.h"

namespace utproxy {
namespace {

struct Case {
  size_t entries;
  bool v6;
  bool hit;
  auto operator<=>(const Case&) const = default;
};

// Sockets 0..entries-1 are stored; misses ask for those that follow.
struct Lookups {
  std::vector<FlowKey> keys;
  uint64_t checksum = 0;  // of the cookies that a pass over the keys finds
};

const Lookups& MakeLookups(const Case& c) {
  static std::map<Case, Lookups> made;
  Lookups& lookups = made[c];
  if (!lookups.keys.empty()) return lookups;
  const size_t count = std::max<size_t>(c.entries, 1 << 14) / kBlock * kBlock;
  for (size_t i = 0; i < count; ++i) {
    const Socket s = MakeSocket(i % c.entries + (c.hit ? 0 : c.entries), c.v6);
    lookups.keys.push_back(s.key());
    if (c.hit) lookups.checksum += s.cookie;
  }
  std::shuffle(lookups.keys.begin(), lookups.keys.end(), std::mt19937(1));
  return lookups;
}

template <class Contender>
struct Prepared {
  explicit Prepared(const std::vector<Socket>& sockets) {
    ::malloc_trim(0);  // so that it is not made of memory that others have freed
    const size_t before = ResidentBytes();
    contender = std::make_unique<Contender>(sockets);
    bytes = static_cast<double>(ResidentBytes() - before) / static_cast<double>(sockets.size());
  }
  std::unique_ptr<Contender> contender;
  double bytes = 0;
};

template <class Contender>
Prepared<Contender>& Prepare(const Case& c) {
  static std::map<std::pair<size_t, bool>, std::unique_ptr<Prepared<Contender>>> made;
  auto& prepared = made[{c.entries, c.v6}];
  if (prepared == nullptr) {
    const std::vector<Socket> sockets = MakeSockets(c.entries, c.v6);
    prepared = std::make_unique<Prepared<Contender>>(sockets);
  }
  return *prepared;
}

// Changes `rate` sockets a second, chosen at random, until destroyed.
template <class Contender>
class Changes {
 public:
  Changes(Contender* contender, const Case& c, int64_t rate)
      : thread_([this, contender, c, rate] { Run(contender, c, rate); }) {}
  ~Changes() {
    stop_.store(true);
    thread_.join();
  }

 private:
  void Run(Contender* contender, const Case& c, int64_t rate) {
    using Clock = std::chrono::steady_clock;
    std::mt19937_64 random(2);
    const Clock::time_point start = Clock::now();
    for (int64_t done = 0; !stop_.load(std::memory_order_relaxed);) {
      const auto due = (Clock::now() - start) / std::chrono::microseconds(1) * rate / 1'000'000;
      for (; done < due; ++done) {
        Socket s = MakeSocket(random() % c.entries, c.v6);
        s.mark = static_cast<uint32_t>(done);
        contender->Replace(s);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// A pass over all keys, as a check and to warm up; then as many blocks as are asked for.
template <class Contender>
void Measure(benchmark::State& state, const Case& c, int64_t changes) {
  static std::mutex preparing;
  std::unique_lock<std::mutex> lock(preparing);
  Prepared<Contender>& prepared = Prepare<Contender>(c);
  const Lookups& lookups = MakeLookups(c);
  lock.unlock();
  Contender& contender = *prepared.contender;
  const Keys keys(lookups.keys);
  std::unique_ptr<Changes<Contender>> changing;
  if constexpr (Contender::kWritable) {
    if (changes > 0 && state.thread_index() == 0) {
      changing = std::make_unique<Changes<Contender>>(&contender, c, changes);
    }
  }
  uint64_t checksum = 0;
  for (size_t i = 0; i < keys.size(); i += kBlock)
    checksum += contender.Find(keys.subspan(i, kBlock));
  if (checksum != lookups.checksum) state.SkipWithError("wrong checksum");
  // Readers start apart, so that one does not warm the cache for the other.
  size_t at = keys.size() / kBlock / state.threads() * state.thread_index() * kBlock;
  for (auto _ : state) {
    benchmark::DoNotOptimize(contender.Find(keys.subspan(at, kBlock)));
    at = at + kBlock == keys.size() ? 0 : at + kBlock;
  }
  using benchmark::Counter;
  state.counters["bytes"] = Counter(prepared.bytes, Counter::kAvgThreads);
  state.counters["checksum"] = Counter(static_cast<double>(checksum), Counter::kAvgThreads);
}

template <class Contender>
void Register(const std::string& name) {
  for (const size_t entries : {1000, 100000, 1000000}) {
    for (const int variant : {0, 1, 2, 3}) {
      const Case c{.entries = entries, .v6 = variant % 2 != 0, .hit = variant / 2 == 0};
      for (const int64_t changes : {0, 10000, 100000}) {
        if (changes != 0 && !Contender::kWritable) continue;
        for (const int readers : {1, 2}) {
          const std::string full =
              absl::StrCat(name, "/", entries, c.hit ? "/hit" : "/miss", c.v6 ? "/v6" : "/v4",
                           "/changes:", changes, "/readers:", readers);
          auto* registered = benchmark::RegisterBenchmark(
              full.c_str(), [c, changes](auto& state) { Measure<Contender>(state, c, changes); });
          registered->Threads(readers)->UseRealTime();
        }
      }
    }
  }
}

// What the machine itself gives a second thread that has nothing in common with the first: for
// arithmetic, and for reading memory of its own at random. Processors of a virtual machine may be
// two threads of one core, and share a memory's bandwidth in any case.
void ControlArithmetic(benchmark::State& state) {
  uint64_t x = state.thread_index() + 1;
  for (auto _ : state) {
    for (size_t i = 0; i < 16 * kBlock; ++i) x = x * 6364136223846793005u + i;
    benchmark::DoNotOptimize(x);
  }
  state.counters["bytes"] = 0;
}

void ControlMemory(benchmark::State& state) {
  constexpr int kBits = 23;
  const std::vector<uint64_t> memory(size_t{1} << kBits, 1);  // 64 MB
  uint64_t x = state.thread_index() + 1;
  for (auto _ : state) {
    uint64_t sum = 0;
    for (size_t i = 0; i < kBlock; ++i) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      sum += memory[x >> (64 - kBits)];
    }
    benchmark::DoNotOptimize(sum);
  }
  state.counters["bytes"] = 0;
}

void RegisterControls() {
  for (const int readers : {1, 2}) {
    const std::string rest = absl::StrCat("/1000000/hit/v4/changes:0/readers:", readers);
    benchmark::RegisterBenchmark(("control_arithmetic" + rest).c_str(), ControlArithmetic)
        ->Threads(readers)
        ->UseRealTime();
    benchmark::RegisterBenchmark(("control_memory" + rest).c_str(), ControlMemory)
        ->Threads(readers)
        ->UseRealTime();
  }
}

void RegisterAll() {
  RegisterControls();
  Register<Table>("table");
  Register<TableBatched>("table_batched");
  Register<FlatHashMap<AbseilHash>>("flat_hash_map");
  Register<FlatHashMap<KeyedHash>>("flat_hash_map_keyed");
  Register<MutexMap>("flat_hash_map_mutex");
  Register<SharedMutexMap>("flat_hash_map_shared_mutex");
#ifdef UTPROXY_HAVE_TBB
  Register<TbbMap>("tbb_hash_map");
#endif
#ifdef UTPROXY_HAVE_URCU
  Register<CdsLfht>("cds_lfht");
#endif
}

}  // namespace
}  // namespace utproxy

int main(int argc, char** argv) {
  utproxy::RegisterAll();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
