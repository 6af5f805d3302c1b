#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast is utproxy, beside the kernel's TPROXY and beside a queue that accepts everything? All contestants in turn, in
namespaces of their own, the order turned round by round; medians, spread, processor time, and whether the goals are met.

Example: bench/lab/lab.py build --only drain,bulk --rounds 7 --json figures.json --plot figures.svg
A whole run keeps what it measured in bench/results/ (lab.json, lab.svg) and bench/README.md.
Needs root. Exit status: 0 all goals that were measured are met, 1 one is missed (or, with --tiny, something did not work),
77 it cannot be run here.
"""
import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import signal
import statistics
import sys
import time

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
# The tests' lab.py comes before this file, which has the same name.
sys.path[:0] = [str(HERE.parent.parent / "tests" / "system"), str(HERE), str(HERE.parent)]
from lab import Lab  # noqa: E402
from engine import route_by_mark  # noqa: E402
import contestants  # noqa: E402
import goals  # noqa: E402
import plot  # noqa: E402
import readme_tables  # noqa: E402
from measures import CASES, Measures  # noqa: E402

RESULTS = HERE.parent / "results"
GROUPS = ["drain", "table", "bulk", "connect", "ping", "udp"]
THROUGH = ("bulk", "connect", "ping", "udp")  # measured through a contestant that runs on


class Bench:
    def __init__(self, options):
        self.options = options
        self.build = pathlib.Path(options.build).resolve()
        self.utproxy = str(self.build / "tools" / "utproxy")
        self.scale, self.packets, self.sockets, self.table_fills = options.scale, options.packets, options.sockets, options.fills
        self.cases = [case for case in CASES if case.group in options.only]
        self.results = {case.name: {} for case in self.cases}
        self.missing = {}
        self.lab = Lab("none")
        self.lab.know_each_other()
        route_by_mark(self.lab.router, 1)
        self.remarks = contestants.remarks(self.lab)
        self.measures = Measures(self)
        named = options.contestant
        self.contestants = [kind(self) for kind in contestants.ALL if not named or kind.name in named]

    def note(self, contestant, case, figure):
        self.results[case.name].setdefault(contestant.name, []).append(figure)

    def turn(self, number, queues=False):
        """Those that take part in round `number`, another one first each time."""
        taking = [c for c in self.contestants if c.name not in self.missing]
        if queues:
            taking = [c for c in taking if c.queues and not c.carried]
        first = number % len(taking)
        return taking[first:] + taking[:first]

    def drains(self, number):
        for case in (c for c in self.cases if c.group == "drain"):
            for contestant in self.turn(number, queues=True):
                if not case["steered"] or contestant.redirects or contestant.name == goals.LIMIT:
                    self.note(contestant, case, self.measures.drain(contestant, case))

    def tables(self, rounds):
        cases = [case for case in self.cases if case.group == "table"]
        if not cases:
            return
        with self.measures.many_sockets():
            for number in range(rounds):
                for contestant in self.turn(number, queues=True):
                    for case in cases:
                        self.note(contestant, case, self.measures.table(contestant, case))

    def through(self, number):
        cases = [case for case in self.cases if case.group in THROUGH]
        for contestant in self.turn(number) if cases else []:
            try:
                with self.measures.served(contestant):
                    for case in cases:
                        self.note(contestant, case, getattr(self.measures, case.group)(contestant, case))
            except contestants.Missing as why:
                self.missing[contestant.name] = str(why)

    def run(self):
        for number in range(self.options.rounds):
            began = time.monotonic()
            self.drains(number)
            self.through(number)
            print(f"round {number + 1} of {self.options.rounds}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        self.tables(self.options.rounds)


def number(value):
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def print_table(bench):
    """Of each case: medians, lowest and highest round, processor time."""
    for case in bench.cases:
        print(f"\n{case.name}")
        print(f"  {'':20} {case.unit:>9}  {'lowest–highest':>17}  {'consumer':>9} {'machine':>9}  ns a{'n' * (case.operation[0] in 'aeiou')} {case.operation}")
        for name, figures in bench.results[case.name].items():
            def median(key):
                values = [figure[key] for figure in figures if key in figure]
                return statistics.median(values) if values else None

            values = [figure["value"] for figure in figures]
            spread = f"{number(min(values))}–{number(max(values))}"
            more = f"  p99 {number(median('p99'))}, p99.9 {number(median('p999'))}" if "p99" in figures[0] else ""
            more += f"  user {number(median('user_ns'))}" if case.group == "table" else ""
            more += f"  lost {number(median('lost'))}" if any(figure.get("lost") for figure in figures) else ""
            print(f"  {name:20} {number(median('value')):>9}  {spread:>17}  {number(median('consumer_ns')):>9} "
                  f"{number(median('machine_ns')):>9}{more}")
    for name, why in bench.missing.items():
        print(f"\n{name}: {why}", end="")
    print("".join(f"\n{remark}" for remark in bench.remarks))


def print_goals(verdicts):
    print("\nGoals")
    for verdict in verdicts:
        print(f"  {'met   ' if verdict.met else 'MISSED'}  {verdict.goal}: {verdict.words}")
    for sentence in goals.NOT_HERE:
        print(f"  –       {sentence}")


def machine():
    names = [line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {"kernel": platform.release(), "processors": os.cpu_count(), "model": names[0] if names else platform.machine(),
            "load": os.getloadavg()[0], "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", help="Meson's build directory")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"of {', '.join(GROUPS)}; or a to e: drain with table, then the others")
    parser.add_argument("--contestant", metavar="NAME", action="append", help="only these; for a look at one, no goal is judged")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--packets", type=int, default=50000, help="that a queue is filled with")
    parser.add_argument("--sockets", type=int, default=100000, help="in the table, for the measure table")
    parser.add_argument("--json", metavar="FILE", default="")
    parser.add_argument("--plot", metavar="FILE.svg", default="")
    parser.add_argument("--quick", action="store_true", help="three rounds, each measure a third of its time")
    parser.add_argument("--tiny", action="store_true", help="one round of little; no goal is judged")
    options = parser.parse_args()
    letters = {"a": ["drain", "table"], "b": ["bulk"], "c": ["connect"], "d": ["ping"], "e": ["udp"]}
    options.only = [group for word in options.only.split(",") for group in letters.get(word, [word])]
    for word in options.only:
        if word not in GROUPS:
            parser.error(f"--only: {word}: not one of {', '.join(GROUPS)}")
    if options.rounds < 1:
        parser.error("--rounds: must be at least 1")
    options.keep = options.only == GROUPS and not (options.json or options.contestant or options.quick or options.tiny)
    if options.keep:
        options.json, options.plot = str(RESULTS / "lab.json"), str(RESULTS / "lab.svg")
    options.scale, options.fills = 0.6, 8
    if options.quick:
        options.rounds, options.scale, options.fills = min(3, options.rounds), 0.2, 4
    if options.tiny:
        options.rounds, options.scale, options.packets, options.sockets, options.fills = 1, 0.05, 2000, 200, 1
    return options


def main():
    options = read_options()
    if os.geteuid() != 0:
        print("lab.py: needs root, for network namespaces", file=sys.stderr)
        return 77
    for name in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what was made is taken away
        signal.signal(name, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        bench = Bench(options)
        stack.callback(bench.lab.close)
        bench.run()
    verdicts = [] if options.contestant else goals.Goals(bench.cases, bench.results).judge()
    with readme_tables.kept("lab", options.keep):
        print("```")
        print_table(bench)
        if not options.tiny and not options.contestant:
            print_goals(verdicts)
        print("```")
    if options.json:
        goal_rows = [{"goal": v.goal, "measured": v.measured, "met": v.met} for v in verdicts]
        pathlib.Path(options.json).write_text(json.dumps(
            {"machine": machine(), "command": " ".join(sys.argv), "rounds": options.rounds, "missing": bench.missing,
             "remarks": bench.remarks, "goals": goal_rows, "results": bench.results}, indent=1, ensure_ascii=False) + "\n")
    if options.plot:
        pathlib.Path(options.plot).write_text(plot.draw(bench.cases, bench.results))
    return 0 if options.tiny else int(not all(verdict.met for verdict in verdicts))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("lab.py: interrupted", file=sys.stderr)
        sys.exit(130)
