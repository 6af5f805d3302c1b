// SPDX-License-Identifier: GPL-3.0-or-later
//
// How long a lookup in the socket table takes, one by one and batched, against maps that do less:
// an absl::flat_hash_map without any lock, and liburcu's cds_lfht (QSBR). All hold the same
// sockets, are asked for the same keys in the same random order, and must give the same checksum.
//
// Names are CONTENDER/entries/hit or miss/v4 or v6/changes a second/threads. `lookup` is seconds
// per lookup of all threads together; `bytes` is memory per socket, 0 where the contender does not
// tell.
#include <absl/container/flat_hash_map.h>
#include <absl/hash/hash.h>
#include <absl/strings/str_cat.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <tuple>

#include "utproxy/socket_table.h"

#ifdef UTPROXY_HAVE_URCU
#include <urcu-qsbr.h>
#include <urcu/rculfhash.h>
#endif

namespace utproxy {
namespace {

constexpr size_t kBlock = 64;  // lookups an iteration, as a queue's batch has packets

struct Keys {
  size_t entries;
  bool hit;
  bool v6;
  auto operator<=>(const Keys&) const = default;
};

Socket MakeSocket(uint64_t n, bool v6) {
  // Clients from a few thousand hosts to a few services, ports as the kernel gives them.
  const uint64_t mixed = n * 0x9e3779b97f4a7c15u;
  uint8_t bytes[16] = {0x20, 0x01, 0x0d, 0xb8};
  std::memcpy(&bytes[8], &mixed, 4);
  const auto host = static_cast<uint32_t>(0x0a000000 + (n >> 8));
  Socket s;
  s.remote = v6 ? Address::FromIpv6(bytes) : Address::FromIpv4(__builtin_bswap32(host));
  bytes[15] = static_cast<uint8_t>(1 + n % 3);
  s.local = v6 ? Address::FromIpv6(bytes) : Address::FromIpv4(__builtin_bswap32(0xc6336400));
  s.local_port = 443;
  s.remote_port = static_cast<uint16_t>(32768 + (n & 0xff) * 101 + n % 97);
  s.state = SockState::kEstablished;
  s.cookie = n + 1;
  return s;
}

// Sockets 0..entries-1 are stored; misses ask for those that follow.
std::vector<Socket> StoredSockets(const Keys& k) {
  std::vector<Socket> sockets;
  for (size_t n = 0; n < k.entries; ++n) sockets.push_back(MakeSocket(n, k.v6));
  return sockets;
}

struct Lookups {
  std::vector<FlowKey> keys;
  uint64_t checksum = 0;  // of the cookies that a pass over the keys finds
};

const Lookups& MakeLookups(const Keys& k) {
  static std::map<Keys, Lookups> made;
  Lookups& lookups = made[k];
  if (!lookups.keys.empty()) return lookups;
  const size_t count = std::max<size_t>(k.entries, 1 << 14) / kBlock * kBlock;
  for (size_t i = 0; i < count; ++i) {
    const Socket s = MakeSocket(i % k.entries + (k.hit ? 0 : k.entries), k.v6);
    lookups.keys.push_back(s.key());
    if (k.hit) lookups.checksum += s.cookie;
  }
  std::shuffle(lookups.keys.begin(), lookups.keys.end(), std::mt19937(1));
  return lookups;
}

// The contenders: Find adds what it finds of a block to a checksum.
class Table {
 public:
  explicit Table(const Keys& k) {
    auto table = SocketTable::Create({});
    if (!table.ok()) std::abort();
    table_ = *std::move(table);
    for (const Socket& s : StoredSockets(k)) {
      if (!table_->Upsert(s).ok()) std::abort();
    }
  }
  uint64_t Find(absl::Span<const FlowKey> keys) const {
    uint64_t sum = 0;
    for (const FlowKey& key : keys) {
      if (const std::optional<Socket> s = table_->FindOne(key)) sum += s->cookie;
    }
    return sum;
  }
  double bytes() const { return static_cast<double>(table_->stats().bytes); }
  SocketTable& table() { return *table_; }

