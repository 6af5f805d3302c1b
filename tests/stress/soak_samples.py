# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon holds, over time, and whether that stays the same."""
import json
import os
import pathlib
import statistics
import subprocess
import time

# Of each series, over the last two thirds of the run: by how much its straight line (least squares) may rise from one end to the
# other, and how far apart its lowest and highest sample may be; `share` of its mean, or at least `least`. It may sink.
# The daemon's clients (stats, trace, doctor) have a thread and a few descriptors each and come and go; flow entries and
# sockets are as many as the traffic of the last minutes makes. Memory's spread has room for what a queue fills in its first
# seconds: a recorder (2.5 MB), a cache of UDP flows (2 MB) and the flows of the last SYNs (1.5 MB). Of the program's own pages
# (12 MB), half count in PSS while a reader has them too.
BOUNDS = {
    "rss_kb": {"rise": (0.02, 1024), "spread": (0.05, 6144)},
    "anon_kb": {"rise": (0.02, 1024), "spread": (0.05, 6144)},
    "pss_kb": {"rise": (0.02, 1024), "spread": (0.05, 12288)},
    "descriptors": {"rise": (0, 2), "spread": (0, 24)},
    "threads": {"rise": (0, 1), "spread": (0, 12)},
    "flow_entries": {"rise": (0.05, 2000), "spread": (0.4, 10000)},
    "bpf_kb": {"rise": (0.05, 256), "spread": (0.4, 2048)},
    # A list of a map that changes meanwhile can name an element twice, or stop early: one sample says little.
    "bpf_elements": {"rise": (0.05, 2000), "spread": (2, 10000)},
    "mirror_sockets": {"rise": (0.1, 200), "spread": (1, 2000)},
}
# Of these, each sample is compared with those of as many queues: what a queue has comes and goes
# with it.
BY_QUEUES = ("rss_kb", "anon_kb", "pss_kb")
JUDGED_FROM = 300  # seconds: what is idle stays for up to 180 of them


class Sampler:
    def __init__(self, place, every):
        self.place, self.every = place, every
        self.pid = place.daemon.process.pid
        self.began = time.monotonic()
        self.samples = []
        self.elements = 0

    def take(self):
        stats = self.place.daemon.stats()
        sample = {"s": round(time.monotonic() - self.began, 1), **self._memory(), **self._held(), "packets": stats["packets"], "queues": len(stats["queues"]),
                  "lost": sum(stats["losses"].values()), "flow_entries": stats["steering"]["entries"],
                  "listeners": stats["steering"]["listeners"], "mirror_sockets": stats["mirror"]["sockets"],
                  "depth": sum(queue.get("depth", 0) for queue in stats["queues"])}
        self.samples.append(sample)

    def _memory(self):
        """What reclaim takes of the file's pages is no memory of ours: anon is what the daemon allocated."""
        fields = {"Rss": "rss_kb", "Pss": "pss_kb", "Anonymous": "anon_kb"}
        found = {}
        for line in pathlib.Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            key, _, rest = line.partition(":")
            if key in fields:
                found[fields[key]] = int(rest.split()[0])
        return found

    def _held(self):
        maps, descriptors = {}, 0
        directory = f"/proc/{self.pid}/fdinfo"
        for number in os.listdir(directory):
            descriptors += 1
            try:
                text = pathlib.Path(directory, number).read_text()
            except OSError:  # it has closed meanwhile
                continue
            facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            if "map_id" in facts:
                maps[int(facts["map_id"])] = int(facts["memlock"])
        threads = len(os.listdir(f"/proc/{self.pid}/task"))
        if len(self.samples) % 6 == 0:  # to list them takes long
            self.elements = sum(elements(number) for number in maps)
        return {"descriptors": descriptors, "threads": threads, "bpf_kb": sum(maps.values()) // 1024,
                "bpf_elements": self.elements}


def elements(number):
    """How many a BPF map has; what can't be listed has none. An array's are always all there."""
    done = subprocess.run(["bpftool", "map", "dump", "id", str(number)], capture_output=True, text=True, check=False)
    last = done.stdout.rstrip().rpartition("\n")[2]
    if last.startswith("Found "):
        return int(last.split()[1])
    try:
        return len(json.loads(done.stdout))
    except ValueError:
        return 0


def line_of(points):
    """The slope of the straight line with the least squares."""
    x_mean, y_mean = (statistics.fmean(axis) for axis in zip(*points))
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0


def facts_of(points, bounds):
    values = [value for _, value in points]
    mean = statistics.fmean(values)
    rise = line_of(points) * (points[-1][0] - points[0][0])
    most = {key: max(share * mean, least) for key, (share, least) in bounds.items()}
    spread = max(values) - min(values)
    return {"mean": round(mean, 1), "rise": round(rise, 1), "most_rise": round(most["rise"], 1), "spread": spread,
            "most_spread": round(most["spread"], 1), "flat": rise <= most["rise"] and spread <= most["spread"]}


def judge(samples):
    """{series: {"mean", "rise", "most_rise", "spread", "most_spread", "flat"}} of the last two thirds; where the numbers of queues
    are looked at apart, of the one that rose most, or else is not flat."""
    end = samples[-1]["s"]
    late = [sample for sample in samples if sample["s"] >= end / 3]
    found = {}
    for name, bounds in BOUNDS.items():
        groups = {}
        for sample in late:
            groups.setdefault(sample.get("queues") if name in BY_QUEUES else None, []).append((sample["s"], sample[name]))
        found[name] = max((facts_of(points, bounds) for points in groups.values()),
                          key=lambda facts: (not facts["flat"], facts["rise"]))
    return found
