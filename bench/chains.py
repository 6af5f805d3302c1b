#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another program deletes and adds its own nftables base chain once a second, at which the kernel drops what waits in any
queue of the namespace: is each packet that the senders lost counted, and does traffic go on? The load is that of restart.py.

    sudo bench/chains.py --build-dir=build [--seconds=60] [--stall=0.02] [--json=FILE]

Each other time the daemon is stopped for `--stall` before, so that there are packets to lose. Exits with 1 where what is
counted differs from what was lost by more than a hundredth.
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
from lab import Lab  # noqa: E402
from steady import Load  # noqa: E402

PORT, ON_PORT = 8080, 12345
CHAIN = "add chain inet other c { type filter hook prerouting priority -300; policy accept; }"


def measure(options):
    build = options.build_dir.resolve()
    lab = Lab(build / "tests" / "system" / "traffic" / "traffic", server=True)
    try:
        target = Target("udp", PORT, on_port=ON_PORT, options=("--proto", "tcp"))
        engine = Utproxy(lab, target, "install", str(build / "tools" / "utproxy")).start()
        lab.router.run("nft", "-f", "-", text=f"add table inet other\n{CHAIN}\n")
        took = []
        with Load(lab, PORT, ON_PORT, options.packets, options.connections) as load:
            time.sleep(1)
            for second in range(options.seconds):
                began = time.monotonic()
                if second % 2:
                    engine.process.popen.send_signal(signal.SIGSTOP)
                    time.sleep(options.stall)
                lab.router.run("nft", "-f", "-", text=f"delete chain inet other c\n{CHAIN}\n")
                engine.process.popen.send_signal(signal.SIGCONT)
                took.append(time.monotonic() - began)
                time.sleep(max(0, began + 1 - time.monotonic()))
        losses, r = engine.stats()["losses"], load.result
        assert engine.stop() == 0
    finally:
        lab.close()
    sent = r["udp_sent"]["sent"]
    lost = sent - sum(r[n]["count"] for n in ("udp", "udp_leaked", "udp_astray"))
    # What TCP sends once more was lost, but for what came late.
    return {"seconds": options.seconds, "sent": sent, "lost": lost, "tcp_sent_again": r["retransmits"],
            "counted": sum(losses.values()), "losses": losses, "connections": r["tcp_sent"]["begun"],
            "connections_ok": r["tcp_sent"]["ok"], "leaked": r["udp_leaked"]["count"] + r["tcp_leaked"]["connections"],
            "longest_gap_ms": round(max([end - start for start, end in r["udp"]["gaps"]], default=0) * 1e3, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build", type=pathlib.Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--stall", type=float, default=0.02)
    parser.add_argument("--packets", type=int, default=20000, help="a second")
    parser.add_argument("--connections", type=int, default=0, help="a second; their packets are counted too, but TCP tells "
                        "of its losses only by what it sends again")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of all that removes namespaces
    row = measure(options)
    for name, value in row.items():
        print(f"{name:18}{value}")
    if options.json:
        options.json.write_text(json.dumps(row, indent=1) + "\n")
    lost = row["lost"] + row["tcp_sent_again"]
    return 0 if abs(row["counted"] - lost) <= lost / 100 and not row["leaked"] else 1


if __name__ == "__main__":
    sys.exit(main())
