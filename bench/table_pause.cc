// SPDX-License-Identifier: GPL-3.0-or-later
//
// How long a reader can be held up while the table grows from FIRST to twice that many sockets.
//
//   table_pause [FIRST=500000 [RUNS=5]]
//
// A reader looks up known sockets without pause, the end of one lookup being the start of the
// next, while a writer adds sockets as fast as it can. Times in which the kernel took the reader's
// processor away (its involuntary context switches tell) are counted apart, as the table has no
// part in them. Prints one JSON object: for each power of two in nanoseconds, how many lookups took
// at least so long and less than twice so long; and the same with the writer adding to a table that
// nobody reads, as that is what the machine itself does to a reader.
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "table_keys.h"
#include "utproxy/socket_table.h"

namespace utproxy {
namespace {

constexpr uint64_t kSuspectNs = 2000;  // from here on, the kernel is asked

struct Histogram {
  std::array<uint64_t, 40> lookups{};
  std::array<uint64_t, 40> preempted{};
  int64_t worst_ns = 0;  // of those not preempted
};

int64_t NowNs() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

long Preemptions() {
  rusage usage = {};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nivcsw;
}

void Read(const SocketTable& table, const std::vector<FlowKey>& keys, const std::atomic<bool>& stop,
          Histogram* histogram) {
  long preemptions = Preemptions();
  int64_t start = NowNs();
  for (size_t i = 0; !stop.load(std::memory_order_relaxed); i = i + 1 == keys.size() ? 0 : i + 1) {
    if (!table.FindOne(keys[i])) std::abort();
    const int64_t end = NowNs();
    const auto took = static_cast<uint64_t>(std::max<int64_t>(end - start, 1));
    const int bin = std::min(static_cast<int>(std::bit_width(took)) - 1, 39);
    start = end;
    if (took < kSuspectNs) {
      ++histogram->lookups[bin];
      continue;
    }
    const long now = Preemptions();
    const bool preempted = now != preemptions;
    ++(preempted ? histogram->preempted : histogram->lookups)[bin];
    if (!preempted) histogram->worst_ns = std::max(histogram->worst_ns, static_cast<int64_t>(took));
    preemptions = Preemptions();
    start = NowNs();
  }
}

std::unique_ptr<SocketTable> MakeTable(size_t count) {
  std::unique_ptr<SocketTable> table = *SocketTable::Create({});
  if (!table->UpsertAll(MakeSockets(count, false)).ok()) std::abort();
  return table;
}

// Returns how often the table that was written was rebuilt.
uint64_t Run(size_t first, bool same_table, Histogram* histogram) {
  const std::unique_ptr<SocketTable> read = MakeTable(first);
  const std::unique_ptr<SocketTable> other = same_table ? nullptr : MakeTable(first);
  SocketTable& written = same_table ? *read : *other;
  std::vector<FlowKey> keys;
  for (size_t n = 0; n < first; ++n) keys.push_back(MakeSocket(n, false).key());
  std::shuffle(keys.begin(), keys.end(), std::mt19937(1));
  const uint64_t before = written.stats().rebuilds;
  std::atomic<bool> stop{false};
  std::thread reader([&] { Read(*read, keys, stop, histogram); });
  for (size_t n = first; n < 2 * first; ++n) {
    if (!written.Upsert(MakeSocket(n, false)).ok()) std::abort();
  }
  stop.store(true);
  reader.join();
  return written.stats().rebuilds - before;
}

void Print(const char* name, const std::array<uint64_t, 40>& counts) {
  printf("\"%s\": {", name);
  const char* comma = "";
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) continue;
    printf("%s\"%llu\": %llu", comma, 1ull << i, static_cast<unsigned long long>(counts[i]));
    comma = ", ";
  }
  printf("}");
}

void Measure(const char* name, size_t first, int runs, bool same_table) {
  Histogram histogram;
  uint64_t rebuilds = 0;
  for (int i = 0; i < runs; ++i) rebuilds += Run(first, same_table, &histogram);
  printf("\"%s\": {\"rebuilds\": %llu, \"worst_ns\": %lld, ", name,
         static_cast<unsigned long long>(rebuilds), static_cast<long long>(histogram.worst_ns));
  Print("lookups", histogram.lookups);
  printf(", ");
  Print("preempted", histogram.preempted);
  printf("}");
}

}  // namespace
}  // namespace utproxy

int main(int argc, char** argv) {
  const size_t first = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 500000;
  const int runs = argc > 2 ? std::atoi(argv[2]) : 5;
  printf("{\"sockets\": %zu, ", first);
  utproxy::Measure("growing", first, runs, true);
  printf(", ");
  utproxy::Measure("other_table", first, runs, false);
  printf("}\n");
  return 0;
}
