# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of several sockets gets the packet. Every case is the kernel's TPROXY's answer first, ours after it."""
import socket

import pytest

from engine import KINDS, OURS, Target
from lab import ASKED, CLIENT, TRANSPARENT, endpoint, wait_until
from packets import Injector, Segment, Tap, protocol_of, tcp_segment

PORT, ON_PORT = 8080, 12345
everywhere = pytest.mark.parametrize("kind", KINDS)
families = pytest.mark.parametrize("family", [4, 6])


def only(summary, to, count):
    assert summary.get("locals", summary.get("destinations")) == {to: count}


@everywhere
@families
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_own_service_on_the_asked_port(lab, make_engine, kind, family, protocol):
    """The router's own service on every address and the asked port does not get what is meant for the proxy."""
    own = lab.listen(protocol, PORT, "--opaque", family=family)
    listener = lab.listen(protocol, ON_PORT, family=family)
    make_engine(kind, lab, Target(protocol, PORT, on_port=ON_PORT))
    to = endpoint(ASKED[family], PORT)
    answer = lab.ask(protocol, to, *(["--connections", 20] if protocol == "tcp" else ["--count", 20]))
    assert answer["exit"] == 0, answer
    only(listener.summary(), to, 20)
    assert own.summary().get("accepted", 0) == 0


@everywhere
@families
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_socket_bound_to_what_was_asked(lab, make_engine, kind, family, protocol):
    """A second transparent socket, bound to the very address and port asked for, steals nothing."""
    exact = lab.listen(protocol, PORT, family=family, bind=ASKED[family])
    listener = lab.listen(protocol, ON_PORT, family=family)
    make_engine(kind, lab, Target(protocol, PORT, on_port=ON_PORT))
    to = endpoint(ASKED[family], PORT)
    answer = lab.ask(protocol, to, *(["--connections", 10] if protocol == "tcp" else ["--count", 10]))
    assert answer["exit"] == 0, answer
    only(listener.summary(), to, 10)
    unused = exact.summary()
    assert unused.get("accepted", unused.get("received")) == 0


@everywhere
@families
@pytest.mark.parametrize("on_port", [0, ON_PORT])
def test_reply_socket_steals_nothing(lab, make_engine, kind, family, on_port):
    """The socket that the answers are sent from is bound to the original destination; later packets still come to the
    listener, also on the listener's own port."""
    listener = lab.listen("udp", on_port or PORT, family=family)
    make_engine(kind, lab, Target("udp", PORT, on_port=on_port))
    to = endpoint(ASKED[family], PORT)
    answer = lab.ask("udp", to, "--count", 200, "--window", 10)
    assert answer["exit"] == 0, answer
    seen = listener.summary()
    assert seen["at_reply_sockets"] == 0
    only(seen, to, 200)


@everywhere
@families
def test_connected_reply_socket(lab, make_engine, kind, family):
    """A proxy with a connected socket per flow gets the flow's later packets there, as established."""
    listener = lab.listen("udp", ON_PORT, "--connect", family=family)
    engine = make_engine(kind, lab, Target("udp", PORT, on_port=ON_PORT))
    answer = lab.ask("udp", endpoint(ASKED[family], PORT), "--count", 50)
    assert answer["exit"] == 0, answer
    assert listener.summary()["at_reply_sockets"] == 49
    if kind != "kernel":  # a flow's decision may be remembered for a moment, and counts come after the verdict
        wait_until(lambda: engine.reason("listener") + engine.reason("established") == 50, 3, engine.stats)
        assert engine.reason("established") > 0


@everywhere
def test_device_bound_listener_wins(lab, make_engine, kind):
    """Of two wildcard listeners on the port the one bound to the ingress device scores higher."""
    wide = lab.listen("tcp", ON_PORT, "--reuseport")
    with lab.router.entered():
        narrow = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with narrow:
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lan0")
        narrow.setsockopt(*TRANSPARENT[4], 1)
        narrow.bind(("0.0.0.0", ON_PORT))
        narrow.listen()
        narrow.settimeout(5)
        make_engine(kind, lab, Target("tcp", PORT, on_port=ON_PORT))
        with lab.client.entered():
            client = socket.create_connection((ASKED[4], PORT), timeout=5)
        accepted, peer = narrow.accept()
        assert accepted.getsockname() == (ASKED[4], PORT)
        client.close()
        accepted.close()
    assert wide.summary()["accepted"] == 0


class RawPeer:
    """Looks at and adds to the client's side of a connection, packet by packet."""

    def __init__(self, lab, family, to_port=PORT):
        self.family, self.to_port = family, to_port
        self.injector = Injector(lab.client)
        self.incoming = Tap(lab.client, "lan0", outgoing=False)
        self.outgoing = Tap(lab.client, "lan0", outgoing=True)

    def answer_to(self, flags, sport, seq, ack=0):
        """Sends one segment and returns the flags of the first answer to that port, and what it acknowledges."""
        self.incoming.take()
        self.incoming.packets.clear()
        self.injector.send(tcp_segment(CLIENT[self.family], sport, ASKED[self.family], self.to_port, flags, seq, ack))
        found = self.incoming.wait(lambda p: protocol_of(p) == 6 and Segment(p).dport == sport)
        return (None, None) if found is None else (Segment(found).flags, Segment(found).ack)

    def first_seq(self, sport):
        found = self.outgoing.take(lambda p: protocol_of(p) == 6 and Segment(p).sport == sport and Segment(p).flags == "S")
        return Segment(found[0]).seq

    def close(self):
        for part in (self.injector, self.incoming, self.outgoing):
            part.close()


