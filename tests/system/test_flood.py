# SPDX-License-Identifier: GPL-3.0-or-later
"""A flood from random sources: nothing is lost without being counted, and others' connections are served on."""
import json
import time

import pytest

from engine import Target, packet_count
from lab import ASKED, CLIENT, SOURCES, endpoint, source, wait_until

PORT, ON_PORT, CLOSED_PORT = 8080, 12345, 9999
FLOOD, QUEUES = 120000, 2
FLOODERS = "198.18.0.0/15"
# How many of the flood's packets each queue asks the kernel about, a second and at once: src/engine/query_budget.h.
A_SECOND, AT_ONCE = 8000, 2048
pytestmark = pytest.mark.load


def counted(router, rule=0):
    """How many packets came in at lan0 (rule 0), of the flood (rule 1), by the rules that count them."""
    return int(router.run("iptables", "-t", "raw", "-nvxL", "PREROUTING").stdout.splitlines()[2 + rule].split()[0])


def prepare(lab, protocol):
    """Answers to the flood are swallowed by the client; what comes in is counted."""
    lab.know_each_other()
    lab.client.sh(f"ip route add blackhole {FLOODERS}")
    lab.router.sh(f"ip route add {FLOODERS} via {CLIENT[4]}")
    lab.router.run("iptables", "-t", "raw", "-A", "PREROUTING", "-i", "lan0", "-p", protocol)
    lab.router.run("iptables", "-t", "raw", "-A", "PREROUTING", "-i", "lan0", "-s", FLOODERS)


def flood(lab, kind, port, packets=FLOOD):
    mac = json.loads(lab.router.run("ip", "-j", "link", "show", "lan0").stdout)[0]["address"]
    return lab.client.start(lab.traffic, "flood", "--kind", kind, "--to", endpoint(ASKED[4], port), "--device", "lan0",
                            "--mac", mac, "--packets", packets, "--seconds", 20)


def everything_is_counted(engine):
    """Waits until the queue is empty; then each packet that came in has a verdict, and whoever decided it is known, or
    it is among the losses."""
    def settled():
        stats = engine.stats()
        lost = stats["losses"]["queue_full"] + stats["losses"]["netlink_overrun"]
        return stats if counted(engine.lab.router) == packet_count(stats) + lost else None

    stats = wait_until(settled, 20, lambda: (counted(engine.lab.router), engine.stats()))
    decided = stats["decided_by"]
    assert stats["verdicts"]["accept"] + stats["verdicts"]["drop"] == stats["packets"], stats
    assert sum(stats["reasons"].values()) == stats["packets"], stats
    assert sum(decided[by] for by in ("mirror", "cache", "exact", "over_budget")) == stats["packets"], stats
    expected = ("queue_full", "netlink_overrun", "shed")
    unexpected = {name: n for name, n in stats["losses"].items() if n and name not in expected}
    assert stats["losses"]["shed"] <= min(decided["over_budget"], stats["verdicts"]["drop"]), stats
    assert not unexpected, stats["losses"]
    return stats


@pytest.mark.parametrize("kind,port", [("syn", PORT), ("ack", PORT), ("syn", CLOSED_PORT), ("rst", CLOSED_PORT)])
def test_connections_under_a_flood(lab, make_engine, kind, port):
    """Every byte of the connections is checked at both ends, during the flood and after it."""
    prepare(lab, "tcp")
    listener = lab.listen("tcp", ON_PORT, report=False)
    # At the packet's own port where that is closed; else by flow entries, on another one.
    engine = make_engine("rules", lab, Target("tcp", 0, on_port=0 if port == CLOSED_PORT else ON_PORT, queues=QUEUES))
    to = endpoint(ASKED[4], ON_PORT if port == CLOSED_PORT else PORT)
    steady = lab.client.start(lab.traffic, "tcp-client", "--to", to, "--connections", 6, "--concurrency", 6, "--from",
                              ",".join(endpoint(source(4, n), 0) for n in range(SOURCES)), "--min", 30000000, "--max",
                              30000000, "--timeout-ms", 110000)
    wait_until(lambda: lab.router.run("ss", "-Htn", "state", "established").stdout or not steady.alive(), 10, "connections")
    began = time.monotonic()
    sent = flood(lab, kind, port)
    sent.popen.wait(60)
    steady.popen.wait(120)
    took = time.monotonic() - began
    answer = steady.json_lines("summary")[-1]
    assert (answer["ok"], answer["errors"]) == (6, {}), answer
    stats = everything_is_counted(engine)
    assert sent.json_lines("summary")[-1]["sent"] == FLOOD
    # No more of the flood was asked about than the budget has; how much else was, is not known.
    lost = stats["losses"]["queue_full"] + stats["losses"]["netlink_overrun"]
    arrived = counted(lab.router, rule=1)
    assert 0 < arrived <= FLOOD, arrived
    most_asked = QUEUES * (AT_ONCE + A_SECOND * (took + 1))
    assert stats["decided_by"]["over_budget"] >= arrived - lost - most_asked, (took, arrived, stats)
    after = lab.ask("tcp", to, "--connections", 50, "--min", 1000, "--max", 100000)
    assert (after["ok"], after["errors"]) == (50, {}), after
    assert listener.summary()["broken"] == 0


def test_datagrams_under_a_flood(lab, make_engine):
    """The flood goes to a closed port. Others' datagrams may be lost in a full queue; those that are answered are
    whole, and once the flood is over none is lost."""
    prepare(lab, "udp")
    lab.listen("udp", ON_PORT, report=False)
    engine = make_engine("rules", lab, Target("udp", 0, queues=QUEUES))
    sent = flood(lab, "udp", CLOSED_PORT)
    wait_until(lambda: packet_count(engine.stats()) > 100, 10, "the flood")
    ask = ("udp", endpoint(ASKED[4], ON_PORT), "--count", 200, "--min", 40, "--max", 1400)
    during = lab.ask(*ask, "--keep-going", "--timeout-ms", 500, "--seconds", 10)
    assert (during["wrong"], during["errors"]) == (0, {}), during
    sent.popen.wait(60)
    stats = everything_is_counted(engine)
    assert stats["reasons"]["no_socket"] > 0, stats
    after = lab.ask(*ask)
    assert (after["answered"], after["wrong"], after["errors"]) == (200, 0, {}), after
