#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restart of the daemon costs under load: 20,000 datagrams of 64 flows and 500 new TCP connections a second, while it
is restarted again and again in each of these ways:

    take-over    another process with --take-over
    kept         SIGUSR2 and the next one, with a service manager that keeps its descriptors, as `systemctl restart`
    kill-kept    kill -9 and the next one, with the same
    kill-closed  kill -9 and the next one, --fail closed, nothing kept
    kill-open    the same with --fail open

Shows what was lost, leaked to the server, went to the wrong socket or was reset, and the gaps between two datagrams at the
proxy around each restart. Exits with 1 where one of the first three loses anything.

    sudo bench/restart.py --build-dir=build [--how=take-over,kept] [--times=50] [--json=FILE]
"""
import argparse
import json
import pathlib
import signal
import sys
import time

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "system"))
sys.path.insert(0, str(ROOT / "bench"))
from engine import Target, Utproxy  # noqa: E402
from keeper import Keeper  # noqa: E402
from lab import Lab, wait_until  # noqa: E402
from steady import Load  # noqa: E402

PORT, ON_PORT = 8080, 12345
LOSSLESS = ("take-over", "kept", "kill-kept")
HOWS = (*LOSSLESS, "kill-closed", "kill-open")


class Restarter:
    def __init__(self, lab, build, how):
        fail = ("--fail", how.removeprefix("kill-")) if how not in LOSSLESS else ()
        target = Target("udp", PORT, on_port=ON_PORT, options=("--proto", "tcp", *fail))
        self.lab, self.how = lab, how
        self.engine = Utproxy(lab, target, "install", str(build / "tools" / "utproxy"))
        self.keeper = Keeper(lab) if how in ("kept", "kill-kept") else None
        self.keeper.launch(self.engine) if self.keeper else self.engine.start()

    def restart(self):
        if self.how == "take-over":
            before = self.engine.process
            self.engine.process = self.lab.router.start(*self.engine.argv(), "--take-over", name="utproxy")
            wait_until(self.engine._is_ready, 20, "utproxy: ready")
            assert before.popen.wait(10) == 0, before.err()
            return
        self.engine.process.stop(signal.SIGUSR2 if self.how == "kept" else signal.SIGKILL)
        self.keeper.launch(self.engine) if self.keeper else self.engine.launch()

    def close(self):
        assert self.engine.stop() == 0
        if self.keeper:
            self.keeper.close()


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(options, how):
    lab = Lab(options.build_dir.resolve() / "tests" / "system" / "traffic" / "traffic", server=True)
    try:
        restarter = Restarter(lab, options.build_dir.resolve(), how)
        restarts = []
        with Load(lab, PORT, ON_PORT, options.packets, options.connections) as load:
            time.sleep(1)
            for _ in range(options.times):
                begin = time.monotonic()
                restarter.restart()
                restarts.append((begin, time.monotonic()))
                time.sleep(options.pause)
        restarter.close()
    finally:
        lab.close()
    return row(how, restarts, load.result)


def row(how, restarts, r):
    gaps = r["udp"]["gaps"]
    longest = [max([end - start for start, end in gaps if end > begin and start < until], default=0) * 1e3
               for begin, until in restarts]
    sent, wrong = r["udp_sent"]["sent"], r["udp_astray"]["count"] + r["tcp_astray"]["connections"]
    return {"how": how, "restarts": len(restarts), "packets_a_second": round(sent / r["udp_sent"]["seconds"]),
            "connections_a_second": round(r["tcp_sent"]["begun"] / r["udp_sent"]["seconds"]),
            "sent": sent, "lost": sent - sum(r[n]["count"] for n in ("udp", "udp_leaked", "udp_astray")),
            "leaked": r["udp_leaked"]["count"] + r["tcp_leaked"]["connections"], "astray": wrong,
            "twice": r["udp"]["twice"], "connections": r["tcp_sent"]["begun"],
            "reset": r["tcp_sent"]["reset"] + r["tcp_sent"]["refused"], "timed_out": r["tcp_sent"]["timed_out"],
            "slow": r["tcp_sent"]["slow"], "retransmits": r["retransmits"],
            "gap_p50_ms": round(percentile(longest, 0.5), 1), "gap_p99_ms": round(percentile(longest, 0.99), 1),
            "gap_max_ms": round(max(longest), 1)}


def show(rows):
    columns = ("how", "restarts", "packets_a_second", "connections_a_second", "sent", "lost", "leaked", "astray", "connections",
               "reset", "timed_out", "slow", "retransmits", "gap_p50_ms", "gap_p99_ms", "gap_max_ms")
    for name in columns:
        print(f"{name:22}" + "".join(f"{r[name]:>13}" for r in rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build", type=pathlib.Path)
    parser.add_argument("--how", default=",".join(HOWS), help="which ways, with commas between")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--packets", type=int, default=20000, help="a second")
    parser.add_argument("--connections", type=int, default=500, help="a second")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between a restart and the next")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of all that removes namespaces
    rows = [measure(options, how) for how in options.how.split(",")]
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    bad = [r for r in rows if r["how"] in LOSSLESS and any(r[k] for k in ("lost", "leaked", "astray", "twice", "reset",
                                                                          "timed_out"))]
    return 1 if bad or any(r["leaked"] for r in rows if r["how"] == "kill-closed") else 0


if __name__ == "__main__":
    sys.exit(main())
