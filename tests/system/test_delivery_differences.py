# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows 14, 16 and 17 of test_delivery.py's cases: where user space cannot do what the kernel does. Both sides are held to
what README.md says under "Differences from the kernel's TPROXY"."""
import collections
import contextlib
import os
import select
import socket
import sys

import pytest

from delivery import ON_PORT, PORT
from engine import KINDS, Target
from lab import ASKED, ROUTER, TRANSPARENT, endpoint
from packets import Held

kinds = pytest.mark.parametrize("kind", KINDS)
families = pytest.mark.parametrize("family", [4, 6])
protocols = pytest.mark.parametrize("protocol", ["tcp", "udp"])
SHARED = (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
SO_INCOMING_CPU = 49


def members(events):
    return collections.Counter(event[0] for event in events)


@kinds
@families
@protocols
def test_row_14_reuseport_balance(side_by_side, kind, family, protocol):
    """Each flow is one member's, and every member has its share; which one is the hash's affair."""

    def scenario(scene):
        for number in range(4):
            scene.open(f"member {number}", protocol, ON_PORT, options=[SHARED])
        for number in range(60):
            scene.ask(protocol, b"flow %d" % number)
        first = scene.collect(at_least=60)
        assert all(event[1] == endpoint(ASKED[family], PORT) for event in first)
        return first

    seen = members(side_by_side.play(kind, family, Target(protocol, PORT, on_port=ON_PORT), scenario))
    assert sum(seen.values()) == 60
    assert len(seen) == 4 and min(seen.values()) >= 3, seen  # 15 each; fewer than 3 once in 100,000 runs


@kinds
@families
def test_row_14_reuseport_flow_stays(side_by_side, kind, family):
    """All datagrams of a flow reach the same member, while other flows come and go."""

    def scenario(scene):
        for number in range(4):
            scene.open(f"member {number}", "udp", ON_PORT, options=[SHARED])
        client = scene.client_socket("udp")
        for number in range(20):
            client.sendto(b"one flow", (ASKED[family], PORT))
            scene.ask("udp", b"another")
        return [event for event in scene.collect(at_least=40) if event[2] == b"one flow"]

    seen = members(side_by_side.play(kind, family, Target("udp", PORT, on_port=ON_PORT), scenario))
    assert len(seen) == 1 and sum(seen.values()) == 20


@contextlib.contextmanager
def on_cpu(number):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@kinds
@families
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
@pytest.mark.parametrize("ours", [0, 1])
def test_row_14_incoming_cpu(side_by_side, kind, family, ours):
    """Of a group whose members each want another processor's packets the kernel takes that of the interrupt, here the
    client's, utproxy that of its own thread."""
    sender, receiver = sorted(os.sched_getaffinity(0))[0], sorted(os.sched_getaffinity(0))[ours]

    def scenario(scene):
        for number in sorted(os.sched_getaffinity(0))[:2]:
            options = [SHARED, (socket.SOL_SOCKET, SO_INCOMING_CPU, number)]
            scene.open(f"member {number}", "tcp", ON_PORT, options=options)
        with on_cpu(sender):
            for _ in range(20):
                scene.ask("tcp")
        return scene.collect(at_least=20)

    target = Target("tcp", PORT, on_port=ON_PORT, options=("--cpu", str(receiver)))
    seen = members(side_by_side.play(kind, family, target, scenario))
    assert seen == {f"member {sender if kind == 'kernel' else receiver}": 20}


EVERYONE = {4: ["10.77.1.255", "255.255.255.255", "224.0.0.1"], 6: ["ff02::1", "ff05::1234"]}
GROUP = "ff05::1234"  # which the router's socket "other" joins; it is a member of the rest by itself


def join(scene, name):
    with scene.lab.router.entered():
        index = socket.if_nametoindex("lan0")
    membership = socket.inet_pton(socket.AF_INET6, GROUP) + index.to_bytes(4, sys.byteorder)
    scene.sockets[name].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)


@kinds
@pytest.mark.parametrize("to", EVERYONE[4] + EVERYONE[6])
@pytest.mark.parametrize("on_port", [0, ON_PORT], ids=["same_port", "other_port"])
def test_row_16_multicast_and_broadcast(side_by_side, kind, to, on_port):
    """The kernel gives them to the socket that it has chosen, of two equal ones the later. Routing ignores the mark for such
    destinations, so after utproxy's verdict they go to every socket of the packet's own port, and with another --on-port
    they are lost to the proxy."""
    family = 6 if ":" in to else 4

    def scenario(scene):
        scene.open("proxy", "udp", on_port or PORT)
        scene.open("other", "udp", PORT)
        if to == GROUP:
            join(scene, "other")
        client = scene.client_socket("udp")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lan0")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"all", (to, PORT))
        return [event[0] for event in scene.collect(at_least=1)]

    seen = side_by_side.play(kind, family, Target("udp", PORT, on_port=on_port), scenario)
    if kind == "kernel":
        assert seen == (["proxy"] if on_port else ["other"])
    else:
        assert seen == (["other"] if on_port else ["other", "proxy"])


