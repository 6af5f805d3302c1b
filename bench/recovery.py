#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a target is unserved when the daemon is killed with -9 and started again at once, as systemd does with
Restart=always and RestartSec=0: from the signal to the first datagram, sent after it, at the listener. And what became of the
datagrams meanwhile, with --fail closed and open.

    sudo bench/recovery.py --build-dir=build --times=50 [--json=FILE]
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
from engine import Target, Utproxy  # noqa: E402
from failing import Flow  # noqa: E402
from lab import Lab, wait_until  # noqa: E402

PORT, ON_PORT = 8080, 12345


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(build, policy, times, interval):
    lab = Lab(build / "tests" / "system" / "traffic" / "traffic", server=True)
    try:
        target = Target("udp", PORT, on_port=ON_PORT, options=("--fail", policy))
        engine = Utproxy(lab, target, "install", str(build / "tools" / "utproxy")).start()
        recovered = []
        with Flow(lab, PORT, ON_PORT, interval=interval) as flow:
            wait_until(lambda: len(flow.proxied) > 50, 10, "packets")
            for _ in range(times):
                killed = time.monotonic()
                engine.stop(signal.SIGKILL)
                engine.process = lab.router.start(*engine.argv(), name="utproxy")
                wait_until(lambda: flow.first_proxied_after(engine_up(engine, killed)), 20, "packets again")
                recovered.append(flow.first_proxied_after(killed) - killed)
                time.sleep(0.1)
        assert engine.stop() == 0
        return {"fail": policy, "times": times, "p50_ms": 1e3 * percentile(recovered, 0.5),
                "p99_ms": 1e3 * percentile(recovered, 0.99), "sent": len(flow.sent), "proxied": len(flow.proxied),
                "leaked": len(flow.leaked), "lost": flow.lost()}
    finally:
        lab.close()


def engine_up(engine, killed):
    if not engine.process.alive():
        raise SystemExit(engine.process.err())
    return killed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build", type=pathlib.Path)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--interval", type=float, default=0.001, help="seconds between datagrams")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    rows = [measure(options.build_dir.resolve(), policy, options.times, options.interval) for policy in ("closed", "open")]
    print(f"{'fail':8}{'times':>6}{'p50 ms':>9}{'p99 ms':>9}{'sent':>9}{'proxied':>9}{'leaked':>9}{'lost':>9}")
    for r in rows:
        print(f"{r['fail']:8}{r['times']:6}{r['p50_ms']:9.0f}{r['p99_ms']:9.0f}{r['sent']:9}{r['proxied']:9}{r['leaked']:9}"
              f"{r['lost']:9}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if rows[0]["leaked"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
