#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A router for half an hour: does anything grow, is anything lost that is not counted? In namespaces of its own.

    tests/stress/soak.py --build-dir build --seconds 1800 --keep
    tests/stress/soak.py --build-dir build --seconds 20

utproxy runs with a configuration (soak_place.py). Meanwhile, all at once: UDP as fast as goes, of flows that change;
connections by way of the queue and of the fast path; thousands of ports; listeners that are killed and started again;
another program that replaces its rules, chain and table; a link that goes down and comes up; SIGHUP with another
configuration; a memory cgroup of the daemon's that others fill; a wall clock that is stepped by days; stats, trace, doctor and
sockets, whose readers go away in the middle.

At the end every packet must be accounted for, by target, beside counters that are nft's and the kernel's: came in = verdicts'
reasons + what the queue lost, none passed through unproxied, and what was accepted was delivered or is counted as flushed. From
300 seconds on what the daemon holds must be flat over the last two thirds, by the bounds in soak_samples.py.

The last line is JSON, --json FILE and --plot FILE.svg keep it; --keep is bench/results/soak.{json,svg}.
Exit status: 0 all of it holds, 1 something does not, 77 where network namespaces cannot be made.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import signal
import sys
import time

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests" / "system"), str(ROOT / "tests" / "stress")]

from lab import wait_until  # noqa: E402
from soak_account import account, settled  # noqa: E402
from soak_place import Place  # noqa: E402
from soak_plot import draw  # noqa: E402
from soak_samples import JUDGED_FROM, Sampler, judge  # noqa: E402
from soak_traffic import Disturbances, Repeated, Traffic  # noqa: E402

RESULTS = ROOT / "bench" / "results"


class Soak:
    def __init__(self, build, seconds):
        self.seconds = seconds
        self.place = Place(build)
        try:
            self.place.start()
            self.disturbances = Disturbances(self.place)
            self.traffic = Traffic(self.place, chunk=max(4, min(30, seconds // 4)))
            self.sampler = Sampler(self.place, every=min(5, seconds / 10))
        except BaseException:
            self.place.close()
            raise

    def _threads(self):
        """Some periods have no common divisor, so that everything meets everything; a short run has to hurry."""
        traffic, other = self.traffic, self.disturbances
        hurry = min(1.0, self.seconds / 120)
        senders = [Repeated("udp", traffic.flood), Repeated("random sources", traffic.flap),
                   Repeated("ports udp", traffic.ports_udp), Repeated("ports tcp", traffic.ports_tcp, 0.5),
                   Repeated("web", traffic.web, 2.0)]
        disturbances = [Repeated("listener restarts", other.restart_listener, 13 * hurry),
                        Repeated("rules of others", other.reload_rules, 2), Repeated("link flaps", other.flap, 7 * hurry),
                        Repeated("reloads", other.reload, 11 * hurry), Repeated("memory pressure", other.press, 1),
                        Repeated("readers", other.look, 3 * hurry), Repeated("clock", other.see_clock, 2)]
        return senders, disturbances, Repeated("samples", self.sampler.take, self.sampler.every)

    def run(self):
        senders, disturbances, samples = self._threads()
        everything = [*senders, *disturbances, samples]
        for thread in everything:
            thread.start()
        end = time.monotonic() + self.seconds
        while time.monotonic() < end and not self._failed(everything):
            time.sleep(0.2)
        for thread in (*disturbances, samples, *senders):
            thread.stopping.set()
        for thread in (*disturbances, samples):
            thread.join(60)
        self.traffic.end()
        for thread in senders:
            thread.join(120)
        assert self.place.daemon.process.alive(), self.place.daemon.process.err()[-4000:]
        return self._result(everything)

    def _failed(self, threads):
        return any(thread.error for thread in threads) or not self.place.daemon.process.alive()

    def _result(self, threads):
        place, daemon = self.place, self.place.daemon
        wait_until(lambda: settled(place), 20, "the queues to be empty")
        self.disturbances.end()
        books = account(place, self.traffic)
        held = judge(self.sampler.samples)
        times = {thread.name: thread.times for thread in threads}
        faults = books["faults"] + [f"{thread.name}: {thread.error!r}" for thread in threads if thread.error]
        faults += [f"{name} did not happen" for name, count in times.items() if count == 0]
        if self.seconds >= JUDGED_FROM:
            faults += [f"{name} is not flat: {facts}" for name, facts in held.items() if not facts["flat"]]
            if len(self.disturbances.clock_offsets) < 2:
                faults.append(f"the clock's steps did not reach the daemon: {self.disturbances.clock_offsets}")
            if place.cgroup.path and place.cgroup.times_at_limit() == 0:
                faults.append("the cgroup was never full")
        pressed = {"cgroup": place.cgroup.path is not None, "times_at_limit": place.cgroup.times_at_limit()}
        status = daemon.stop()
        if status != 0:
            faults.append(f"SIGTERM: exit {status}: {daemon.process.err()[-2000:]}")
        return {"machine": {"kernel": platform.release(), "processors": os.cpu_count(), "load": os.getloadavg()[0],
                            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")},
                "seconds": round(self.sampler.samples[-1]["s"]), "faults": faults, "accounting": books, "held": held, "times": times,
                "memory_pressure": pressed, "clock_offsets_days": sorted(self.disturbances.clock_offsets),
                "doctor_said": sorted(self.disturbances.doctor_said), "samples": self.sampler.samples}

    def close(self):
        self.disturbances.end()
        self.place.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build", help="Meson's build directory")
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--json", metavar="FILE", default="")
    parser.add_argument("--plot", metavar="FILE.svg", default="")
    parser.add_argument("--keep", action="store_true", help="as --json and --plot in bench/results")
    options = parser.parse_args()
    if options.seconds < 10:
        parser.error("--seconds: at least 10")
    if os.geteuid() != 0:
        print("soak.py: needs root, for network namespaces", file=sys.stderr)
        return 77
    if options.keep:
        options.json, options.plot = str(RESULTS / "soak.json"), str(RESULTS / "soak.svg")
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what was made is taken away
        signal.signal(number, signal.default_int_handler)
    soak = Soak(options.build_dir, options.seconds)
    try:
        result = soak.run()
    finally:
        soak.close()
    if options.plot:
        pathlib.Path(options.plot).write_text(draw(result["samples"]))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result) + "\n")
    for fault in result["faults"]:
        print(f"soak: {fault}", file=sys.stderr)
    print(json.dumps({key: value for key, value in result.items() if key != "samples"}))
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
