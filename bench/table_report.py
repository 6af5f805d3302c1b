#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the socket table's benchmarks, with the contenders in turn, and says what came of it.

Usage: table_report.py [--full] [--repetitions N] [--min-time S] [BUILD_DIR]     (build)

Prints the ratios that the table has to reach beside those it does, and the figures as Markdown; writes
bench/results/table.json (every repetition, nanoseconds a lookup) and the plots beside it. Exit 1 where a ratio is missed.
--full measures every case (entries, hits and misses, both families, changes, readers); without it those that the ratios
and the plots need. Repetitions of all cases are run in random order, so that what disturbs the machine disturbs all alike.
Takes about 5 minutes, with --full an hour.
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import readme_tables
import table_plots  # noqa: E402

RESULTS = pathlib.Path(__file__).parent / "results"
BLOCK = 64  # lookups an iteration, kBlock in table_contenders.h
PLAIN, SAME, LFHT = "flat_hash_map", "flat_hash_map_keyed", "cds_lfht"


def case(contender, entries, changes=0, readers=1, kind="hit", family="v4"):
    return f"{contender}/{entries}/{kind}/{family}/changes:{changes}/readers:{readers}"


MILLION = 1_000_000
# What is asked, the case, what it is compared with, the figure that is compared, and the bound: at most for times, at
# least for throughput. Where the table has a writer the plain map has none: it could not have one.
GOALS = [
    *[(f"{name}, 1M, writer at 100k/s ÷ {other}", case(contender, MILLION, 100_000), case(other, MILLION), "cpu", bound)
      for name, contender, bounds in [("batched", "table_batched", (0.5, 0.5, 0.25)), ("single", "table", (1.0, 1.0, 0.5))]
      for other, bound in zip((PLAIN, SAME, LFHT), bounds)],
    *[(f"{name}, 1k ÷ {other}", case(contender, 1000), case(other, 1000), "cpu", 1.0)
      for name, contender in [("batched", "table_batched"), ("single", "table")] for other in (PLAIN, SAME)],
    *[(f"{name}, 1M: throughput of two readers ÷ one", case(contender, MILLION), case(contender, MILLION, readers=2), "real",
       -1.9) for name, contender in [("batched", "table_batched"), ("single", "table")]],
]
CONTENDERS = ["table_batched", "table", PLAIN, SAME, "flat_hash_map_mutex", "flat_hash_map_shared_mutex", "tbb_hash_map", LFHT]
# Two threads that have nothing in common, against one: what the machine can give at all.
CONTROLS = ["control_arithmetic", "control_memory"]
SIZES = [1000, 100_000, MILLION]


def wanted_cases():
    wanted = {name for goal in GOALS for name in goal[1:3]} | {case(c, MILLION, readers=n) for c in CONTROLS for n in (1, 2)}
    wanted |= {case(c, n, changes) for c in CONTENDERS for n in SIZES for changes in (0, 100_000)}
    wanted |= {case(c, MILLION, kind="miss") for c in CONTENDERS} | {case(c, MILLION, family="v6") for c in CONTENDERS}
    return wanted


def measure(program, pattern, repetitions, min_time):
    """{case: {"cpu": [ns a lookup...], "real": [...], "bytes": memory an entry}}"""
    command = [program, f"--benchmark_filter={pattern}", f"--benchmark_repetitions={repetitions}",
               "--benchmark_enable_random_interleaving=true", f"--benchmark_min_time={min_time}", "--benchmark_format=json"]
    runs = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["benchmarks"]
    figures = {}
    for run in runs:
        if run["run_type"] != "iteration":
            continue
        if run.get("error_occurred"):
            sys.exit(f"{run['name']}: {run['error_message']}")
        name = re.sub(r"/real_time.*|/repeats.*", "", run["name"])
        of_case = figures.setdefault(name, {"cpu": [], "real": [], "bytes": round(run["bytes"])})
        of_case["cpu"].append(round(run["cpu_time"] / BLOCK, 2))
        of_case["real"].append(round(run["real_time"] / BLOCK, 2))
    return figures


