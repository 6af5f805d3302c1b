# SPDX-License-Identifier: GPL-3.0-or-later
"""Which socket of the router gets a packet, and what the client sees of it, in the cases where a mark alone would not do
what TPROXY does. Each is played with the kernel's TPROXY and with utproxy, and must show the same. The cases are numbered;
5 to 7 and 18 are in test_delivery_time_wait.py, 14, 16 and 17 in test_delivery_differences.py, and 15, VRF, needs a kernel
that has it."""
import socket

import pytest

from delivery import ON_PORT, PORT, Seen
from engine import KINDS, Target
from lab import ASKED, OTHER, ROUTER, endpoint

kinds = pytest.mark.parametrize("kind", KINDS)
families = pytest.mark.parametrize("family", [4, 6])
protocols = pytest.mark.parametrize("protocol", ["tcp", "udp"])
SPORT = 40007
SHARED = [(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)]  # what lets TCP listen on a port twice, at different addresses


def asked(family, port=PORT):
    return endpoint(ASKED[family], port)


def opened(scene, protocol):
    """Asks once; returns what the sockets and the wire saw of it."""
    client = scene.ask(protocol, sport=SPORT)
    sockets = scene.collect(at_least=1)
    wire = [(flags, place, 0) for flags, place, _ in scene.answers(client.getsockname()[1])]
    return Seen(sockets, wire)


def one(name, protocol, family):
    """One connection accepted, or one datagram received, by that socket, as asked for; TCP's SYN-ACK on the wire."""
    if protocol == "udp":
        return Seen([(name, asked(family), b"hello")])
    return Seen([(name, asked(family))], [("SA", asked(family), 0)])


@kinds
@families
@pytest.mark.parametrize("own", [False, True], ids=["alone", "own_service"])
def test_row_1_tcp_other_port(side_by_side, kind, family, own):
    """The listener is on another port than was asked; the router's own service on the asked port gets nothing."""

    def scenario(scene):
        if own:
            scene.open("own", "tcp", PORT, transparent=False)
        scene.open("proxy", "tcp", ON_PORT)
        return opened(scene, "tcp")

    assert side_by_side(kind, family, Target("tcp", PORT, on_port=ON_PORT), scenario) == one("proxy", "tcp", family)


@kinds
@families
@protocols
@pytest.mark.parametrize("on_ip", [False, True], ids=["interface", "on_ip"])
def test_row_2_listener_on_an_address(side_by_side, kind, family, protocol, on_ip):
    """The listener is bound to --on-ip or, without, to the interface's address, and goes before one bound to none; each on
    the port that was asked."""

    def scenario(scene):
        for name, bind in (("wildcard", None), ("proxy", OTHER[family] if on_ip else ROUTER[family])):
            scene.open(name, protocol, PORT, bind=bind, options=SHARED)
        return opened(scene, protocol)

    target = Target(protocol, PORT, on_ip=tuple(OTHER.values()) if on_ip else ())
    assert side_by_side(kind, family, target, scenario) == one("proxy", protocol, family)


@kinds
@families
@protocols
@pytest.mark.parametrize("on_port", [0, ON_PORT], ids=["same_port", "other_port"])
def test_row_3_socket_bound_to_what_was_asked(side_by_side, kind, family, protocol, on_port):
    """A transparent socket with the very address and port that was asked is none of TPROXY's business."""

    def scenario(scene):
        scene.open("proxy", protocol, on_port or PORT, options=SHARED)
        scene.open("exact", protocol, PORT, bind=ASKED[family], options=SHARED)
        return opened(scene, protocol)

    assert side_by_side(kind, family, Target(protocol, PORT, on_port=on_port), scenario) == one("proxy", protocol, family)


@kinds
@pytest.mark.parametrize("family,listener", [(4, 4), (6, 6), (4, "dual"), (6, "dual")])
def test_row_4_udp_other_port(side_by_side, kind, family, listener):
    """Three datagrams of one flow and one of another to an unconnected socket on another port, which is told what was
    asked."""

    def scenario(scene):
        scene.open("proxy", "udp", ON_PORT, family=listener)
        client = scene.ask("udp", b"one")
        for data in (b"two", b"three"):
            client.sendto(data, (ASKED[family], PORT))
        scene.ask("udp", b"other")
        return Seen(scene.collect(at_least=4), scene.answers(0))

    seen = side_by_side(kind, family, Target("udp", PORT, on_port=ON_PORT), scenario)
    assert seen == Seen([("proxy", asked(family), data) for data in (b"one", b"other", b"three", b"two")])


@kinds
@families
@pytest.mark.parametrize("flags", ["A", "F", "FA", "SA", ""], ids=lambda flags: flags or "none")
def test_row_8_stray_segment(side_by_side, kind, family, flags):
    """A segment of no connection goes to the listener, which answers as a listener does: with RST where there is an ACK."""

    def scenario(scene):
        scene.open("proxy", "tcp", ON_PORT)
        scene.segment(flags, SPORT, seq=5000, ack=7000)
        return Seen(scene.collect(), scene.answers(SPORT))

    seen = side_by_side(kind, family, Target("tcp", PORT, on_port=ON_PORT), scenario)
    assert seen == Seen([], [("R", asked(family), 0)] if "A" in flags else [])


