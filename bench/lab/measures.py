# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab measures of a contestant. A figure is a dict: "value" in the unit of its case, and processor time: "consumer_ns"
of the contestant's process and "machine_ns" of all processors together, per "operation" of the case (a packet, a
connection, an exchange, a MB)."""
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

from contestants import PORT
from lab import ASKED, PATIENCE, TRANSPARENT, endpoint, source, wait_until

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
LOAD_PPS = 100_000  # the background of "under load"
LOAD_FLOWS = 64


@dataclasses.dataclass(frozen=True)
class Case:
    group: str  # the measure: drain, table, bulk, connect, ping, udp
    name: str
    unit: str
    operation: str
    options: tuple = ()  # of the measure, pairs
    better: str = "more"

    def __getitem__(self, key):
        return dict(self.options).get(key)


def drain(name, **options):
    return Case("drain", name, "kpps", "packet", tuple(options.items()))


DRAINS = [drain(f"drain {size} B, {queues} queue{'s'[:queues - 1]}, {flows} flow{'s'[:flows - 1]}",
                bytes=size, queues=queues, flows=flows, steered=False)
          for queues in (1, 2) for size in (64, 1400) for flows in (queues, 10000)]
CASES = DRAINS + [
    drain("drain 64 B, 1 queue, 10000 flows, to another port", bytes=64, queues=1, flows=10000, steered=True),
    Case("table", "drain 64 B, 10000 known flows, 100000 sockets", "kpps", "packet",
         (("bytes", 64), ("queues", 1), ("flows", 10000), ("steered", False))),
    *[Case("bulk", f"bulk, {n} connection{'s'[:n - 1]}", "Gbit/s", "MB", (("connections", n),)) for n in (1, 8, 64)],
    *[Case("connect", f"connections, {n} at a time", "a second", "connection", (("threads", n),)) for n in (1, 8)],
    Case("ping", "round trip, idle", "µs p50", "exchange", (("load", False),), better="less"),
    Case("ping", "round trip, under load", "µs p50", "exchange", (("load", True),), better="less"),
    *[Case("udp", f"datagrams, {n} flows", "kpps", "packet", (("flows", n),)) for n in (2, 10000)],
]


class Cpu:
    """Processor time between start and stop, of a process with all its threads and of the whole machine."""

    def __init__(self, pid):
        self.pid = pid
        self.before = self.now()

    def now(self):
        busy = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        machine = (sum(busy) - busy[3] - busy[4]) * TICK_NS  # without idle and iowait
        if not self.pid:
            return machine, 0, 0
        tasks = pathlib.Path(f"/proc/{self.pid}/task").iterdir()
        ran = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
        words = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return machine, ran, int(words[11]) * TICK_NS

    def spent(self, operations):
        machine, consumer, user = (after - before for after, before in zip(self.now(), self.before))
        figures = {"machine_ns": machine / max(1, operations)}
        return dict(figures, consumer_ns=consumer / max(1, operations), user_ns=user / max(1, operations)) if self.pid else figures


class Measures:
    """The measures, all with the bench's laboratory; `bench.scale` shortens them."""

    def __init__(self, bench):
        self.bench, self.lab = bench, bench.lab
        self.load = bench.build / "bench" / "lab" / "load"
        self.milliseconds = int(1000 * bench.scale)

    def ask(self, space, command, *words):
        done = space.run(self.load, command, *words)
        return json.loads(done.stdout.splitlines()[-1])

    # Queues, filled and drained.

    def filled(self, contestant, case, count, first_port):
        """Fills the queues while the consumer is stopped, lets it go on, and times until they are empty."""
        sources = ",".join(source(4, n) for n in range(case["queues"]))
        os.kill(contestant.pid(), signal.SIGSTOP)
        self.await_stopped(contestant.pid())
        try:
            self.ask(self.lab.client, "fill", "--to", endpoint(ASKED[4], PORT), "--from", sources, "--flows", case["flows"],
                     "--count", count, "--bytes", case["bytes"], "--first-port", first_port)
            with self.lab.router.entered():
                queues = open("/proc/thread-self/net/netfilter/nfnetlink_queue")
            with queues:
                waiting = self.waiting(queues)
                assert waiting >= count * 0.99, f"only {waiting} of {count} datagrams are in the queue"
                cpu, began = Cpu(contestant.pid()), time.monotonic_ns()
                os.kill(contestant.pid(), signal.SIGCONT)
                while self.waiting(queues):
                    time.sleep(0.0005)
                    assert time.monotonic_ns() - began < 30e9 * PATIENCE, "the queue is not drained"
                took = time.monotonic_ns() - began
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(contestant.pid(), signal.SIGCONT)
        return dict(cpu.spent(waiting), value=waiting / took * 1e6), waiting

    @staticmethod
    def await_stopped(pid):
        """A thread that runs takes what comes until it sees the signal."""
        end = time.monotonic() + 10 * PATIENCE
        while any("\nState:\tT" not in task.joinpath("status").read_text() for task in pathlib.Path(f"/proc/{pid}/task").iterdir()):
            assert time.monotonic() < end, f"process {pid} does not stop"
            time.sleep(0.001)

    @staticmethod
    def waiting(queues):
        """Packets that wait in all queues of the namespace."""
        queues.seek(0)
        return sum(int(line.split()[2]) for line in queues)

    def sink(self, port):
        with self.lab.router.entered():
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        s.setsockopt(*TRANSPARENT[4], 1)
        s.setsockopt(socket.SOL_SOCKET, 33, 512 << 20)  # SO_RCVBUFFORCE
        s.bind(("", port))
        return s

    @staticmethod
    def take(s):
        """How many datagrams it holds; takes them."""
        buffer, count = bytearray(2048), 0
        with contextlib.suppress(BlockingIOError):
            while True:
                s.recv_into(buffer)
                count += 1
        return count

    def drain(self, contestant, case):
        """All flows are new to the contestant."""
        return self.drained(contestant, case, fills=1, measured=1)

    def drained(self, contestant, case, fills, measured):
        """The last `measured` of `fills`, all of the same flows. Every datagram must arrive."""
        with self.sink(contestant.port(case["steered"])) as sink:
            contestant.start(steered=case["steered"], queues=case["queues"], fill=True)
            try:
                figures = []
                for _ in range(fills):
                    figure, count = self.filled(contestant, case, self.bench.packets, 20000)
                    wait = time.monotonic() + 5 * PATIENCE
                    arrived = self.take(sink)
                    while arrived < count and time.monotonic() < wait:
                        arrived += self.take(sink)
                    assert arrived == count, f"{contestant.name}, {case.name}: {arrived} of {count} datagrams arrived"
                    figures.append(figure)
            finally:
                contestant.stop()
        last = figures[-measured:]
        return {key: sum(figure[key] for figure in last) / len(last) for key in last[0]}

    def table(self, contestant, case):
        """With many sockets in the table, and flows that are known; several fills, as user time is told in ticks."""
        return self.drained(contestant, case, fills=1 + self.bench.table_fills, measured=self.bench.table_fills)

    @contextlib.contextmanager
    def many_sockets(self):
        holder = self.lab.router.start(self.load, "hold", "--sockets", self.bench.sockets, name="hold")
        holder.wait_event("ready", 60)
        try:
            yield
        finally:
            holder.stop(seconds=60)

    # Traffic through a contestant that runs.

    @contextlib.contextmanager
    def served(self, contestant):
        """The contestant, and behind it the TCP server."""
        contestant.start()
        server = None
        try:
            server = self.lab.router.start(self.load, "serve", "--family", 4, "--port", contestant.port(True), name="serve")
            server.wait_event("ready")
            yield
        finally:
            if server:
                server.stop()
            contestant.stop()

    def client(self, command, *words):
        sources = ",".join(source(4, n) for n in range(32))
        return self.ask(self.lab.client, command, "--to", endpoint(ASKED[4], PORT), "--from", sources, "--seconds-ms",
                        self.milliseconds, *words)

    def bulk(self, contestant, case):
        cpu = Cpu(contestant.pid())
        answer = self.client("bulk", "--connections", case["connections"])
        return dict(cpu.spent(answer["bytes"] / 1e6), value=answer["bytes"] * 8 / answer["ns"])

    def connect(self, contestant, case):
        cpu = Cpu(contestant.pid())
        answer = self.client("connect", "--threads", case["threads"])
        assert answer["failed"] == 0, f"{contestant.name}, {case.name}: {answer}"
        return dict(cpu.spent(answer["count"]), value=answer["count"] * 1e9 / answer["ns"])

    def ping(self, contestant, case):
        with self.background(contestant) if case["load"] else contextlib.nullcontext():
            cpu = Cpu(contestant.pid())
            answer = self.client("ping")
            spent = cpu.spent(answer["count"])
        return dict(spent, value=answer["p50_ns"] / 1e3, p99=answer["p99_ns"] / 1e3, p999=answer["p999_ns"] / 1e3)

    def datagram_words(self, contestant, flows, milliseconds):
        sources = ",".join(source(4, n) for n in range(32))
        return ["datagrams", "--client", self.lab.client.path, "--router", self.lab.router.path, "--to", endpoint(ASKED[4], PORT),
                "--port", contestant.port(True), "--from", sources, "--flows", flows, "--seconds-ms", milliseconds]

    @contextlib.contextmanager
    def background(self, contestant):
        """Datagrams on the same way, which end after the block does."""
        words = self.datagram_words(contestant, LOAD_FLOWS, self.milliseconds + 400)
        load = self.lab.router.start(self.load, *words, "--rate", LOAD_PPS, name="background")
        load.wait_event("ready")
        time.sleep(0.1)
        try:
            yield
        finally:
            wait_until(lambda: not load.alive(), 20, "the background load to end")

    def udp(self, contestant, case):
        cpu = Cpu(contestant.pid())
        words = self.datagram_words(contestant, case["flows"], self.milliseconds)
        done = subprocess.run([str(word) for word in (self.load, *words)], capture_output=True, text=True, check=True)
        answer = json.loads(done.stdout.splitlines()[-1])
        return dict(cpu.spent(answer["received"]), value=answer["received"] * 1e6 / answer["ns"], lost=answer["lost"])