@pytest.fixture
def raw_peer(request):
    peers = []

    def make(*words, **options):
        peers.append(RawPeer(*words, **options))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


def finished_connection(lab, family, client_closes=True):
    """A connection that the proxy's side ended first; returns (client's port, its socket or None)."""
    inet = socket.AF_INET if family == 4 else socket.AF_INET6
    level, option = TRANSPARENT[family]
    with lab.client.entered():
        client = socket.socket(inet, socket.SOCK_STREAM)
    with lab.router.entered():
        listener = socket.socket(inet, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(level, option, 1)
    listener.bind(("" if family == 4 else "::", ON_PORT))
    listener.listen(16)
    client.settimeout(5)
    client.bind((CLIENT[family], 0))
    client.connect((ASKED[family], PORT))
    sport = client.getsockname()[1]
    accepted, _ = listener.accept()
    client.sendall(b"x" * 100)
    assert len(accepted.recv(1000)) == 100
    accepted.close()
    assert client.recv(10) == b""
    if client_closes:
        client.close()
        client = None
    wanted = "TIME-WAIT" if client_closes else "FIN-WAIT-2"
    state = wanted.lower()
    wait_until(lambda: f":{sport}" in lab.router.run("ss", "-Htan", "state", state).stdout, 10,
               lambda: f"{wanted} of port {sport}: {lab.router.run('ss', '-tan').stdout}{lab.client.run('ss', '-tan').stdout}")
    return sport, client, listener


@everywhere
@families
@pytest.mark.parametrize("seq_offset", [-100000, 500000], ids=["older", "newer"])
@pytest.mark.parametrize("state", ["time_wait", "fin_wait2"])
def test_syn_reopens(lab, make_engine, raw_peer, kind, family, seq_offset, state):
    """A SYN that meets what is left of a connection opens a new one at the listener, whatever its sequence number."""
    engine = make_engine(kind, lab, Target("tcp", PORT, on_port=ON_PORT))
    peer = raw_peer(lab, family)
    sport, client, listener = finished_connection(lab, family, client_closes=state == "time_wait")
    seq = (peer.first_seq(sport) + seq_offset) & 0xFFFFFFFF
    flags, ack = peer.answer_to("S", sport, seq)
    assert (flags, ack) == ("SA", (seq + 1) & 0xFFFFFFFF)
    if kind != "kernel":
        wait_until(lambda: engine.reason("time_wait_reopened") == 1, 3, engine.stats)
    listener.close()
    if client:
        client.close()


@everywhere
@families
def test_stray_segment_is_reset(lab, make_engine, raw_peer, kind, family):
    """A segment of no connection goes to the listener, which answers with RST."""
    lab.listen("tcp", ON_PORT, family=family)
    make_engine(kind, lab, Target("tcp", PORT, on_port=ON_PORT))
    flags, _ = raw_peer(lab, family).answer_to("A", 40007, 5000, ack=7000)
    assert flags == "R"


@everywhere
@families
def test_syn_cookies(lab, make_engine, kind, family):
    """With cookies the connection is known to nobody between SYN and ACK; both must reach the listener."""
    lab.router.sh("echo 2 > /proc/sys/net/ipv4/tcp_syncookies")
    listener = lab.listen("tcp", ON_PORT, family=family)
    make_engine(kind, lab, Target("tcp", PORT, on_port=ON_PORT))
    to = endpoint(ASKED[family], PORT)
    answer = lab.ask("tcp", to, "--connections", 50, "--concurrency", 5, "--max", 20000)
    assert answer["exit"] == 0, answer
    only(listener.summary(), to, 50)


@everywhere
@families
def test_large_datagrams(lab, make_engine, kind, family):
    """Datagrams in many fragments arrive whole, and so do the answers."""
    if kind == "rules":  # NFQUEUE alone does not reassemble; whoever writes the rules sees to it, e.g. so
        lab.router.run("nft", "-f", "-", text="""
            table inet whole {
                chain pre { type filter hook prerouting priority raw; ct state invalid counter; }
            }""")
    listener = lab.listen("udp", ON_PORT, family=family)
    make_engine(kind, lab, Target("udp", PORT, on_port=ON_PORT))
    to = endpoint(ASKED[family], PORT)
    answer = lab.ask("udp", to, "--count", 40, "--min", 2000, "--max", 65000)
    assert answer["exit"] == 0, answer
    only(listener.summary(), to, 40)


@pytest.mark.parametrize("kind", OURS)
def test_listener_restarted_meanwhile(lab, make_engine, kind):
    """The listener goes and comes back: what comes between is dropped, what comes after is delivered."""
    make_engine(kind, lab, Target("udp", PORT, on_port=ON_PORT))
    to = endpoint(ASKED[4], PORT)
    for round_number in range(5):
        listener = lab.listen("udp", ON_PORT)
        answer = lab.ask("udp", to, "--count", 20)
        assert answer["exit"] == 0, (round_number, answer)
        assert listener.summary()["intact"] == 20
        silence = lab.ask("udp", to, "--count", 3, "--window", 3, "--timeout-ms", 200)
        assert silence["answered"] == 0