def check_goals(figures):
    """Prints each ratio; returns how many are missed."""
    missed = 0
    print("| ratio | goal | measured | lowest to highest repetition | |\n|---|---|---|---|---|")
    for text, ours, theirs, clock, bound in GOALS:
        a, b = figures[ours][clock], figures[theirs][clock]
        ratio = statistics.median(a) / statistics.median(b)
        met = ratio <= bound if bound > 0 else ratio >= -bound
        missed += not met
        print(f"| {text} | {'≤' if bound > 0 else '≥'} {abs(bound)} | {ratio:.2f} | {min(a) / max(b):.2f}–{max(a) / min(b):.2f} "
              f"| {'met' if met else 'MISSED'} |")
    for control in CONTROLS:
        one, two = (figures[case(control, MILLION, readers=n)]["real"] for n in (1, 2))
        print(f"| {control}: throughput of two threads ÷ one | | {statistics.median(one) / statistics.median(two):.2f} "
              f"| {min(one) / max(two):.2f}–{max(one) / min(two):.2f} | |")
    return missed


def check_bytes(figures):
    missed = 0
    for family in ("v4", "v6"):
        used = figures[case("table", MILLION, family=family)]["bytes"]
        missed += used > 128
        print(f"| bytes a socket at 1M, {family} | ≤ 128 | {used} | | {'met' if used <= 128 else 'MISSED'} |")
    return missed


def check_pause(pause):
    worst = pause["growing"]["worst_ns"] / 1000
    control = pause["other_table"]["worst_ns"] / 1000
    print(f"| reader's worst pause while the table doubles, µs (nobody's table: {control:.0f}) | < 100 | {worst:.0f} | "
          f"| {'met' if worst < 100 else 'MISSED'} |")
    return worst >= 100


def print_figures(figures):
    print("\nns a lookup, IPv4 hits, medians; CPU time, but real time where a lock may be waited for:\n")
    print("| | 1k | 100k | 1M | 1M, 100k changes/s | 1M misses | 1M IPv6 | bytes an entry |\n|---|---|---|---|---|---|---|---|")
    for contender in CONTENDERS:
        if case(contender, MILLION) not in figures:
            continue  # built without it
        cases = [case(contender, n) for n in SIZES] + [case(contender, MILLION, 100_000), case(contender, MILLION, kind="miss"),
                                                       case(contender, MILLION, family="v6")]
        cells = [f"{table_plots.time_of(figures, name):.0f}" if name in figures else "–" for name in cases]
        memory = figures[case(contender, MILLION)]["bytes"]
        print(f"| {contender} | {' | '.join(cells)} | {memory or '–'} |")


def main():
    parser = argparse.ArgumentParser(description="The socket table's benchmarks.")
    parser.add_argument("build", nargs="?", default="build")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--min-time", type=float, default=0.2)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    bench = pathlib.Path(options.build) / "bench"
    pattern = "." if options.full else "^(" + "|".join(sorted(map(re.escape, wanted_cases()))) + ")/"
    figures = measure(bench / "table_bench", pattern, options.repetitions, options.min_time)
    pause = json.loads(subprocess.run([bench / "table_pause"], check=True, stdout=subprocess.PIPE, text=True).stdout)
    options.results.mkdir(exist_ok=True)
    cases = ",\n".join(f"  {json.dumps(name)}: {json.dumps(figures[name])}" for name in sorted(figures))
    (options.results / "table.json").write_text(f'{{"ns_a_lookup": {{\n{cases}\n }},\n "pause": {json.dumps(pause)}\n}}\n')
    (options.results / "table_lookup.svg").write_text(table_plots.lookups(figures, CONTENDERS, MILLION))
    (options.results / "table_pause.svg").write_text(table_plots.pauses(pause))
    with readme_tables.kept("table", options.results == RESULTS and not options.full):
        missed = check_goals(figures) + check_bytes(figures) + check_pause(pause)
        print_figures(figures)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
