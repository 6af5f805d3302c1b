#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What does tracing every decision cost packets, at a given rate? Without a reader, and with readers of each kind, in turn.

Usage: tracing.py BUILD_DIR [--rounds N] [--pps N] [--packets N], as root.

Datagrams of random sources go to a transparent listener that nobody reads, through one queue of `utproxy run`. Prints for
each reader the packets that the queue lost (none should be), the decisions shown (or written) and lost, and their sum beside the number
of packets, which has to be the same: exits with 1 where it is not, or where a reader made packets be lost.
"""
import json
import pathlib
import signal
import socket
import statistics
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "system"))
import options as options_of  # noqa: E402
from engine import Target, Utproxy, packet_count  # noqa: E402
from lab import ASKED, CLIENT, Lab, TRANSPARENT, endpoint, wait_until  # noqa: E402

PORT, SOURCES = 5353, "198.18.0.0/15"
# How each reads; None: nobody does. "stopped" reads nothing after its first moments.
READERS = {"none": None, "text": [], "json": ["-j"], "filter": ["dport", "1"], "write": ["--write"], "stopped": []}


def nice_threads(process):
    tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    return sum(int((task / "stat").read_text().rpartition(")")[2].split()[16]) == 10 for task in tasks)


def packets_in(capture):
    """The packet blocks of a pcapng file; the last one may be half written."""
    data, at, found = capture.read_bytes(), 0, 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("=II", data, at)
        at += length
        found += kind == 6 and at <= len(data)
    return found


def decisions_of(reader, capture):
    """How many were shown, or written, and how many lost, as the reader says."""
    lines = (reader.out() + reader.err()).splitlines()
    said = [line for line in lines if " decisions lost, " in line]
    if capture.exists():
        shown = packets_in(capture)
    else:
        shown = sum(1 for line in reader.out().splitlines() if not line.startswith("-- "))
    return shown, int(said[-1].split(" decisions lost, ")[1].split()[0]) if said else 0


def measure(build, name, options):
    lab = Lab(build / "tests" / "system" / "traffic" / "traffic")
    try:
        lab.know_each_other()
        lab.router.sh(f"ip route add {SOURCES} via {CLIENT[4]}")
        with lab.router.entered():
            listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.setsockopt(*TRANSPARENT[4], 1)
        listener.bind(("", PORT))
        engine = Utproxy(lab, Target("udp", PORT), "install", str(build / "tools" / "utproxy"))
        engine.start()
        reader, capture = None, pathlib.Path(lab.directory) / "decisions.pcapng"
        if READERS[name] is not None:
            words = READERS[name] + ([capture] if name == "write" else [])
            reader = lab.router.start(engine.binary, "trace", "--control", engine.control, *words, name="trace")
            wait_until(lambda: nice_threads(engine.process) == 1, 10, reader.err)
            if name == "stopped":
                reader.popen.send_signal(signal.SIGSTOP)
        mac = json.loads(lab.router.run("ip", "-j", "link", "show", "lan0").stdout)[0]["address"]
        flood = lab.client.start(lab.traffic, "flood", "--kind", "udp", "--to", endpoint(ASKED[4], PORT), "--device", "lan0",
                                 "--mac", mac, "--packets", options.packets, "--pps", options.pps, "--seconds", 60)
        flood.popen.wait(90)
        sent = flood.json_lines("summary")[-1]

        def settled():
            stats = engine.stats()
            lost = stats["losses"]["queue_full"] + stats["losses"]["netlink_overrun"]
            return (packet_count(stats), lost) if packet_count(stats) + lost >= options.packets else None

        packets, lost = wait_until(settled, 30, engine.stats)
        result = {"packets": packets, "queue_lost": lost, "kpps": sent["sent"] / sent["ns"] * 1e6}
        if reader and name in ("text", "json", "write", "stopped"):
            reader.popen.send_signal(signal.SIGCONT)
            wait_until(lambda: sum(decisions_of(reader, capture)) >= packets, 60,
                       lambda: decisions_of(reader, capture))
            result["shown"], result["trace_lost"] = decisions_of(reader, capture)
        if reader:
            reader.stop(signal.SIGKILL)
        engine.stop()
        listener.close()
        return result
    finally:
        lab.close()


def main():
    parser = options_of.parser(__doc__, rounds=3, pps=100000)
    parser.add_argument("--packets", type=int, default=300000)
    options = options_of.read(parser)
    if options.tiny:
        options.rounds, options.pps, options.packets = 1, 10000, 3000
    runs = {name: [] for name in READERS}
    for _ in range(options.rounds):
        for name, results in runs.items():
            results.append(measure(options.build, name, options))
    wrong = False
    print("reader   | sent, kpps | queue lost | shown | lost by the reader | shown + lost − packets")
    for name, results in runs.items():
        lost = [r["queue_lost"] for r in results]
        cells = [f"{name:8}", f"{min(r['kpps'] for r in results):.0f}", f"{max(lost)} of {options.packets}"]
        if "shown" in results[0]:
            difference = [r["shown"] + r["trace_lost"] - r["packets"] for r in results]
            cells += [f"{statistics.median(r['shown'] for r in results):.0f}",
                      f"{statistics.median(r['trace_lost'] for r in results):.0f}", f"{max(difference, key=abs)}"]
            wrong = wrong or any(difference)
        wrong = wrong or (not options.tiny and max(lost) > max(r["queue_lost"] for r in runs["none"]))
        print(" | ".join(cells), flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
