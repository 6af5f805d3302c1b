# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of several sockets gets the packet, in whole conversations. Single packets are test_delivery.py's. Every case is the
kernel's TPROXY's answer first, ours after it."""
import socket

import pytest

from engine import KINDS, OURS, Target
from lab import ASKED, TRANSPARENT, endpoint, wait_until

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
        def counted():
            carried = engine.stats().get("fast_path", {"udp": 0})["udp"]
            return engine.reason("listener") + engine.reason("established") + carried == 50

        wait_until(counted, 3, engine.stats)
        assert engine.reason("established") > 0 or kind == "divert"


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