 protected:
  std::unique_ptr<SocketTable> table_;
};

class TableBatched : public Table {
 public:
  using Table::Table;
  uint64_t Find(absl::Span<const FlowKey> keys) const {
    std::array<std::optional<Socket>, kBlock> found;
    table_->FindBatch(keys, absl::MakeSpan(found));
    uint64_t sum = 0;
    for (const std::optional<Socket>& s : found) sum += s ? s->cookie : 0;
    return sum;
  }
};

struct AbseilHash {
  size_t operator()(const FlowKey& key) const {
    return absl::HashOf(absl::string_view(reinterpret_cast<const char*>(&key), sizeof(key)));
  }
};

struct KeyedHash {
  size_t operator()(const FlowKey& key) const { return hash(key); }
  FlowHash hash = *FlowHash::Create();
};

template <class Hash>
class FlatHashMap {
 public:
  explicit FlatHashMap(const Keys& k) {
    for (const Socket& s : StoredSockets(k)) map_.emplace(s.key(), s);
  }
  uint64_t Find(absl::Span<const FlowKey> keys) const {
    uint64_t sum = 0;
    for (const FlowKey& key : keys) {
      if (const auto found = map_.find(key); found != map_.end()) sum += found->second.cookie;
    }
    return sum;
  }
  double bytes() const {
    return static_cast<double>(map_.capacity() * (sizeof(std::pair<FlowKey, Socket>) + 1));
  }

 private:
  absl::flat_hash_map<FlowKey, Socket, Hash> map_;
};

#ifdef UTPROXY_HAVE_URCU
class CdsLfht {
 public:
  explicit CdsLfht(const Keys& k) : hash_(*FlowHash::Create()) {
    RegisterThread();
    ht_ = cds_lfht_new(std::bit_ceil(k.entries), 1, 0, 0, nullptr);
    for (const Socket& s : StoredSockets(k)) {
      auto* node = new Node{.link = {}, .socket = s};
      cds_lfht_node_init(&node->link);
      cds_lfht_add(ht_, hash_(s.key()), &node->link);
    }
    rcu_quiescent_state();
  }
  uint64_t Find(absl::Span<const FlowKey> keys) const {
    RegisterThread();
    uint64_t sum = 0;
    rcu_read_lock();
    for (const FlowKey& key : keys) {
      cds_lfht_iter iter;
      cds_lfht_lookup(ht_, hash_(key), &Matches, &key, &iter);
      if (const cds_lfht_node* node = cds_lfht_iter_get_node(&iter)) {
        sum += reinterpret_cast<const Node*>(node)->socket.cookie;
      }
    }
    rcu_read_unlock();
    rcu_quiescent_state();
    return sum;
  }
  double bytes() const { return 0; }

 private:
  struct Registered {
    Registered() { rcu_register_thread(); }
    ~Registered() { rcu_unregister_thread(); }
  };
  static void RegisterThread() { thread_local const Registered registered; }
  struct Node {
    cds_lfht_node link;
    Socket socket;
  };
  static int Matches(cds_lfht_node* node, const void* key) {
    return reinterpret_cast<const Node*>(node)->socket.key() == *static_cast<const FlowKey*>(key);
  }
  FlowHash hash_;
  cds_lfht* ht_;
};
#endif

// Replaces `rate` sockets a second, in random order, until destroyed.
class Changes {
 public:
  Changes(SocketTable* table, const Keys& k, int64_t rate)
      : thread_([this, table, k, rate] { Run(table, k, rate); }) {}
  ~Changes() {
    stop_.store(true);
    thread_.join();
  }

