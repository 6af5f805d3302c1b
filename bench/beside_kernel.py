#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much slower than the kernel's TPROXY is a proxied TCP connection? The two in turn, in namespaces of their own.

Usage: beside_kernel.py BUILD_DIR [ROUNDS], as root. Measures connections a second (one after the other, 1 KB each way)
and bulk (8 connections of 50 MB each way, every byte checked at both ends), and prints medians and spread.
"""
import pathlib
import statistics
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "system"))
from engine import Kernel, Target, Utproxy  # noqa: E402
from lab import ASKED, Lab, endpoint  # noqa: E402

PORT, ON_PORT = 8080, 12345
CONNECTIONS, BULK, BULK_BYTES = 3000, 8, 50_000_000


def measure(build, kind):
    lab = Lab(build / "tests" / "system" / "traffic" / "traffic")
    try:
        lab.listen("tcp", ON_PORT, report=False)
        target = Target("tcp", PORT, on_port=ON_PORT, queues=2)
        engine = (Kernel(lab, target) if kind == "kernel" else
                  Utproxy(lab, target, "install", str(build / "tools" / "utproxy"))).start()
        to = endpoint(ASKED[4], PORT)

        def timed(expected, *options):
            began = time.monotonic()
            answer = lab.ask("tcp", to, *options)
            assert answer["ok"] == expected, answer
            return time.monotonic() - began

        rate = CONNECTIONS / timed(CONNECTIONS, "--connections", CONNECTIONS, "--min", 1000, "--max", 1000)
        seconds = timed(BULK, "--connections", BULK, "--concurrency", BULK, "--min", BULK_BYTES, "--max", BULK_BYTES,
                        "--timeout-ms", 60000)
        engine.stop()
        return rate, 2 * BULK * BULK_BYTES * 8 / seconds / 1e9
    finally:
        lab.close()


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    results = {"kernel": [], "utproxy": []}
    for _ in range(rounds):
        for kind, figures in results.items():
            figures.append(measure(build, kind))
    for i, name in enumerate(["connections/s", "bulk Gbit/s"]):
        for kind, figures in results.items():
            values = [f[i] for f in figures]
            print(f"{name:14} {kind:8} median {statistics.median(values):8.1f}   {min(values):.1f} .. {max(values):.1f}")
        ratio = statistics.median(f[i] for f in results["utproxy"]) / statistics.median(f[i] for f in results["kernel"])
        print(f"{name:14} utproxy / kernel {ratio:.2f}")


if __name__ == "__main__":
    main()
