# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets that no transparent socket is there for: dropped, or passed with --on-miss accept, and counted with the reason.
Behind the router a real server answers, so that a packet that passes is seen to pass."""
import contextlib
import socket

import pytest

from engine import OURS, Target
from lab import ASKED, CLIENT, ROUTER, TRANSPARENT, wait_until
from packets import Injector, Tap, destination_of, ip_packet, protocol_of, tcp_segment

PORT, ON_PORT, SPORT, COUNT = 8080, 12345, 40001, 5
EXPERIMENTAL = 253  # an IP protocol that no rule here takes
KINDS = [("kernel", "drop")] + [(kind, miss) for kind in OURS for miss in ("drop", "accept")]


def datagram(src, sport, dst, dport, size=64):
    head = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + (8 + size).to_bytes(2, "big") + b"\0\0"
    return ip_packet(src, dst, 17, head + bytes(size))


def packet(protocol, family):
    if protocol == "tcp":
        return tcp_segment(CLIENT[family], SPORT, ASKED[family], PORT, "S")
    return datagram(CLIENT[family], SPORT, ASKED[family], PORT)


@contextlib.contextmanager
def nobody(lab, protocol, family):
    yield


@contextlib.contextmanager
def opaque_listener(lab, protocol, family):
    listener = lab.listen(protocol, ON_PORT, "--opaque", family=family)
    yield
    listener.stop()


@contextlib.contextmanager
def opaque_connected(lab, protocol, family):
    """A connected UDP socket with the packet's own addresses and ports, not transparent; the listener is in order."""
    listener = lab.listen(protocol, ON_PORT, family=family)
    with lab.router.entered():
        connected = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with connected:
        level, option = TRANSPARENT[family]
        connected.setsockopt(level, option, 1)  # without it there is no route for connect()
        connected.bind((ASKED[family], PORT))
        connected.connect((CLIENT[family], SPORT))
        connected.setsockopt(level, option, 0)
        yield
    listener.stop()


@contextlib.contextmanager
def shadowed(lab, protocol, family):
    """A connected UDP socket on the listener's port and the interface's address hides the wildcard listener."""
    listener = lab.listen(protocol, ON_PORT, family=family)
    with lab.router.entered():
        connected = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connected.bind((ROUTER[family], ON_PORT))
        connected.connect((CLIENT[family], SPORT))
        yield
    listener.stop()


def forwarded(tap, sent):
    return len(tap.take(lambda p: destination_of(p) == destination_of(sent) and protocol_of(p) == protocol_of(sent)))


def check_miss(lab, engine, kind, miss, sent, reason, situation=None):
    injector, tap = Injector(lab.client), Tap(lab.server, "wan0", outgoing=False)
    before = engine.reason(reason) if kind != "kernel" else 0
    try:
        for _ in range(COUNT):
            injector.send(sent)
        if kind != "kernel":
            wait_until(lambda: engine.reason(reason) - before == COUNT, 5,
                       lambda: f"{COUNT} more of {reason}: {engine.stats()}")
        if miss == "accept" and situation is opaque_connected:
            # Accepted, and yet not forwarded: early demux finds that socket, and ip_forward() drops what has one.
            assert engine.stats()["verdicts"]["accept"] >= COUNT
        elif miss == "accept":
            wait_until(lambda: forwarded(tap, sent) == COUNT, 5, "the packets at the server")
        else:
            # What comes after it on the same way has arrived; of itself there is nothing.
            last = ip_packet(CLIENT[4], ASKED[4], EXPERIMENTAL, b"last")
            injector.send(last)
            wait_until(lambda: forwarded(tap, last), 5, "the last packet")
            assert forwarded(tap, sent) == 0
    finally:
        injector.close()
        tap.close()


SITUATIONS = [
    ("tcp", nobody, "no_socket"),
    ("udp", nobody, "no_socket"),
    ("tcp", opaque_listener, "not_transparent"),
    ("udp", opaque_listener, "not_transparent"),
    ("udp", opaque_connected, "not_transparent"),
    ("udp", shadowed, "no_socket"),
]


@pytest.mark.parametrize("kind,miss", KINDS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol,situation,reason", SITUATIONS, ids=[f"{p}_{s.__name__}" for p, s, _ in SITUATIONS])
def test_miss(make_lab, make_engine, protocol, situation, reason, family, kind, miss):
    lab = make_lab(server=True)
    with situation(lab, protocol, family):
        engine = make_engine(kind, lab, Target(protocol, PORT, on_port=ON_PORT, on_miss="" if kind == "kernel" else miss))
        check_miss(lab, engine, kind, miss, packet(protocol, family), reason, situation)


@pytest.mark.parametrize("kind,miss", KINDS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol,size", [("tcp", 12), ("tcp", 4), ("udp", 4)])
def test_short_header(make_lab, make_engine, protocol, size, family, kind, miss):
    """The ports are there, the rest of the header is not. iptables' own port match would drop such a packet, so the rule
    takes any port."""
    lab = make_lab(server=True)
    lab.listen(protocol, ON_PORT, family=family)
    dport = PORT if kind == "install" else 0
    engine = make_engine(kind, lab, Target(protocol, dport, on_port=ON_PORT, on_miss="" if kind == "kernel" else miss))
    ports = SPORT.to_bytes(2, "big") + PORT.to_bytes(2, "big")
    sent = ip_packet(CLIENT[family], ASKED[family], 6 if protocol == "tcp" else 17, (ports + bytes(8))[:size])
    check_miss(lab, engine, kind, miss, sent, "header_truncated")


@pytest.mark.parametrize("kind", ["kernel", *OURS])
@pytest.mark.parametrize("family", [4, 6])
def test_established_opaque(make_lab, make_engine, family, kind):
    """A connection to a service of the router's own, open when the rules come: its packets are dropped, although there is
    a transparent listener, which is no substitute for an established socket."""
    lab = make_lab(server=True)
    inet = socket.AF_INET if family == 4 else socket.AF_INET6
    lab.listen("tcp", ON_PORT, family=family)
    with lab.router.entered():
        own = socket.create_server(("" if family == 4 else "::", PORT), family=inet)
    with lab.client.entered():
        client = socket.create_connection((ROUTER[family], PORT), timeout=5)
    accepted, _ = own.accept()
    with own, client, accepted:
        client.sendall(b"before")
        assert accepted.recv(100) == b"before"
        engine = make_engine(kind, lab, Target("tcp", PORT, on_port=ON_PORT))
        client.sendall(b"after")
        accepted.settimeout(1.0)
        with pytest.raises(TimeoutError):
            accepted.recv(100)
        if kind == "kernel":
            engine.stop()
        else:
            assert engine.reason("not_transparent") >= 1
            assert engine.stop() == 0
            if kind == "rules":
                engine.remove_queue_rules()
        accepted.settimeout(20)
        assert accepted.recv(100) == b"after"