 private:
  void Run(SocketTable* table, const Keys& k, int64_t rate) {
    using Clock = std::chrono::steady_clock;
    std::mt19937_64 random(2);
    const Clock::time_point start = Clock::now();
    for (int64_t done = 0; !stop_.load(std::memory_order_relaxed);) {
      const auto due = (Clock::now() - start) / std::chrono::microseconds(1) * rate / 1'000'000;
      for (; done < due; ++done) {
        Socket s = MakeSocket(random() % k.entries, k.v6);
        s.mark = static_cast<uint32_t>(done);
        if (!table->Upsert(s).ok()) std::abort();
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

template <class Contender>
Contender& Prepared(const Keys& k) {
  static std::map<Keys, std::unique_ptr<Contender>> prepared;
  std::unique_ptr<Contender>& contender = prepared[{k.entries, true, k.v6}];
  if (contender == nullptr) contender = std::make_unique<Contender>(k);
  return *contender;
}

// A pass over all keys, as a check and to warm up; then as many blocks as are asked for.
template <class Contender>
void Measure(benchmark::State& state, Keys k, int64_t changes) {
  static std::mutex preparing;
  std::unique_lock<std::mutex> lock(preparing);
  Contender& contender = Prepared<Contender>(k);
  const Lookups& lookups = MakeLookups(k);
  lock.unlock();
  const absl::Span<const FlowKey> keys(lookups.keys);
  std::unique_ptr<Changes> changing;
  if constexpr (std::is_base_of_v<Table, Contender>) {
    if (changes > 0 && state.thread_index() == 0) {
      changing = std::make_unique<Changes>(&contender.table(), k, changes);
    }
  }
  uint64_t checksum = 0;
  for (size_t i = 0; i < keys.size(); i += kBlock) {
    checksum += contender.Find(keys.subspan(i, kBlock));
  }
  if (checksum != lookups.checksum) state.SkipWithError("wrong checksum");
  // Readers start apart, so that one does not warm the cache for the other.
  size_t at = keys.size() / kBlock / state.threads() * state.thread_index() * kBlock;
  for (auto _ : state) {
    benchmark::DoNotOptimize(contender.Find(keys.subspan(at, kBlock)));
    at = at + kBlock == keys.size() ? 0 : at + kBlock;
  }
  using benchmark::Counter;
  state.counters["lookup"] = Counter(kBlock, Counter::kIsIterationInvariantRate | Counter::kInvert);
  state.counters["bytes"] =
      Counter(contender.bytes() / static_cast<double>(k.entries), Counter::kAvgThreads);
  state.counters["checksum"] = Counter(static_cast<double>(checksum), Counter::kAvgThreads);
}

template <class Contender>
void Register(const std::string& name, int readers, int64_t changes) {
  for (const size_t entries : {1000, 100000, 1000000}) {
    for (const bool v6 : {false, true}) {
      for (const bool hit : {true, false}) {
        const Keys k{.entries = entries, .hit = hit, .v6 = v6};
        const std::string full = absl::StrCat(name, "/", entries, hit ? "/hit" : "/miss",
                                              v6 ? "/v6" : "/v4", "/changes:", changes);
        auto* registered = benchmark::RegisterBenchmark(
            full.c_str(),
            [k, changes](benchmark::State& state) { Measure<Contender>(state, k, changes); });
        // Processor time leaves out what other processes take; it does not tell whether two
        // threads hinder each other.
        if (readers > 1) registered->Threads(readers)->UseRealTime();
      }
    }
  }
}

void RegisterAll() {
  Register<FlatHashMap<AbseilHash>>("flat_hash_map", 1, 0);
  Register<FlatHashMap<KeyedHash>>("flat_hash_map_keyed", 1, 0);
#ifdef UTPROXY_HAVE_URCU
  Register<CdsLfht>("cds_lfht", 1, 0);
#endif
  for (const int64_t changes : {0, 10000, 100000}) {
    Register<Table>("table", 1, changes);
    Register<TableBatched>("table_batched", 1, changes);
  }
  Register<TableBatched>("table_batched", 2, 0);
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
