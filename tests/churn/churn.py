#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Churn under truth: a router's sockets are opened, connected, closed, aborted, bound anew, made transparent and opaque,
thousands of times a second, while utproxy decides the packets of a queue. Every decision must be one that the kernel's TPROXY
could have made between the packet's being sent and its verdict.

    tests/churn/churn.py --build-dir build --seconds 600
    tests/churn/churn.py --build-dir build --seconds 60 --idle 100000
    tests/churn/churn.py --build-dir build --seconds 5 --self-test 0.01      must find what it has falsified

What happened to a packet is read at two places: nft `log` before the queue, that it arrived; nft `log` at the INPUT hook,
that it was marked, and, as its mark is replaced there by that of the socket it leads to (nft's `socket mark`), which socket it
is. There it is dropped, so that packets change nothing; the connections among the sockets are real and pass.

The last line is JSON. wrong_drop, wrong_hit, wrong_socket: decisions that the kernel could not have made; each is printed
with the states its place was in. ambiguous: packets sent so close to a change that more than one outcome was right. apart:
right only if the two lookups of TPROXY, between which there is no lock, found different states. raced: the sockets
changed between decision and delivery (see README.md, "Differences from the kernel's TPROXY"). freed: a listener was freed
while the kernel looked it up, which then finds none, with its own TPROXY too.

Exit status: 0 nothing wrong, 1 a wrong decision, 2 wrong usage, 77 where network namespaces cannot be made, 130 ended by
Ctrl-C (128 and the signal's number) with nothing wrong until then; what was counted is printed.
"""
import argparse
import json
import pathlib
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "system"))

from engine import Target, Utproxy, route_by_mark  # noqa: E402
from lab import ASKED, CLIENT, ROUTER, Lab  # noqa: E402

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FIRST_PORT, PORTS = 20000, 1000
WITNESS = f"""
    table inet witness {{
        chain arrived {{
            type filter hook prerouting priority raw;
            iifname "lan0" ip dscp 11 log group 1 snaplen 96
            iifname "lan0" ip6 dscp 11 log group 1 snaplen 96
        }}
        chain input {{
            type filter hook input priority 300;
            iifname "lan0" ip dscp 11 jump delivered
            iifname "lan0" ip6 dscp 11 jump delivered
        }}
        chain delivered {{
            meta mark set socket mark
            log group 2 snaplen 96
            drop
        }}
    }}"""


def pair(addresses):
    return f"{addresses[4]},{addresses[6]}"


class Churn:
    """The lab, utproxy, and the program between them."""

    def __init__(self, lab, utproxy, program, run_options=()):
        self.lab, self.program = lab, program
        lab.know_each_other()
        route_by_mark(lab.router, "0x1/0x1")
        for tool in ("iptables", "ip6tables"):
            for protocol in ("tcp", "udp"):
                lab.router.run(tool, "-t", "mangle", "-A", "PREROUTING", "-i", "lan0", "-p", protocol,
                               "--dport", f"{FIRST_PORT}:{FIRST_PORT + PORTS - 1}", "-j", "NFQUEUE", "--queue-num", "0")
        lab.router.run("nft", "-f", "-", text=WITNESS)
        self.engine = Utproxy(lab, Target("tcp", 0, options=run_options), "classic", utproxy)
        self.engine.launch()

    def start(self, *options):
        return self.lab.router.start(
            self.program, "--client-netns", self.lab.client.path, "--client", pair(CLIENT), "--interface", pair(ROUTER),
            "--asked", pair(ASKED), "--first-port", FIRST_PORT, *options, name="churn")

    def result(self, process, seconds):
        """Waits for the end; what the program reports, its exit status, and what else must be known to believe it."""
        process.popen.wait(seconds)
        lines = process.out().splitlines()
        if not lines:
            raise AssertionError(f"churn: exit {process.popen.returncode}: {process.err()}")
        queue = self.lab.router.read("/proc/net/netfilter/nfnetlink_queue").split()
        return dict(json.loads(lines[-1]), exit=process.popen.returncode, log=process.err(),
                    queue_dropped=int(queue[5]) + int(queue[6]), stats=self.engine.stats())


def interrupt(number, frame):
    """Once only, so that what was set up is taken down whatever comes while that is done."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def result_of(churn, process, seconds):
    """What is reported at the end, and the signal that brought it on, or None."""
    try:
        return churn.result(process, seconds), None
    except KeyboardInterrupt as interrupted:
        process.stop(signal.SIGINT, 60)
        if not process.out():  # it had hardly begun
            raise
        return churn.result(process, 0), interrupted


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--changes", type=int, default=2500, help="a second")
    parser.add_argument("--packets", type=int, default=3500, help="a second")
    parser.add_argument("--idle", type=int, default=0, help="connected TCP sockets that stay")
    parser.add_argument("--idle-udp", type=int, default=0, help="connected UDP sockets that stay")
    parser.add_argument("--late-ms", type=int, default=0, help="how much too late a decision may be")
    parser.add_argument("--self-test", type=float, default=0, help="share of outcomes to falsify")
    parser.add_argument("--run-option", action="append", default=[], help="a further word for utproxy run")
    options = parser.parse_args()
    for number in ENDING:  # what was set up is taken down then too
        signal.signal(number, interrupt)
    try:
        return run(options)
    except KeyboardInterrupt as interrupted:
        print("churn.py: interrupted", file=sys.stderr)
        return 128 + interrupted.args[0]


def run(options):
    """The exit status. KeyboardInterrupt, with the signal's number, where one came."""
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0:
        print("churn.py: network namespaces need root", file=sys.stderr)
        return 77
    build = (ROOT / options.build_dir).resolve()
    lab = Lab(build / "tests" / "system" / "traffic" / "traffic")
    try:
        churn = Churn(lab, build / "tools" / "utproxy", build / "tests" / "churn" / "churn", options.run_option)
        process = churn.start("--seconds", options.seconds, "--changes", options.changes, "--packets", options.packets,
                              "--idle", options.idle, "--idle-udp", options.idle_udp, "--late-ms", options.late_ms,
                              "--self-test", options.self_test, "--progress")
        result, interrupted = result_of(churn, process, options.seconds + 120)
        churn.engine.stop()
    finally:
        lab.close()
    sys.stderr.write(result.pop("log"))
    print(json.dumps(result))
    if interrupted and result["exit"] != 1:
        raise interrupted
    return result["exit"]


if __name__ == "__main__":
    sys.exit(main())
