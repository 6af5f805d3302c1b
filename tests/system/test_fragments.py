# SPDX-License-Identifier: GPL-3.0-or-later
"""Fragments. Where the namespace defragments, whole datagrams are decided, with the kernel's TPROXY as with utproxy. Where it
does not, because a NFQUEUE rule stands there alone, what comes is not taken for what it is not: a fragment has no ports.
Conversations of datagrams up to the largest size are in test_sockets.py."""
import struct

import pytest

import fragments
from delivery import ON_PORT, PORT, Scene, Seen
from engine import KINDS, Target
from fragments import cut, fragment, udp_packet
from lab import ASKED, CLIENT, endpoint, wait_until
from packets import Tap, destination_of, tcp_segment, timestamp_option

families = pytest.mark.parametrize("family", [4, 6])
protocols = pytest.mark.parametrize("protocol", ["tcp", "udp"])
SPORT, SEQ = 40021, 1000
DATA = bytes(range(256)) * 5

# What makes a namespace defragment, besides utproxy run --install: a rule for anything at all.
REASONS = {
    "conntrack": 'nft add table inet t; nft "add chain inet t c { type filter hook prerouting priority raw; }"\n'
                 "nft add rule inet t c ct state invalid counter",
    "tproxy": "\n".join(f"{tool} -t mangle -A PREROUTING -i lo -p udp --dport 9 -j TPROXY --on-port 9"
                        for tool in ("iptables", "ip6tables")),
    "socket": "\n".join(f"{tool} -t mangle -A PREROUTING -i lo -m socket -j MARK --set-mark 0"
                        for tool in ("iptables", "ip6tables")),
}


def packet_of(protocol, family):
    """A datagram of 1288 bytes, or a SYN with options up to a header of 40 bytes."""
    ends = (CLIENT[family], SPORT, ASKED[family], PORT)
    if protocol == "udp":
        return udp_packet(*ends, DATA)
    return tcp_segment(*ends, "S", SEQ, options=timestamp_option(1) + b"\1" * 8)


# Where it is cut. "tiny" leaves the first fragment of a SYN without its flags, and that of a datagram without data.
CUTS = {
    "udp": {"two": (640,), "three": (16, 1000), "five": (16, 512, 520, 1000), "tiny": (8,)},
    "tcp": {"two": (24,), "three": (24, 32), "tiny": (8,)},
}
LOST = [fragments.overlapping, fragments.incomplete]


def arrived(protocol, family):
    to = endpoint(ASKED[family], PORT)
    return Seen([("proxy", to, DATA)]) if protocol == "udp" else Seen([], [("SA", to, 1)])


def send(scene, protocol, parts):
    scene.open("proxy", protocol, ON_PORT)
    for part in parts:
        scene.injector.send(part)
    return Seen(scene.collect(), scene.answers(SPORT, SEQ))


def is_taken(order, protocol, family, places):
    """Whether the kernel makes a datagram of it. In IPv6 the first fragment must have the whole transport header (RFC 8200,
    4.5): where it has not, it stays alone, and is a fragment to whoever decides."""
    return order not in LOST and not is_cut_short(order, protocol, family, places)


def is_cut_short(order, protocol, family, places):
    return order is not fragments.whole and (protocol, family, places) == ("tcp", 6, "tiny")


ALL = {protocol: list(CUTS[protocol]) for protocol in CUTS}
PLACES = {  # where it makes a difference
    fragments.whole: {"udp": ["two"], "tcp": ["two"]},
    fragments.in_order: ALL,
    fragments.last_first: ALL,
    fragments.shuffled: {"udp": ["three", "five"], "tcp": ["three"]},
    fragments.repeated: {"udp": ["two"], "tcp": ["three"]},
    fragments.overlapping: ALL,
    fragments.incomplete: {"udp": ["two", "five"], "tcp": ["two", "three"]},
}
CASES = [(order, protocol, places) for order in PLACES for protocol in PLACES[order] for places in PLACES[order][protocol]]


def check_defragmented(side_by_side, kind, family, case, prepare=None):
    order, protocol, places = case
    taken = is_taken(order, protocol, family, places)
    parts = order(packet_of(protocol, family), *CUTS[protocol][places])

    def scenario(scene):
        seen = send(scene, protocol, parts)
        if scene.engine.kind != "kernel":
            assert scene.engine.reason("listener") == taken
            assert scene.engine.reason("fragment") == is_cut_short(order, protocol, family, places)
        return seen

    seen = side_by_side(kind, family, Target(protocol, PORT, on_port=ON_PORT), scenario, prepare)
    assert seen == (arrived(protocol, family) if taken else Seen([]))


