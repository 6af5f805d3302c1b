# SPDX-License-Identifier: GPL-3.0-or-later
"""What the figures are to be: ratios and differences of medians of one run."""
import dataclasses
import statistics

KERNEL, KERNEL_SOCKET = "xt TPROXY", "xt TPROXY + socket"
LIMIT, ONE, OURS, FAST = "accept-all", "one recv, one send", "utproxy", "utproxy, fast path"
NOT_HERE = ["drain with the flight recorder on: is part of every drain once `utproxy run` has one",
            "memory over many packets: tests/stress/soak.py"]


@dataclasses.dataclass
class Verdict:
    goal: str
    measured: float
    words: str
    met: bool


class Goals:
    def __init__(self, cases, results):
        self.cases, self.results, self.verdicts = cases, results, []

    def median(self, case, contestant, key="value"):
        values = [figure[key] for figure in self.results.get(case.name, {}).get(contestant, []) if key in figure]
        return statistics.median(values) if values else None

    def least(self, what, ours, theirs, goal):
        """ours ÷ theirs ≥ goal; not judged where one of them was not measured."""
        if ours and theirs:
            ratio = ours / theirs
            self.verdicts.append(Verdict(f"{what} ≥ {goal}", ratio, f"{ratio:.2f}", ratio >= goal))

    def most(self, what, value, goal, unit):
        if value is not None:
            self.verdicts.append(Verdict(f"{what} ≤ {goal} {unit}", value, f"{value:.1f} {unit}", value <= goal))

    def ratio(self, case, ours, theirs, goal):
        self.least(f"{case.name}: {ours} ÷ {theirs}", self.median(case, ours), self.median(case, theirs), goal)

    def judge(self):
        for case in self.cases:
            getattr(self, case.group)(case)
        self.two_queues()
        return self.verdicts

    def drain(self, case):
        self.ratio(case, OURS, LIMIT, 0.95)
        self.ratio(case, OURS, ONE, 1.5)

    def table(self, case):
        self.drain(case)
        self.most(f"{case.name}: user time of {OURS} a packet", self.median(case, OURS, "user_ns"), 150, "ns")

    def bulk(self, case):
        self.ratio(case, OURS, KERNEL, 0.75)
        self.ratio(case, OURS, LIMIT, 0.97)
        self.ratio(case, FAST, KERNEL_SOCKET, 0.98)

    def connect(self, case):
        self.ratio(case, OURS, KERNEL, 0.75)
        self.ratio(case, FAST, KERNEL, 0.92)

    def ping(self, case):
        if case["load"]:
            return
        kernel = self.median(case, KERNEL)
        for name, goal in ((OURS, 15), (FAST, 1)):
            ours = self.median(case, name)
            if ours and kernel:
                self.most(f"{case.name}: p50 of {name} − {KERNEL}", ours - kernel, goal, "µs")

    def udp(self, case):
        self.ratio(case, FAST, KERNEL, 0.95)
        self.ratio(case, OURS, LIMIT, 0.95)

    def two_queues(self):
        """Two queues beside one, of the drains that differ in nothing else."""
        drains = [case for case in self.cases if case.group == "drain" and not case["steered"] and case["flows"] > 2]
        for two in (case for case in drains if case["queues"] == 2):
            for one in drains:
                if one["queues"] == 1 and one["bytes"] == two["bytes"]:
                    self.least(f"{two.name} ÷ 1 queue: {OURS}", self.median(two, OURS), self.median(one, OURS), 1.7)
