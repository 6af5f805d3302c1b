#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a local user who may not ask slow the daemon down? Datagrams a second while a stranger does to the control socket what
tests/system/hostile.py can think of, and without; the attacker's own processor time is no merit of the daemon's, so that the same
attack on a program that only accepts and closes is measured beside. In turns, medians.

    sudo bench/hostile.py --build-dir=build --rounds=7 [--json=FILE]

none        nobody attacks
elsewhere   the attack goes to that other program
0660        the socket's file as it is: no connection comes about
0666        its mode was changed: the daemon refuses each connection by who it is
"""
import argparse
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import statistics
import sys

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "system"))
from engine import Target, Utproxy  # noqa: E402
from hostile import Attack  # noqa: E402
from lab import ASKED, SOURCES, Lab, endpoint, source  # noqa: E402

PORT, ON_PORT, STRANGER = 8080, 12345, 4711
CONTESTANTS = ["none", "elsewhere", "0660", "0666"]


def accept_and_close(path):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    os.chmod(path, 0o666)
    server.listen(64)
    while True:
        server.accept()[0].close()


def processor_ns(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 10**9 // os.sysconf("SC_CLK_TCK")


def one(lab, load, engine, elsewhere, contestant, seconds):
    attack = None
    if contestant != "none":
        os.chmod(engine.control, 0o666 if contestant == "0666" else 0o660)
        path = elsewhere if contestant == "elsewhere" else engine.control
        attack = Attack(path, STRANGER, STRANGER, [], attackers=1, seconds=seconds + 0.5)
    try:
        before, used = engine.stats(), processor_ns(engine.process.pid)
        sender = lab.client.start(load, "datagrams", "--client", lab.client.path, "--router", lab.router.path, "--to",
                                  endpoint(ASKED[4], PORT), "--port", ON_PORT, "--from",
                                  ",".join(source(4, n) for n in range(SOURCES)), "--flows", 64, "--seconds-ms", int(seconds * 1000))
        sender.popen.wait(seconds + 60)
        said = sender.json_lines("summary")[-1]
        used, after = processor_ns(engine.process.pid) - used, engine.stats()
        results = attack.results() if attack else []
    finally:
        if attack:
            attack.end()
    packets = after["packets"] - before["packets"]
    assert packets == said["sent"], (packets, said)
    return {"kpps": said["received"] * 1e6 / said["ns"], "lost": said["lost"], "daemon_ns": used / packets,
            "exchanges": sum(result["exchanges"] for result in results)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("hostile.py: needs root, for network namespaces")
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.default_int_handler)
    build = pathlib.Path(options.build_dir).resolve()
    lab = Lab(build / "tests" / "system" / "traffic" / "traffic")
    other = None
    try:
        os.chmod(lab.directory, 0o755)
        lab.know_each_other()
        target = Target("udp", PORT, on_port=ON_PORT, options=("--user", "nobody"))
        engine = Utproxy(lab, target, "install", str(build / "tools" / "utproxy")).start()
        elsewhere = f"{lab.directory}/elsewhere.sock"
        other = multiprocessing.get_context("fork").Process(target=accept_and_close, args=(elsewhere,), daemon=True)
        other.start()
        load = str(build / "bench" / "lab" / "load")
        figures = {contestant: [] for contestant in CONTESTANTS}
        for number in range(options.rounds):
            for contestant in CONTESTANTS[number % 4:] + CONTESTANTS[:number % 4]:
                figures[contestant].append(one(lab, load, engine, elsewhere, contestant, options.seconds))
        assert engine.stop() == 0
    finally:
        if other:
            other.terminate()
            other.join()
        lab.close()
    print(f"{'':10} {'kpps':>7} {'lowest–highest':>15} {'daemon ns/packet':>17} {'exchanges/s':>12} {'lost':>5}")
    for contestant, rows in figures.items():
        rates = [row["kpps"] for row in rows]
        exchanges = statistics.median(row["exchanges"] for row in rows) / (options.seconds + 0.5)
        print(f"{contestant:10} {statistics.median(rates):7.1f} {f'{min(rates):.1f}–{max(rates):.1f}':>15} "
              f"{statistics.median(row['daemon_ns'] for row in rows):17.0f} {exchanges:12.0f} {sum(row['lost'] for row in rows):5}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"rounds": options.rounds, "seconds": options.seconds, "results": figures}) + "\n")


if __name__ == "__main__":
    main()