def because_of(reason):
    return lambda lab: lab.router.sh(REASONS[reason])


@pytest.mark.parametrize("kind", KINDS)
@families
@pytest.mark.parametrize("case", CASES, ids=[f"{order.__name__}_{protocol}_{places}" for order, protocol, places in CASES])
def test_defragmented(side_by_side, kind, family, case):
    """A whole datagram is decided on once, as the kernel's TPROXY decides it. Of one that overlaps in itself or that has a
    gap there is nothing to decide on."""
    check_defragmented(side_by_side, kind, family, case, because_of("conntrack") if kind == "rules" else None)


@families
@protocols
@pytest.mark.parametrize("reason", REASONS)
def test_what_makes_a_namespace_defragment(side_by_side, family, protocol, reason):
    """Beside the user's NFQUEUE rule: any of these, wherever in the namespace and whatever for."""
    check_defragmented(side_by_side, "rules", family, (fragments.last_first, protocol, "three"), because_of(reason))


def alone(make_lab, make_engine, protocol, family, miss="", server=False):
    """The user's NFQUEUE rule for all of the protocol, and nothing that would defragment."""
    lab = make_lab(server=server)
    engine = make_engine("rules", lab, Target(protocol, 0, on_port=ON_PORT, on_miss=miss))
    return Scene(lab, engine, family)


@families
@protocols
@pytest.mark.parametrize("order", [fragments.in_order, fragments.last_first], ids=lambda order: order.__name__)
def test_without_defragmentation(make_lab, make_engine, family, protocol, order):
    """Every fragment, the first one with its ports too, is dropped and counted as what it is. What is not fragmented
    arrives."""
    scene = alone(make_lab, make_engine, protocol, family)
    packet = packet_of(protocol, family)
    assert send(scene, protocol, order(packet, *CUTS[protocol]["three"])) == Seen([])
    assert scene.engine.reason("fragment") == 3
    assert scene.engine.stats()["verdicts"]["drop"] == 3
    scene.injector.send(packet)
    assert Seen(scene.collect(), scene.answers(SPORT, SEQ)) == arrived(protocol, family)
    assert (scene.engine.reason("fragment"), scene.engine.reason("listener")) == (3, 1)
    scene.close()


@families
@protocols
def test_later_fragment_that_looks_like_a_header(make_lab, make_engine, family, protocol):
    """Its first bytes are those of a packet that would be delivered."""
    scene = alone(make_lab, make_engine, protocol, family)
    packet = packet_of(protocol, family)
    looks = packet[:-len(DATA) - 8] if protocol == "udp" else packet[:-40]
    body = packet[len(looks):]
    disguised = looks + b"\0" * 8 + body  # what follows the IP header: eight bytes, then the header
    later = fragment(disguised, 8, 8 + len(body), more=0)
    assert send(scene, protocol, [later] * 3) == Seen([])
    assert scene.engine.reason("fragment") == 3
    scene.close()


@families
@protocols
def test_fragments_pass_on_request(make_lab, make_engine, family, protocol):
    """With --on-miss accept fragments go on unmarked, so they are forwarded, and the server has them all."""
    scene = alone(make_lab, make_engine, protocol, family, miss="accept", server=True)
    tap = Tap(scene.lab.server, "wan0", outgoing=False)
    sent = cut(packet_of(protocol, family), *CUTS[protocol]["three"])
    assert send(scene, protocol, sent).sockets == []
    wait_until(lambda: len(tap.take(lambda p: destination_of(p) == ASKED[family])) == 3, 5, "three fragments at the server")
    assert scene.engine.reason("fragment") == 3
    tap.close()
    scene.close()


@pytest.mark.parametrize("kind", [*KINDS, "alone"])
@protocols
def test_atomic_ipv6_fragment(side_by_side, make_lab, make_engine, kind, protocol):
    """A fragment header on a datagram that is whole (RFC 6946) hides nothing, defragmented or not."""
    atomic = fragment(packet_of(protocol, 6), 0, None, more=0)
    assert atomic[6] == fragments.FRAGMENT_HEADER and struct.unpack("!H", atomic[42:44])[0] == 0
    if kind == "alone":
        scene = alone(make_lab, make_engine, protocol, 6)
        seen = send(scene, protocol, [atomic])
        assert scene.engine.reason("listener") == 1
        scene.close()
    else:
        seen = side_by_side(kind, 6, Target(protocol, PORT, on_port=ON_PORT), lambda scene: send(scene, protocol, [atomic]))
    assert seen == arrived(protocol, 6)