@kinds
@families
def test_row_9_syn_cookies(side_by_side, kind, family):
    """With cookies the connection is known to nobody between SYN and ACK; both must reach the listener."""

    def scenario(scene):
        scene.lab.router.sh("echo 2 > /proc/sys/net/ipv4/tcp_syncookies")
        scene.open("proxy", "tcp", ON_PORT)
        for _ in range(20):
            scene.ask("tcp")
        sockets = scene.collect(at_least=20)
        sent = scene.lab.router.run("nstat", "-asz", "TcpExtSyncookiesSent", "TcpExtSyncookiesRecv").stdout
        return Seen(sockets, [line.split()[:2] for line in sent.splitlines()[1:]])

    seen = side_by_side(kind, family, Target("tcp", PORT, on_port=ON_PORT), scenario)
    assert seen.sockets == [("proxy", asked(family))] * 20
    assert seen.wire == [["TcpExtSyncookiesSent", "20"], ["TcpExtSyncookiesRecv", "20"]]


@kinds
@families
@protocols
@pytest.mark.parametrize("on_port", [0, ON_PORT], ids=["same_port", "other_port"])
def test_row_10_opaque_listener(side_by_side, kind, family, protocol, on_port):
    """A listener without IP_TRANSPARENT gets nothing, even where the mark alone would lead to it, and the client hears
    nothing. Once it is transparent, it does."""

    def scenario(scene):
        scene.open("proxy", protocol, on_port or PORT, transparent=False)
        scene.segment("S", SPORT, seq=1000) if protocol == "tcp" else scene.ask("udp", b"early")
        before = Seen(scene.collect(), scene.answers(SPORT, 1000))
        scene.transparent("proxy", True)
        scene.ask(protocol)
        return before, scene.collect(at_least=1)

    before, after = side_by_side(kind, family, Target(protocol, PORT, on_port=on_port), scenario)
    assert before == Seen([])
    assert after == one("proxy", protocol, family).sockets


@kinds
@families
@protocols
def test_row_10_opaque_established(side_by_side, kind, family, protocol):
    """A connection, or connected socket, without IP_TRANSPARENT gets nothing any more, and no listener does instead."""

    def scenario(scene):
        scene.open("proxy", protocol, ON_PORT)
        client = scene.established(protocol, SPORT)
        client.send(b"before")
        scene.collect(at_least=2)
        scene.transparent("connection", False)
        client.send(b"after")
        return scene.collect()

    seen = side_by_side(kind, family, Target(protocol, PORT, on_port=ON_PORT), scenario)
    assert seen == got(protocol, family, "connection", b"before") + got(protocol, family, "proxy", b"first")


def got(protocol, family, name, data):
    if protocol == "udp":
        return [(name, asked(family), data)]
    return [(name, data)] if name == "connection" else [(name, asked(family))]


@kinds
@families
@protocols
def test_row_11_established(side_by_side, kind, family, protocol):
    """What belongs to a transparent connection, or connected UDP socket, goes there; all else of the same client to the
    listener."""

    def scenario(scene):
        scene.open("proxy", protocol, ON_PORT)
        client = scene.established(protocol, SPORT)
        client.send(b"more")
        scene.collect(at_least=2)
        scene.ask(protocol, b"other")
        return scene.collect(at_least=3)

    seen = side_by_side(kind, family, Target(protocol, PORT, on_port=ON_PORT), scenario)
    assert seen == (got(protocol, family, "connection", b"more") + got(protocol, family, "proxy", b"first")
                    + got(protocol, family, "proxy", b"other"))


@kinds
@families
@pytest.mark.parametrize("transparent", [True, False], ids=["transparent", "opaque"])
def test_row_12_connected_socket_shadows(side_by_side, kind, family, transparent):
    """A socket on the interface's address and the listener's port that is connected to the packet's sender hides the
    listener, and gets nothing itself. Another sender's packets arrive."""

    def scenario(scene):
        scene.open("proxy", "udp", ON_PORT)
        scene.connected("shadow", ON_PORT, ROUTER[family], SPORT, transparent)
        scene.ask("udp", b"hidden", sport=SPORT)
        scene.ask("udp", b"seen", sport=SPORT + 1)
        return Seen(scene.collect(at_least=1), scene.answers(SPORT))

    seen = side_by_side(kind, family, Target("udp", PORT, on_port=ON_PORT), scenario)
    assert seen == Seen([("proxy", asked(family), b"seen")])


def without_addresses(lab):
    """A router without an IPv4 address but 127.0.0.1, so that connect() finds none to bind a socket to."""
    lab.router.sh("""
        ip -4 address flush dev lan0
        ip -4 address flush to 10.77.9.9 dev lo
        ip route add 10.77.1.0/24 dev lan0 scope link
    """)


@kinds
@pytest.mark.parametrize("on_port", [0, ON_PORT], ids=["same_port", "other_port"])
def test_row_13_connected_without_address(side_by_side, kind, on_port):
    """A UDP socket that is connected, yet bound to no address, does not count as established. On the listener's own port it
    hides the listener all the same. IPv6 has no such socket: connect() fails where it finds no address."""

    def scenario(scene):
        scene.open("proxy", "udp", on_port or PORT)
        made = scene.connected("odd", PORT, "0.0.0.0", SPORT)
        assert made.getsockname()[0] == "0.0.0.0"
        scene.ask("udp", b"to odd", sport=SPORT)
        scene.ask("udp", b"other", sport=SPORT + 1)
        return Seen(scene.collect(at_least=1), scene.answers(SPORT))

    seen = side_by_side(kind, 4, Target("udp", PORT, on_port=on_port), scenario, prepare=without_addresses)
    expected = [("proxy", asked(4), b"other")]
    if on_port:
        expected.append(("proxy", asked(4), b"to odd"))
    assert seen == Seen(expected)
