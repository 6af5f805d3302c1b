// SPDX-License-Identifier: GPL-3.0-or-later
// Compares utproxy's decisions with the running kernel's TPROXY, case by random case.
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <getopt.h>
#include <sched.h>
#include <unistd.h>

#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <random>
#include <string>

#include "generator.h"
#include "interrupt.h"
#include "lab.h"
#include "requirements.h"
#include "shrink.h"

namespace utproxy::parity {
namespace {

constexpr char kUsage[] = R"(usage: parity [options]

Draws random sockets, rules and packets in network namespaces of its own, and compares what the running kernel's TPROXY
does with what utproxy decides: over exact queries, over a mirror of the sockets, and in a running daemon. Ends with the
first world in which they differ, and reduces a case that does.

  --cases N       at least so many, against each oracle (default 20000); up to five times as many
                  where a row has not been reached
  --seed N        draws the same cases again (default: a fresh one; it is printed)
  --world N       only the Nth of the seed's worlds
  --oracle xt|nft|both
  --program PATH  utproxy, for the comparison with the daemon (default: none)
  --fast-path     the daemon has the fast path's rules before its queue; each packet comes twice, and
                  once more after some listeners have closed
  --rows N        fail unless every row was reached so often (default 1; 0 with --world)
  --no-shrink     show differing cases as they were found
  --table         print how often each row was reached
  -h, --help      this text

Exit status: 0 no difference and every row reached, 1 otherwise, 2 wrong usage, 77 where this system cannot run it,
130 ended by SIGINT without a difference so far.

example: parity --cases 100000 --program build/tools/utproxy
)";

constexpr size_t kPolicies = 2;
constexpr size_t kScenes = 8;
constexpr size_t kPackets = 125;
constexpr uint64_t kWorldsOfASeed = 1'000'003;
constexpr int kShown = 1;
constexpr int kExitUsage = 2, kExitUnavailable = 77, kExitInterrupted = 130;

struct Options {
  uint64_t cases = 20'000;
  uint64_t seed = std::random_device()();
  int64_t world = -1;
  int64_t rows = -1;
  bool shrink = true;
  bool table = false;
  bool help = false;
  // How often each row is to be reached.
  uint64_t WantedRows() const {
    return rows >= 0 ? static_cast<uint64_t>(rows) : world >= 0 ? 0 : 1;
  }
  Lab::Options lab{.program = "", .oracles = {Oracle::kXt, Oracle::kNft}};
};

struct Results {
  Coverage coverage;
  Totals totals;
  uint64_t differences = 0;
};

void Show(const Repro& repro, const Difference& difference) {
  std::printf("%s: %s\n%s: %s\n  %s\n  %s\n", OracleName(difference.oracle),
              OutcomeText(difference.expected).c_str(), WayName(difference.way),
              difference.got.c_str(), PolicyText(repro.world.policies[0]).c_str(),
              PacketText(repro.packet).c_str());
  for (size_t i = 0; i < repro.world.addresses.size(); ++i) {
    std::printf("  p%zu:", i);
    for (const AddressSpec& a : repro.world.addresses[i]) {
      std::printf(" %s/%d%s%s", a.address.ToString(a.family).c_str(), a.prefix_len,
                  a.deprecated ? " deprecated" : "", a.tentative ? " tentative" : "");
    }
    std::printf("\n");
  }
  for (const SocketSpec& socket : repro.scene.sockets)
    std::printf("  %s\n", SocketText(socket).c_str());
}

void Report(const Options& options, const Generator::World& world, const Scene& scene,
            const Case& one, const Difference& difference) {
  const Repro found = Isolate(world, scene, one, difference);
  if (!options.shrink) return Show(found, difference);
  Rerun rerun(options.lab.program, options.lab.fast_path);
  if (!rerun.Differs(found)) {
    std::printf("(it takes the cases before it as well)\n");
    return Show(found, difference);
  }
  const Repro small = Shrink(
      found, [&](const Repro& candidate) { return !Interrupted() && rerun.Differs(candidate); });
  const bool stands = rerun.Differs(small, /*fresh=*/true);
  Show(stands ? small : found, stands ? rerun.difference() : difference);
  if (stands) std::printf("By hand:\n\n%s\n", Script(small).c_str());
}

void RunWorld(const Options& options, uint64_t number, Results* results) {
  Generator generator(options.seed * kWorldsOfASeed + number);
  const Generator::World world = generator.DrawWorld(kPolicies, number);
  struct Found {
    Scene scene;
    Case one;
    Difference difference;
  };
  std::vector<Found> found;
  {
    Lab lab(world, options.lab);
    const auto enough = [&] {
      return Interrupted() || (options.world < 0 && results->totals.cases >= 5 * options.cases);
    };
    for (size_t s = 0; s < kScenes && !enough(); ++s) {
      const Scene scene = generator.DrawScene(world);
      std::vector<Case> cases;
      for (size_t i = 0; i < kPackets; ++i) {
        cases.push_back({generator.DrawPacket(world, scene), generator.DrawMarkIndex(world)});
      }
      for (const Difference& d : lab.Run(scene, cases, &results->coverage, &results->totals)) {
        if (results->differences++ < kShown) found.push_back({scene, cases[d.case_index], d});
      }
    }
  }
  for (const Found& f : found) {
    std::printf("\nDIFFERENCE in world %" PRIu64 " of seed %" PRIu64 "\n", number, options.seed);
    std::fflush(stdout);
    Report(options, world, f.scene, f.one, f.difference);
    std::fflush(stdout);
  }
}

int Run(const Options& options) {
  std::printf("parity: seed %" PRIu64 "\n", options.seed);
  std::fflush(stdout);
  Results results;
  const auto start = std::chrono::steady_clock::now();
  if (options.world >= 0) {
    RunWorld(options, static_cast<uint64_t>(options.world), &results);
  } else {
    // Rare rows come in their time: they are waited for, but not for ever.
    const auto enough = [&] {
      const uint64_t cases = results.totals.cases;
      return cases >= 5 * options.cases ||
             (cases >= options.cases && results.coverage.Below(options.WantedRows()).empty());
    };
    for (uint64_t world = 0; !Interrupted() && !enough() && results.differences == 0; ++world)
      RunWorld(options, world, &results);
  }
  const double took =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (options.table) {
    for (const auto& [name, count] : results.coverage.rows()) {
      std::printf("%9" PRIu64 "  %s\n", count, name.c_str());
    }
  }
  const bool interrupted = Interrupted();
  const uint64_t wanted = interrupted ? 0 : options.WantedRows();
  const std::vector<std::string> missed = results.coverage.Below(wanted);
  for (const std::string& row : missed) {
    std::printf("row reached less than %" PRIu64 " times: %s\n", wanted, row.c_str());
  }
  const Totals& t = results.totals;
  std::printf("parity: %" PRIu64 " cases against each oracle; %" PRIu64
              " also decided by the mirror, %" PRIu64 " by the daemon; %" PRIu64
              " sockets (%" PRIu64 " refused); %zu rows; %" PRIu64
              " differences; %.0f s, seed %" PRIu64 "\n",
              t.cases, t.by_mirror, t.by_daemon, t.sockets, t.unmade,
              results.coverage.rows().size(), results.differences, took, options.seed);
  if (options.lab.fast_path) {
    std::printf("parity: %" PRIu64 " packets carried by the fast path\n", t.carried);
  }
  const bool idle = options.lab.fast_path && t.carried == 0;
  if (interrupted) std::fputs("parity: interrupted\n", stderr);
  if (results.differences != 0 || !missed.empty() || (idle && !interrupted)) return 1;
  return interrupted ? kExitInterrupted : 0;
}

bool ReadOracle(const std::string& word, std::vector<Oracle>* oracles) {
  if (word == "xt") *oracles = {Oracle::kXt};
  if (word == "nft") *oracles = {Oracle::kNft};
  return word == "xt" || word == "nft" || word == "both";
}

bool Read(int argc, char** argv, Options* options) {
  const option kLong[] = {
      {"cases", 1, nullptr, 'c'},     {"seed", 1, nullptr, 's'},    {"world", 1, nullptr, 'w'},
      {"oracle", 1, nullptr, 'o'},    {"program", 1, nullptr, 'p'}, {"rows", 1, nullptr, 'r'},
      {"no-shrink", 0, nullptr, 'n'}, {"table", 0, nullptr, 't'},   {"fast-path", 0, nullptr, 'f'},
      {"help", 0, nullptr, 'h'},      {nullptr, 0, nullptr, 0}};
  for (int letter = 0; (letter = getopt_long(argc, argv, "h", kLong, nullptr)) != -1;) {
    bool ok = true;
    switch (letter) {
      case 'c':
        ok = absl::SimpleAtoi(optarg, &options->cases);
        break;
      case 's':
        ok = absl::SimpleAtoi(optarg, &options->seed);
        break;
      case 'w':
        ok = absl::SimpleAtoi(optarg, &options->world);
        break;
      case 'o':
        ok = ReadOracle(optarg, &options->lab.oracles);
        break;
      case 'p':
        options->lab.program = optarg;
        break;
      case 'r':
        ok = absl::SimpleAtoi(optarg, &options->rows);
        break;
      case 'n':
        options->shrink = false;
        break;
      case 'f':
        options->lab.fast_path = true;
        break;
      case 't':
        options->table = true;
        break;
      case 'h':
        options->help = true;
        return true;
      default:
        ok = false;
    }
    if (!ok) return false;
  }
  return optind == argc;
}

// SO_INCOMING_CPU sockets score by the processor that a lookup runs on, so it is one for all: the
// packets, the queries, the daemons.
void StayOnThisProcessor() {
  cpu_set_t cpu;
  CPU_ZERO(&cpu);
  CPU_SET(static_cast<size_t>(sched_getcpu()), &cpu);
  sched_setaffinity(0, sizeof cpu, &cpu);
}

}  // namespace
}  // namespace utproxy::parity

int main(int argc, char** argv) {
  utproxy::parity::Options options;
  if (!utproxy::parity::Read(argc, argv, &options)) {
    std::fputs(utproxy::parity::kUsage, stderr);
    return utproxy::parity::kExitUsage;
  }
  if (options.help) {
    std::fputs(utproxy::parity::kUsage, stdout);
    return 0;
  }
  if (options.cases == 0) {
    std::fputs("parity: --cases 0: at least 1 is to be drawn\n", stderr);
    return utproxy::parity::kExitUsage;
  }
  utproxy::parity::HoldInterrupts();
  if (const std::string what = utproxy::parity::WhatIsMissing(options.lab); !what.empty()) {
    std::fprintf(stderr, "parity: %s\n", what.c_str());
    return utproxy::parity::kExitUnavailable;
  }
  utproxy::parity::StayOnThisProcessor();
  return utproxy::parity::Run(options);
}
