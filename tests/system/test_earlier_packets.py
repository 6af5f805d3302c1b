# SPDX-License-Identifier: GPL-3.0-or-later
"""What earlier packets of a flow leave behind must not decide for a later one: packets that wait in the queue together, and
the flow's entry for the sk_lookup program."""
import ctypes
import os
import signal
import time

import pytest

from delivery import ON_PORT, PORT, Seen
from engine import KINDS, OURS, Target
from lab import ASKED, CLIENT, PATIENCE, ROUTER, endpoint, wait_until

kinds = pytest.mark.parametrize("kind", KINDS)
families = pytest.mark.parametrize("family", [4, 6])


def disconnect(made):
    """connect(AF_UNSPEC), for which Python has no words."""
    nobody = ctypes.create_string_buffer(16)
    if ctypes.CDLL(None, use_errno=True).connect(made.fileno(), nobody, 16) != 0:
        raise OSError(ctypes.get_errno(), "connect to AF_UNSPEC")


def in_one_batch(scene, send):
    """`send()` while utproxy does not read its queue."""
    if scene.engine.kind == "kernel":
        send()
        return
    pid = scene.engine.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        send()
        time.sleep(0.2 * PATIENCE)
    finally:
        os.kill(pid, signal.SIGCONT)


@kinds
@families
def test_rst_and_syn_in_one_batch(side_by_side, kind, family):
    """The RST ends the connection before its SYN is looked at, which then belongs to the listener. By then the entry of
    the first handshake is gone, as it is some time after it."""

    def scenario(scene):
        scene.open("proxy", "tcp", ON_PORT)
        client = scene.client_socket("tcp")
        client.connect((ASKED[family], PORT))
        sport = client.getsockname()[1]
        wait_until(lambda: scene.collect(at_least=1), 10, "the connection")
        if scene.engine.kind != "kernel":
            scene.engine.stop()
            scene.engine.launch()
        first = scene.first_seq(sport)
        scene.forget()

        def send():
            scene.segment("R", sport, (first + 1) & 0xFFFFFFFF)
            scene.segment("S", sport, (first + 500000) & 0xFFFFFFFF)

        in_one_batch(scene, send)
        sockets = scene.collect()
        return Seen(sockets[1:], scene.answers(sport, (first + 500000) & 0xFFFFFFFF)[:1])

    assert side_by_side(kind, family, Target("tcp", PORT, on_port=ON_PORT), scenario) == \
        Seen([], [("SA", endpoint(ASKED[family], PORT), 1)])


@pytest.mark.parametrize("kind", OURS)
@families
def test_an_accepted_miss_is_not_led_to_the_listener(side_by_side, kind, family):
    """The listener is no longer transparent: the datagram goes where it goes without the rule."""
    target = Target("udp", PORT, on_port=ON_PORT, on_miss="accept")

    def scenario(scene):
        scene.open("proxy", "udp", ON_PORT)
        scene.open("own", "udp", PORT, ROUTER[family], transparent=False)
        client = scene.client_socket("udp")
        for data in (b"1", b"2", b"3"):
            if data == b"2":
                scene.transparent("proxy", False)
            if data == b"3":
                scene.transparent("proxy", True)
            client.sendto(data, (ROUTER[family], PORT))
            scene.collect(at_least=int(data))
        return [(name, data) for name, _, data in sorted(scene.got, key=lambda got: got[2])]

    assert side_by_side.play(kind, family, target, scenario) == [("proxy", b"1"), ("own", b"2"), ("proxy", b"3")]


@kinds
def test_the_flows_own_address_becomes_the_interfaces(side_by_side, kind):
    """Without --on-port and --on-ip the listener is looked up at the interface's primary address. Where that becomes the
    packet's own destination, the socket there gets it, whatever the flow's entry says."""

    def scenario(scene):
        scene.open("before", "udp", PORT, ROUTER[4])
        scene.open("after", "udp", PORT, ASKED[4])
        client = scene.client_socket("udp")
        client.sendto(b"1", (ASKED[4], PORT))
        scene.collect(at_least=1)
        scene.lab.router.sh(f"ip address add {ASKED[4]}/24 dev lan0\nip address del {ROUTER[4]}/24 dev lan0")
        time.sleep(0.3 * PATIENCE)  # for utproxy to hear of it
        client.sendto(b"2", (ASKED[4], PORT))
        return Seen([(name, data) for name, _, data in scene.collect(at_least=2)])

    assert side_by_side(kind, 4, Target("udp", PORT), scenario) == Seen([("after", b"2"), ("before", b"1")])


@kinds
@families
def test_a_socket_that_is_disconnected_leaves_its_flow_at_once(side_by_side, kind, family):
    """connect(AF_UNSPEC) makes no destroy event, so the mirror takes the socket for the flow's until its next dump. The flow's
    very next datagram goes to the listener all the same, and the socket's after it connects again. Twenty times, as a dump
    may come between."""
    if kind == "divert":
        pytest.skip("the kernel carries the flow by itself: nothing is decided")

    def scenario(scene):
        scene.open("proxy", "udp", ON_PORT)
        client = scene.client_socket("udp")
        sport = client.getsockname()[1]
        peer = (CLIENT[family], sport)
        reply = scene.connected("reply", PORT, ASKED[family], sport)
        for n in range(20):
            for what, to in ((b"connected", None), (b"disconnected", "proxy")):
                if to:
                    disconnect(reply)
                client.sendto(what + b" %d" % n, (ASKED[family], PORT))
                scene.collect(at_least=len(scene.got) + 1)
            reply.connect(peer)
        return [(name, data) for name, _, data in sorted(scene.got, key=lambda got: got[2])]

    wanted = sorted([("reply", b"connected %d" % n) for n in range(20)] +
                    [("proxy", b"disconnected %d" % n) for n in range(20)], key=lambda got: got[1])
    assert side_by_side.play(kind, family, Target("udp", PORT, on_port=ON_PORT), scenario) == wanted
