#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What do established connections keep of their goodput while a flood fills the queue? An accept-all queue and
`utproxy run` in turn, in namespaces of their own.

Usage: flood.py BUILD_DIR [--rounds N] [--seconds S] [--pps N] [--only CASE,...] [--json FILE], as root.

A client's connections send as fast as they can to a listener behind the queue, while floods of small packets from random
sources go the same way. Prints medians and spread of the bytes that arrived, and the ratio; exits with 1 where a ratio is
under the goal. Without --only and --json the figures are kept in results/flood.json and in README.md.
"""
import dataclasses
import json
import multiprocessing
import pathlib
import selectors
import socket
import statistics
import sys
import time

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results"
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "system"))
from engine import Target, Utproxy, route_by_mark  # noqa: E402
import options as options_of  # noqa: E402
import readme_tables  # noqa: E402
from lab import ASKED, CLIENT, Lab, TRANSPARENT, endpoint, wait_until  # noqa: E402

PORT, ON_PORT, CLOSED_PORT, UDP_PORT = 8080, 12345, 9999, 5353
CONNECTIONS, QUEUES, GOAL = 4, 2, 0.7
SOURCES = "198.18.0.0/15"  # where the flood says it comes from


@dataclasses.dataclass
class Case:
    """`end`: what becomes of the flood's packets, with either contestant."""
    name: str
    kind: str
    dport: int
    end: str
    on_port: int = 0


CASES = [
    Case("none", "", 0, "no flood"),
    Case("syn hit", "syn", PORT, "accepted; answered by the listener, with SYN cookies"),
    Case("syn miss", "syn", CLOSED_PORT, "dropped"),
    Case("ack hit", "ack", PORT, "accepted; refused by the listener with RST"),
    Case("ack miss", "ack", CLOSED_PORT, "dropped"),
    Case("udp hit", "udp", UDP_PORT, "accepted; the socket's buffer is full"),
    Case("udp miss", "udp", CLOSED_PORT, "dropped"),
    Case("syn steered", "syn", PORT, "as syn hit; utproxy redirects to another port, by a flow entry each", on_port=ON_PORT),
]


def sink(space, port, received, stop):
    """A transparent listener that counts what arrives, and a UDP socket that nobody reads."""
    with space.entered():
        listener = socket.socket()
        idle = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for s in (listener, idle):
        s.setsockopt(*TRANSPARENT[4], 1)
    idle.bind(("", UDP_PORT))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", port))
    listener.listen(128)
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    buffer = bytearray(1 << 20)
    while not stop.is_set():
        for key, _ in ready.select(0.2):
            if key.fileobj is listener:
                ready.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            try:
                got = key.fileobj.recv_into(buffer)
            except OSError:
                got = 0
            received.value += got
            if not got:
                ready.unregister(key.fileobj)


def source(space, stop):
    """Connections that send as fast as they can."""
    with space.entered():
        sockets = [socket.create_connection((ASKED[4], PORT), 10) for _ in range(CONNECTIONS)]
    ready = selectors.DefaultSelector()
    for s in sockets:
        s.setblocking(False)
        ready.register(s, selectors.EVENT_WRITE)
    data = bytes(1 << 17)
    while not stop.is_set():
        for key, _ in ready.select(0.2):
            try:
                key.fileobj.send(data)
            except BlockingIOError:
                pass
            except OSError:  # the other end has stopped
                ready.unregister(key.fileobj)


class AcceptAll:
    """All packets accepted with mark 1, but those to the closed port dropped, as utproxy drops them."""

    def __init__(self, lab, build):
        self.lab, self.program = lab, build / "bench" / "accept_all"

    def start(self):
        self.process = self.lab.router.start(self.program, QUEUES, CLOSED_PORT)
        wait_until(lambda: "ready" in self.process.out(), 10, "accept_all")
        return self

    def stop(self):
        assert self.process.stop() == 0, self.process.err()
        words = self.process.out().split()
        return {"packets": int(words[2]), "lost": int(words[4])}


class Deciding:
    """utproxy run."""

    def __init__(self, lab, build, case):
        target = Target("tcp", 0, on_port=case.on_port, mark="0x1", queues=QUEUES)
        self.engine = Utproxy(lab, target, "own", str(build / "tools" / "utproxy"))

    def start(self):
        self.engine.launch()
        return self

    def stop(self):
        stats = self.engine.stats()
        assert self.engine.stop() == 0, self.engine.process.err()
        lost = {name: count for name, count in stats["losses"].items() if count}
        return {"packets": stats["packets"], "lost": sum(lost.values()), "losses": lost, "decided_by": stats["decided_by"],
                "verdicts": stats["verdicts"]}