def held_back(scene, protocol, meanwhile):
    """Sends one packet, which is held after the decision and before its delivery until `meanwhile(scene)` has been done.
    Returns the names of the router's sockets that have something to read, and the answers on the wire."""
    sport, seq = 40009, 1000
    scene.open("proxy", protocol, ON_PORT)
    for tool in ("iptables", "ip6tables"):
        scene.lab.router.run(tool, "-t", "mangle", "-A", "INPUT", "-i", "lan0", "-p", protocol, "--dport", PORT,
                             "-j", "NFQUEUE", "--queue-num", "9")
    with contextlib.closing(Held(scene.lab.router, 9)) as held:
        if protocol == "tcp":
            scene.segment("S", sport, seq)
        else:
            scene.ask("udp", b"late", sport=sport)
        held.wait(1)
        meanwhile(scene)
        held.release()
        scene.marker()
    readable = [name for name, made in scene.sockets.items() if made.fileno() >= 0 and select.select([made], [], [], 0)[0]]
    return readable, [answer[:2] for answer in scene.answers(sport, seq)]


def nothing(scene):
    pass


def not_transparent_any_more(scene):
    scene.transparent("proxy", False)


@kinds
@families
@protocols
@pytest.mark.parametrize("meanwhile", [nothing, not_transparent_any_more], ids=lambda change: change.__name__)
def test_row_17_no_change_that_matters(side_by_side, kind, family, protocol, meanwhile):
    """The decision stands, although the listener is not transparent any more. (Its SYN-ACK finds no route then over IPv4,
    with the kernel's TPROXY as with utproxy.)"""
    seen = side_by_side(kind, family, Target(protocol, PORT, on_port=ON_PORT),
                        lambda scene: held_back(scene, protocol, meanwhile))
    if protocol == "udp":
        assert seen == (["proxy"], [])
    elif meanwhile is nothing or family == 6:
        assert seen == ([], [("SA", endpoint(ASKED[family], PORT))])


@kinds
@families
@protocols
@pytest.mark.parametrize("replaced", [False, True], ids=["closed", "replaced"])
def test_row_17_listener_closes(side_by_side, kind, family, protocol, replaced):
    """The packet is lost, also to a listener that was bound in its place. The kernel's TPROXY loses it in the closed socket,
    in silence; without that socket, IPv6 says that there is nobody (IPv4 cannot from an address not its own)."""

    def meanwhile(scene):
        scene.sockets["proxy"].close()
        if replaced:
            scene.open("next", protocol, ON_PORT)

    readable, wire = side_by_side.play(kind, family, Target(protocol, PORT, on_port=ON_PORT),
                                       lambda scene: held_back(scene, protocol, meanwhile))
    assert readable == []
    if kind == "kernel" or family == 4:
        assert wire == []
    else:
        assert wire == [("RA", endpoint(ASKED[6], PORT)) if protocol == "tcp" else ("unreachable", ROUTER[6])]


IPPROTO_MPTCP = 262


def mptcp_listener(scene, port):
    try:
        with scene.lab.router.entered():
            made = scene.keep("proxy", socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP))
    except OSError as problem:
        pytest.skip(f"no MPTCP here: {problem}")
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(*TRANSPARENT[4], 1)
    made.bind(("0.0.0.0", port))
    made.listen(8)
    made.setblocking(False)


@kinds
def test_mptcp_listener_at_the_packets_own_port(side_by_side, kind):
    def scenario(scene):
        mptcp_listener(scene, PORT)
        scene.ask("tcp")
        return scene.collect(at_least=1)

    target = Target("tcp", PORT, on_ip=(ASKED[4],))
    assert side_by_side(kind, 4, target, scenario) == [("proxy", endpoint(ASKED[4], PORT))]


@kinds
def test_mptcp_listener_at_another_port(side_by_side, kind):
    """The kernel lets nobody pin it; that is counted, and explained."""

    def scenario(scene):
        mptcp_listener(scene, ON_PORT)
        if kind != "kernel":
            explained = scene.engine.explain("tcp", "10.77.1.2:4000", endpoint(ASKED[4], PORT), "--iif", "lan0")
            delivery = explained["steps"][-1]
            assert (delivery["step"], delivery["result"]) == ("delivery", "failed") and "MPTCP" in delivery["why"]
        client = scene.client_socket("tcp")
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect((ASKED[4], PORT))
        sockets = scene.collect(at_least=int(kind == "kernel"))
        assert kind == "kernel" or scene.engine.stats()["losses"]["steer_failed"] >= 1
        return sockets

    seen = side_by_side.play(kind, 4, Target("tcp", PORT, on_port=ON_PORT), scenario)
    assert seen == ([("proxy", endpoint(ASKED[4], PORT))] if kind == "kernel" else [])
