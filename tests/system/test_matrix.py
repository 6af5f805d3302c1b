# SPDX-License-Identifier: GPL-3.0-or-later
"""Every way to say where a packet should go, with both protocols and all address families, by the user's own rules and
by --install, with one queue and two. The kernel's TPROXY goes through the same cases as the control."""
import collections

import pytest

from engine import Target, queued_by_queue
from lab import ASKED, OTHER, ROUTER, SOURCES, endpoint, offloads_off, source, wait_until
from packets import PROTOCOLS, Nflog, Tap, destination_of, protocol_of

DPORT, ON_PORT = 8080, 12345
FAMILIES = {"v4": (4, "4"), "v6": (6, "6"), "dual": (4, "dual")}  # the packets' family, the listener's
WAYS = ["same-port", "on-port", "on-ip", "interface"]
ENGINES = [("kernel", 1), ("rules", 1), ("rules", 2), ("install", 1), ("install", 2)]


def listener_place(way, family, listener_family):
    """(address to bind or None, port, --on-port, --on-ip) for a way of naming the listener."""
    mapped = "::ffff:" if listener_family == "dual" else ""
    if way == "same-port":
        return None, DPORT, 0, ()
    if way == "on-port":
        return None, ON_PORT, ON_PORT, ()
    if way == "on-ip":
        return mapped + OTHER[family], ON_PORT, ON_PORT, (OTHER[family],)
    return mapped + ROUTER[family], DPORT, 0, ()


def ask_once(lab, protocol, family, number):
    """One exchange from the client's number-th address."""
    to = endpoint(ASKED[family], DPORT)
    options = ["--from", endpoint(source(family, number), 0), "--seed", number + 1]
    if protocol == "tcp":
        summary = lab.ask("tcp", to, *options, "--min", 100, "--max", 3000, "--timeout-ms", 8000)
        assert (summary["ok"], summary["errors"]) == (1, {}), summary
    else:
        summary = lab.ask("udp", to, *options, "--count", 3, "--min", 40, "--max", 1300)
        assert (summary["answered"], summary["errors"]) == (3, {}), summary
    return 1 if protocol == "tcp" else 3


def ask_on_all_queues(lab, protocol, family, queues):
    """Asks from one address after the other until every queue has had packets; returns what the listener should count."""
    asked = 0
    for number in range(SOURCES):
        asked += ask_once(lab, protocol, family, number)
        if number >= 1 and (queues < 2 or all(queued_by_queue(lab.router).get(q, 0) > 0 for q in range(queues))):
            return asked
    raise AssertionError(f"{SOURCES} source addresses, and still a queue without a packet: {queued_by_queue(lab.router)}")


class Witness:
    """Packets as the client's device sent them, and as the router's INPUT hook got them."""

    def __init__(self, lab, protocol, family):
        for space in (lab.client, lab.router):
            with space.entered():
                offloads_off("lan0")
        self.wanted = lambda p: (protocol_of(p) == PROTOCOLS[protocol] and destination_of(p) == ASKED[family])
        lab.router.run("nft", "-f", "-", text="""
            table inet witness {
                chain input {
                    type filter hook input priority 300; policy accept;
                    iifname "lan0" log group 7 snaplen 65535
                }
            }""")
        self.sent = Tap(lab.client, "lan0", outgoing=True)
        self.arrived = Nflog(lab.router, 7)

    def check(self):
        def same():
            sent = self.sent.take(self.wanted)
            arrived = [p for p in self.arrived.take() if self.wanted(p)]
            return sent and collections.Counter(sent) == collections.Counter(arrived)

        try:
            wait_until(same, 3, "equal packets")
        except AssertionError:
            sent, arrived = self.sent.take(self.wanted), [p for p in self.arrived.take() if self.wanted(p)]
            odd = collections.Counter(sent)
            odd.subtract(collections.Counter(arrived))
            lines = [f"{count:+d} {packet[:60].hex()}" for packet, count in odd.items() if count]
            raise AssertionError(f"{len(sent)} packets sent, {len(arrived)} arrived; different:\n" + "\n".join(lines[:10]))

    def close(self):
        self.sent.close()
        self.arrived.close()


@pytest.mark.parametrize("kind,queues", ENGINES, ids=[f"{kind}-{queues}q" for kind, queues in ENGINES])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("families", FAMILIES)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_matrix(lab, make_engine, protocol, families, way, kind, queues):
    family, listener_family = FAMILIES[families]
    bind, port, on_port, on_ip = listener_place(way, family, listener_family)
    listener = lab.listen(protocol, port, family=listener_family, bind=bind)
    make_engine(kind, lab, Target(protocol, DPORT, on_port=on_port, on_ip=on_ip, queues=queues))
    witness = Witness(lab, protocol, family)
    try:
        expected = ask_on_all_queues(lab, protocol, family, queues if kind != "kernel" else 1)
        witness.check()
    finally:
        witness.close()
    check_listener(protocol, listener.summary(), endpoint(ASKED[family], DPORT), expected)


def check_listener(protocol, summary, original, expected):
    """The listener saw the original destination every time, and every byte as it was sent."""
    if protocol == "tcp":
        assert summary["locals"] == {original: expected}
        assert (summary["ok"], summary["broken"]) == (expected, 0)
        return
    assert summary["destinations"] == {original: expected}
    assert (summary["intact"], summary["answered"]) == (expected, expected)
    assert summary["at_reply_sockets"] == 0 and summary["errors"] == {}