class Bench:
    def __init__(self, options):
        self.options = options
        self.build = options.build
        self.traffic = self.build / "tests" / "system" / "traffic" / "traffic"

    def measure(self, case, contestant):
        lab = Lab(self.traffic)
        stop = multiprocessing.Event()
        received = multiprocessing.Value("Q", 0, lock=False)
        processes = []
        try:
            lab.know_each_other()
            self.prepare(lab)
            engine = (AcceptAll(lab, self.build) if contestant == "accept-all" else Deciding(lab, self.build, case)).start()
            port = case.on_port if contestant == "utproxy" and case.on_port else PORT
            for target, arguments in ((sink, (lab.router, port, received, stop)), (source, (lab.client, stop))):
                processes.append(multiprocessing.Process(target=target, args=arguments, daemon=True))
                processes[-1].start()
                if target is sink:
                    wait_until(lambda: f":{port} " in lab.router.run("ss", "-Hltn").stdout, 10, "the listener")
            wait_until(lambda: received.value > 1 << 20, 10, "the connections")
            return self.flood(lab, case, received, engine)
        finally:
            stop.set()
            for process in processes:
                process.join(5)
                process.kill()
            lab.close()

    def prepare(self, lab):
        """Answers to the flood are swallowed by the client."""
        lab.client.sh(f"ip route add blackhole {SOURCES}")
        lab.router.sh(f"ip route add {SOURCES} via {CLIENT[4]}")
        route_by_mark(lab.router, 1)
        for protocol in ("tcp", "udp"):
            lab.router.run("iptables-nft", "-t", "mangle", "-A", "PREROUTING", "-i", "lan0", "-p", protocol, "-j", "NFQUEUE",
                           "--queue-balance", f"0:{QUEUES - 1}")

    def flood(self, lab, case, received, engine):
        mac = json.loads(lab.router.run("ip", "-j", "link", "show", "lan0").stdout)[0]["address"]
        senders = [lab.client.start(self.traffic, "flood", "--kind", case.kind, "--to", endpoint(ASKED[4], case.dport),
                                    "--device", "lan0", "--mac", mac, "--seconds", int(self.options.seconds + 2), "--seed", n,
                                    "--pps", self.options.pps // self.options.senders)
                   for n in range(self.options.senders if case.kind else 0)]
        time.sleep(min(0.5, self.options.seconds))  # until the queue is full
        idle_before, bytes_before, began = idle_time(), received.value, time.monotonic()
        time.sleep(self.options.seconds)
        took = time.monotonic() - began
        arrived, idle = received.value - bytes_before, idle_time() - idle_before
        sent = [process.summary() for process in senders]
        figures = {"mbit": arrived * 8 / took / 1e6, "idle_cores": idle / took,
                   "flood_kpps": sum(s["sent"] / s["ns"] for s in sent) * 1e6}
        return dict(figures, **engine.stop())


def idle_time():
    """Seconds that all cores together have been idle."""
    words = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(words[4]) / 100


def row(case, results):
    median = {kind: statistics.median(r["mbit"] for r in runs) for kind, runs in results.items()}
    ratio = median["utproxy"] / median["accept-all"] if median["accept-all"] else float("nan")
    cells = [f"{case.name:12}"]
    for kind, runs in results.items():
        values = [r["mbit"] for r in runs]
        cells.append(f"{median[kind]:8.0f} ({min(values):.0f}–{max(values):.0f})")
    flood = [statistics.median(r["flood_kpps"] for r in runs) for runs in results.values()]
    lost = [statistics.median(100 * r["lost"] / max(1, r["lost"] + r["packets"]) for r in runs) for runs in results.values()]
    idle = [statistics.median(r["idle_cores"] for r in runs) for runs in results.values()]
    cells += [f"{ratio:5.2f}", f"{flood[0]:4.0f} / {flood[1]:4.0f}", f"{lost[0]:3.0f} / {lost[1]:3.0f}",
              f"{idle[0]:.1f} / {idle[1]:.1f}"]
    print(f"| {' | '.join(cells)} |", flush=True)
    return ratio


def main():
    parser = options_of.parser(__doc__, rounds=5, pps=150000,
                               pps_help="the flood's packets a second; 0: as many as can be sent, which are the more the less is served")
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--senders", type=int, default=1)
    parser.add_argument("--only", default="", help="names of cases, comma-separated")
    parser.add_argument("--json", default="")
    options = options_of.read(parser)
    if options.tiny:
        options.rounds, options.seconds, options.pps, options.only = 1, 0.2, 20000, "syn hit"
    bench = Bench(options)
    cases = [c for c in CASES if not options.only or c.name in options.only.split(",")]
    results, ratios = {}, {}
    keep = not (options.tiny or options.only or options.json)
    if keep:
        options.json = RESULTS / "flood.json"
    with readme_tables.kept("flood", keep):
        print("| flood | accept-all Mbit/s | utproxy Mbit/s | ratio | flood kpps | lost or shed % | idle cores |")
        print("|---|---|---|---|---|---|---|")
        for case in cases:
            runs = results[case.name] = {"accept-all": [], "utproxy": []}
            for _ in range(options.rounds):
                for kind, figures in runs.items():
                    figures.append(bench.measure(case, kind))
            ratios[case.name] = row(case, runs)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"ratios": ratios, "runs": results}, indent=1) + "\n")
    return 0 if options.tiny else int(any(not ratio >= GOAL for ratio in ratios.values()))


if __name__ == "__main__":
    sys.exit(main())
