# SPDX-License-Identifier: GPL-3.0-or-later
"""A steady load on a router with utproxy, and what becomes of each packet: numbered datagrams of many flows, and short TCP
connections, from a client to a server that a transparent proxy in the router stands in for. Sinks at the server (where a
packet that leaks goes) and at the port in the router itself (where a marked packet that is not steered goes) tell of those
that went wrong. Each part is a process of its own."""
import asyncio
import multiprocessing
import pathlib
import signal
import socket
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "system"))
from lab import ASKED, TRANSPARENT  # noqa: E402

SO_RCVBUFFORCE = 33
FLOWS = 64
STEP_S = 0.001       # between two bursts of datagrams
LONG_GAP_S = 0.002
HOLD_S = 0.3         # that a connection stays open between its two exchanges
SLOW_S = 0.9         # a connection that takes longer has lost a SYN


def _udp_sink(space, port, transparent, report, stop):
    with space.entered():
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if transparent:
        s.setsockopt(*TRANSPARENT[4], 1)
    s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    s.bind(("" if space.name.endswith("router") else ASKED[4], port))
    s.settimeout(0.05)
    report.send("ready")
    seen, count, twice, gaps, last = bytearray(1 << 24), 0, 0, [], None
    buffer = bytearray(64)
    while not stop.is_set():
        try:
            s.recv_into(buffer)
        except TimeoutError:
            continue
        now = time.monotonic()
        number = struct.unpack_from("!Q", buffer)[0]
        twice += seen[number]
        seen[number] = 1
        count += 1
        if last is not None and now - last > LONG_GAP_S:
            gaps.append((last, now))
        last = now
    report.send({"count": count, "twice": twice, "gaps": gaps})


def _udp_send(space, port, rate, report, stop):
    with space.entered():
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(FLOWS)]
    report.send("ready")
    to, number, failed = (ASKED[4], port), 0, 0
    began = begin = time.monotonic()
    while not stop.is_set():
        due = int((time.monotonic() - begin) * rate) - number
        if due > rate / 10:  # had no processor for so long: it is not made up for, and the rate that was had is told
            begin += due / rate
            due = 0
        for _ in range(max(0, due)):
            try:
                sockets[number % FLOWS].sendto(struct.pack("!Q", number), to)
            except OSError:  # an ICMP error for an earlier one; nothing is sent
                failed += 1
                sockets[number % FLOWS].sendto(struct.pack("!Q", number), to)
            number += 1
        time.sleep(STEP_S)
    report.send({"sent": number, "refused": failed, "seconds": time.monotonic() - began})


async def _echo(counts, reader, writer):
    counts["connections"] += 1
    try:
        while data := await reader.read(64):
            writer.write(data)
    except OSError:
        counts["resets"] += 1
    writer.close()


async def _until(stop):
    while not stop.is_set():
        await asyncio.sleep(0.05)


def _tcp_sink(space, port, transparent, report, stop):
    with space.entered():
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if transparent:
        s.setsockopt(*TRANSPARENT[4], 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("" if space.name.endswith("router") else ASKED[4], port))
    counts = {"connections": 0, "resets": 0}

    async def serve():
        server = await asyncio.start_server(lambda r, w: _echo(counts, r, w), sock=s, backlog=4096)
        report.send("ready")
        await _until(stop)
        server.close()

    asyncio.run(serve())
    report.send(counts)


async def _one(port, counts):
    begin = time.monotonic()
    writer = None
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(ASKED[4], port)
            counts["slow"] += time.monotonic() - begin > SLOW_S
            for _ in range(2):
                writer.write(b"x" * 32)
                await writer.drain()
                await reader.readexactly(32)
                await asyncio.sleep(HOLD_S)
        counts["ok"] += 1
    except ConnectionRefusedError:
        counts["refused"] += 1
    except (ConnectionResetError, asyncio.IncompleteReadError, BrokenPipeError):
        counts["reset"] += 1
    except (TimeoutError, OSError):
        counts["timed_out"] += 1
    if writer is not None:
        writer.close()


def _tcp_send(space, port, rate, report, stop):
    counts = dict.fromkeys(("ok", "reset", "refused", "timed_out", "slow"), 0)

    async def send():
        tasks, begun, begin = set(), 0, time.monotonic()
        while not stop.is_set():
            for _ in range(int((time.monotonic() - begin) * rate) - begun):
                task = asyncio.create_task(_one(port, counts))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                begun += 1
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
        counts["begun"] = begun

    with space.entered():
        report.send("ready")
        asyncio.run(send())
    report.send(counts)


class Load:
    """Everything that runs while the block does; `result` after it."""

    def __init__(self, lab, port, on_port, packets, connections):
        spawn = multiprocessing.get_context("fork")
        self._lab, self.result = lab, {}
        self._sinks, self._senders = spawn.Event(), spawn.Event()
        parts = {"udp": (_udp_sink, self._sinks, lab.router, on_port, True),
                 "udp_leaked": (_udp_sink, self._sinks, lab.server, port, False),
                 "udp_astray": (_udp_sink, self._sinks, lab.router, port, False),
                 "tcp": (_tcp_sink, self._sinks, lab.router, on_port, True),
                 "tcp_leaked": (_tcp_sink, self._sinks, lab.server, port, False),
                 "tcp_astray": (_tcp_sink, self._sinks, lab.router, port, False),
                 "udp_sent": (_udp_send, self._senders, lab.client, port, packets),
                 "tcp_sent": (_tcp_send, self._senders, lab.client, port, connections)}
        self._parts = {}
        for name, (part, stop, *arguments) in parts.items():
            mine, theirs = spawn.Pipe()
            process = spawn.Process(target=_run, args=(part, *arguments, theirs, stop), daemon=True)
            self._parts[name] = (process, mine)

    def __enter__(self):
        for process, report in self._parts.values():
            process.start()
            assert report.poll(20) and report.recv() == "ready"
        self._retransmits = self._retransmitted()
        return self

    def __exit__(self, *_):
        self._senders.set()
        for name in ("udp_sent", "tcp_sent"):
            self.result[name] = self._parts[name][1].recv()
        time.sleep(0.5)  # what is on its way
        self.result["retransmits"] = self._retransmitted() - self._retransmits
        self._sinks.set()
        for name, (process, report) in self._parts.items():
            if name not in self.result:
                self.result[name] = report.recv()
            process.join()

    def _retransmitted(self):
        rows = [line.split() for line in self._lab.client.read("/proc/net/snmp").splitlines() if line.startswith("Tcp:")]
        return int(dict(zip(*rows))["RetransSegs"])


def _run(part, *arguments):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    part(*arguments)
