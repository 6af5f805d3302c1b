# SPDX-License-Identifier: GPL-3.0-or-later
"""A SYN that meets what is left of a connection: rows 5 to 7 and 18 of test_delivery.py's cases. The SYN is built by hand,
so that its sequence number, and its timestamp, are what the case needs."""
import struct

import pytest

from delivery import ON_PORT, PORT, Seen
from engine import KINDS, Target
from lab import ASKED, endpoint
from packets import Segment, protocol_of, timestamp_option

kinds = pytest.mark.parametrize("kind", KINDS)
families = pytest.mark.parametrize("family", [4, 6])
TARGET = Target("tcp", PORT, on_port=ON_PORT)


def reopen(scene, client_closes, offset, options=b""):
    """One SYN, its sequence number so much more than that of the connection's first SYN; returns what was seen of it and
    whether the remains are still there."""
    sport = scene.finished(client_closes)
    seq = (scene.first_seq(sport) + offset) & 0xFFFFFFFF
    scene.segment("S", sport, seq, options=options)
    sockets = scene.collect()
    first = scene.answers(sport, seq)[:1]
    state = "TIME-WAIT" if client_closes else "FIN-WAIT-2"
    left = scene.in_state(state, sport)
    if scene.engine.kind != "kernel":
        assert scene.engine.reason("time_wait_reopened") == 1
    return Seen(sockets, first), left


def reopened(family):
    """A new connection has begun: the SYN-ACK acknowledges the new SYN, and nothing is left of the old one."""
    return Seen([], [("SA", endpoint(ASKED[family], PORT), 1)]), False


@kinds
@families
def test_row_5_time_wait_older_sequence(side_by_side, kind, family):
    assert side_by_side(kind, family, TARGET, lambda scene: reopen(scene, True, -100000)) == reopened(family)


@kinds
@families
def test_row_5_time_wait_older_timestamp(side_by_side, kind, family):
    """The sequence number is newer and would do, but the timestamp is older than the connection's last."""

    def scenario(scene):
        sport = scene.finished()
        syn = scene.outgoing.take(lambda p: protocol_of(p) == 6 and Segment(p).sport == sport and Segment(p).flags == "S")[0]
        stamp = struct.unpack("!I", Segment(syn).options.split(b"\x08\x0a")[1][:4])[0]
        seq = (Segment(syn).seq + 500000) & 0xFFFFFFFF
        scene.segment("S", sport, seq, options=timestamp_option(stamp - 100000))
        scene.collect()
        return Seen(scene.collect(), scene.answers(sport, seq)[:1])

    assert side_by_side(kind, family, TARGET, scenario) == reopened(family)[0]


@kinds
@families
@pytest.mark.parametrize("offset", [-100000, 50, 500000], ids=["older", "within", "newer"])
def test_row_6_fin_wait2(side_by_side, kind, family, offset):
    """The proxy's side has closed, the client's has not. 50 is within the bytes that the connection has had."""
    assert side_by_side(kind, family, TARGET, lambda scene: reopen(scene, False, offset)) == reopened(family)


@kinds
@families
def test_row_7_time_wait_newer_sequence(side_by_side, kind, family):
    """What an ordinary client sends that uses its port again."""
    assert side_by_side(kind, family, TARGET, lambda scene: reopen(scene, True, 500000)) == reopened(family)


@kinds
@families
def test_row_7_client_uses_its_port_again(side_by_side, kind, family):
    """The whole of it: the new connection is accepted."""

    def scenario(scene):
        sport = scene.finished()
        scene.ask("tcp", sport=sport)
        return Seen(scene.collect(at_least=1), [answer[:2] for answer in scene.answers(sport)])

    expected = endpoint(ASKED[family], PORT)
    assert side_by_side(kind, family, TARGET, scenario) == Seen([("proxy", expected)], [("SA", expected)])


def syn_for_an_opaque_listener(scene):
    sport = scene.finished()
    scene.transparent("proxy", False)
    scene.segment("S", sport, scene.first_seq(sport) + 500000)
    sockets = scene.collect()
    return Seen(sockets, scene.answers(sport, 0)), scene.in_state("TIME-WAIT", sport)


@kinds
@families
def test_row_18_listener_is_not_transparent(side_by_side, kind, family):
    """The SYN is dropped in silence. The kernel has ended the TIME_WAIT by then, which nobody can use; utproxy leaves it."""
    seen, left = side_by_side.play(kind, family, TARGET, syn_for_an_opaque_listener)
    assert seen == Seen([])
    assert left == (kind != "kernel")


@kinds
@families
@pytest.mark.parametrize("flags", ["A", "FA", "R", "SA", "SF", "SR"])
def test_other_segments_stay_with_the_time_wait(side_by_side, kind, family, flags):
    """Only a segment that may open a connection does. The client's port being closed, it answers a challenge ACK with RST,
    which is not to end the TIME_WAIT here."""

    def scenario(scene):
        scene.lab.router.sh("echo 1 > /proc/sys/net/ipv4/tcp_rfc1337")
        sport = scene.finished()
        seq = (scene.first_seq(sport) - 100000) & 0xFFFFFFFF
        scene.segment(flags, sport, seq, ack=1)
        sockets = scene.collect()
        return Seen(sockets, [answer[0] for answer in scene.answers(sport, seq)]), scene.in_state("TIME-WAIT", sport)

    seen, left = side_by_side(kind, family, TARGET, scenario)
    assert seen.sockets == [] and left and "SA" not in seen.wire
