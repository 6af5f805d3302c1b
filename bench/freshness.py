#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How late the mirror is, and what it costs, for several numbers of sockets and connections a second.

Usage: freshness.py [--rounds N] [--seconds S] [--samples N] [BUILD_DIR]     (build)

Runs build/bench/freshness for each case, all cases in turn each round, and build/bench/dump once; prints medians as Markdown
and writes bench/results/freshness.json. Exit 1 where a goal is missed. About 6 minutes.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

import readme_tables

RESULTS = pathlib.Path(__file__).parent / "results"
CASES = [(sockets, rate) for sockets in (1000, 100_000) for rate in (0, 1000, 10_000)]
DELAYS = ["accept_us", "close_us", "listen_us", "close_listener_us"]
COSTS = ["connections_per_s", "mirror_share", "queries_per_connection", "events_per_connection", "sweep_ms", "table"]


def run(program, *arguments):
    return json.loads(subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout)


def quantile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def print_cases(cases):
    print("\n| sockets | connections a second | share of a core | exact queries a connection | events a connection | sweep, ms "
          "| accept, µs | close, µs | listen, µs | listener's close, µs |\n|---|---|---|---|---|---|---|---|---|---|")
    for (sockets, rate), runs in cases.items():
        middle = {name: statistics.median(r[name] for r in runs) for name in COSTS}
        delays = [[v for r in runs for v in r[name]] for name in DELAYS]
        cells = [f"{statistics.median(d):.0f} ({quantile(d, 0.9):.0f})" for d in delays]
        reached = f"{middle['connections_per_s']:.0f}" + ("" if middle["connections_per_s"] >= 0.9 * rate else f" (of {rate})")
        print(f"| {sockets} | {reached} | {middle['mirror_share']:.1%} | {middle['queries_per_connection']:.1f} "
              f"| {middle['events_per_connection']:.2f} | {middle['sweep_ms']:.0f} | {' | '.join(cells)} |")


def check(text, value, bound):
    print(f"| {text} | ≤ {bound} | {value:.3g} | {'met' if value <= bound else 'MISSED'} |")
    return value > bound


def check_goals(cases, dump):
    middle = {name: statistics.median(values) for name, values in dump.items()}
    share = statistics.median(r["mirror_share"] for r in cases[(100_000, 1000)])
    print("\n| | goal | measured | |\n|---|---|---|---|")
    missed = [check("mirror's share of a core, 100,000 sockets and 1,000 connections a second", share, 0.05)]
    for kind in ("fill", "refill"):
        missed.append(check(f"dump of 100,000 real sockets, {kind} ÷ discard", middle[f"real {kind}"] / middle["real discard"],
                            1.3))
    for kind in ("fill", "refill"):
        missed.append(check(f"time a made socket, {kind}, 1M ÷ 100k",
                            middle[f"made 1000000 {kind}"] / middle[f"made 100000 {kind}"], 1.5))
    print("\nns a socket: " + ", ".join(f"{name} {value:.0f}" for name, value in middle.items()))
    return any(missed)


def main():
    parser = argparse.ArgumentParser(description="The mirror's lateness and cost.")
    parser.add_argument("build", nargs="?", default="build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=7)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    bench = pathlib.Path(options.build) / "bench"
    dump = run(bench / "dump", 100_000, 1_000_000, options.rounds)
    cases = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for sockets, rate in CASES:
            cases[(sockets, rate)].append(run(bench / "freshness", sockets, rate, options.seconds, options.samples))
    options.results.mkdir(exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(r)}" for runs in cases.values() for r in runs)
    (options.results / "freshness.json").write_text(f'{{"dump_ns_a_socket": {json.dumps(dump)},\n "runs": [\n{lines}\n ]}}\n')
    with readme_tables.kept("freshness", options.results == RESULTS):
        print_cases(cases)
        missed = check_goals(cases, dump)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
