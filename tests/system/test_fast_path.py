# SPDX-License-Identifier: GPL-3.0-or-later
"""--fast-path divert: what the kernel carries by itself, and what must go on by way of the queue. That it is delivered as
TPROXY delivers it, the kind `divert` shows throughout test_delivery*.py."""
import contextlib
import re
import socket
import time

import pytest

from delivery import ON_PORT, PORT, Scene
from engine import Target, Utproxy, leftovers, queued_by_queue
from lab import ASKED, ROUTER, TRANSPARENT, endpoint, wait_until

families = pytest.mark.parametrize("family", [4, 6])
protocols = pytest.mark.parametrize("protocol", ["tcp", "udp"])
UDP = Target("udp", PORT, on_port=ON_PORT)
TCP = Target("tcp", PORT, on_port=ON_PORT)
SHARED = [(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)]


@pytest.fixture
def scene_of(lab, make_engine):
    with contextlib.ExitStack() as stack:

        def make(family, target, kind="divert"):
            engine = make_engine(kind, lab, target)
            return stack.enter_context(contextlib.closing(Scene(lab, engine, family)))

        yield make


def queued(scene):
    return queued_by_queue(scene.lab.router)[0]


def carried(scene):
    return scene.engine.stats()["fast_path"]


def open_proxy(scene, name="proxy", **options):
    """A UDP listener, and until the daemon has forgotten the flows because of it, and again for what was being decided
    meanwhile: until it has not done so for longer than the mirror takes to see a socket."""
    before = carried(scene)["flows_forgotten"]
    made = scene.open(name, "udp", ON_PORT, **options)
    wait_until(lambda: carried(scene)["flows_forgotten"] >= before + 2, 5, "the flows to be forgotten")

    def quiet():
        count = carried(scene)["flows_forgotten"]
        time.sleep(0.2)
        return carried(scene)["flows_forgotten"] == count

    wait_until(quiet, 10, "the flows to be forgotten no more")
    return made


def asked(family):
    return endpoint(ASKED[family], PORT)


def send(scene, client, *texts):
    for text in texts:
        client.sendto(text, (ASKED[scene.family], PORT))


@families
def test_udp_only_the_first_datagram_is_queued(scene_of, family):
    scene = scene_of(family, UDP)
    open_proxy(scene)
    client = scene.ask("udp", b"0")
    scene.collect(at_least=1)
    before = queued(scene)
    send(scene, client, *(b"%d" % i for i in range(1, 21)))
    assert scene.collect(at_least=21) == sorted(("proxy", asked(family), b"%d" % i) for i in range(21))
    assert (before, queued(scene)) == (1, 1)
    assert (carried(scene)["udp"], carried(scene)["tcp"]) == (20, 0)
    scene.ask("udp", b"another flow")
    scene.collect(at_least=22)
    assert queued(scene) == 2


@families
def test_tcp_only_syns_are_queued(lab, make_engine, family):
    lab.listen("tcp", ON_PORT, family=family)
    engine = make_engine("divert", lab, TCP)
    answer = lab.ask("tcp", asked(family), "--connections", 1, "--min", 2_000_000, "--max", 2_000_000)
    assert answer["exit"] == 0 and answer["errors"] == {}, answer
    # On a slow machine it comes twice, and the ACK goes to a request socket that is gone.
    assert queued_by_queue(lab.router)[0] <= 3
    assert engine.stats()["fast_path"]["tcp"] >= 15  # of up to 64 KB each


@families
@protocols
def test_own_socket_on_the_asked_port_is_not_swallowed(scene_of, family, protocol):
    """Transparent sockets that TPROXY ignores, bound to the asked port and any address, or to the very address."""
    scene = scene_of(family, Target(protocol, PORT, on_port=ON_PORT))
    open_proxy(scene) if protocol == "udp" else scene.open("proxy", protocol, ON_PORT)
    scene.open("own", protocol, PORT, options=SHARED)
    scene.open("exact", protocol, PORT, bind=ASKED[family], options=SHARED)
    client = scene.ask(protocol, b"one")
    if protocol == "tcp":
        assert scene.collect(at_least=1) == [("proxy", asked(family))]
        return
    scene.collect(at_least=1)  # what comes before the first one's verdict is queued too
    send(scene, client, b"two")
    assert scene.collect(at_least=2) == [("proxy", asked(family), data) for data in (b"one", b"two")]
    assert carried(scene)["udp"] == 1


@families
def test_stray_segment_to_a_listeners_own_address(scene_of, family):
    """No listener is at the rule's port: a segment to the address that another transparent listener is bound to is a miss,
    not its."""
    scene = scene_of(family, TCP)
    scene.open("exact", "tcp", PORT, bind=ASKED[family])
    wait_until(lambda: f" {PORT} " in sets(scene, "listeners") + " ", 5, "the set of listeners")
    scene.segment("A", 40007, 1000, ack=1)
    scene.collect()
    assert scene.answers(40007) == [] and carried(scene)["tcp"] == 0
    assert scene.engine.reason("no_socket") == 1


def sets(scene, stem):
    name = f"{stem}{scene.family}"
    text = scene.lab.router.run("nft", "-n", "list", "set", "inet", "utproxy", name).stdout
    return " ".join(re.findall(r"elements = \{([^}]*)\}", text)).replace(",", " ")


@families
def test_udp_listener_restart(scene_of, family):
    """The listener closes: the flow's next datagram is decided anew, at first for nobody, then for the listener's
    successor."""
    scene = scene_of(family, UDP)
    open_proxy(scene, "first")
    client = scene.ask("udp", b"one")
    scene.collect(at_least=1)
    send(scene, client, b"two")
    assert scene.collect(at_least=2) == [("first", asked(family), data) for data in (b"one", b"two")]
    scene.sockets.pop("first").close()
    send(scene, client, b"lost")
    wait_until(lambda: scene.engine.reason("no_socket") == 1, 5, "the drop")
    scene.open("second", "udp", ON_PORT)
    send(scene, client, b"three")
    assert ("second", asked(family), b"three") in scene.collect(at_least=3)
    assert queued(scene) == 3


@families
def test_udp_better_listener(scene_of, family):
    """A listener bound to the interface's address goes before the wildcard one that the flow was decided for."""
    scene = scene_of(family, UDP)
    open_proxy(scene, "wildcard", options=SHARED)
    client = scene.ask("udp", b"one")
    scene.collect(at_least=1)
    open_proxy(scene, "better", bind=ROUTER[family], options=SHARED)
    send(scene, client, b"two")
    assert scene.collect(at_least=2) == [("better", asked(family), b"two"), ("wildcard", asked(family), b"one")]


@families
def test_ip_transparent_switched_off(scene_of, family):
    """The rule reads the option of the very socket: nothing is carried to one that has lost it."""
    scene = scene_of(family, UDP)
    proxy = open_proxy(scene)
    client = scene.ask("udp", b"one")
    scene.collect(at_least=1)
    proxy.setsockopt(*TRANSPARENT[family], 0)
    send(scene, client, b"two")
    wait_until(lambda: scene.engine.reason("not_transparent") == 1, 5, "the drop")
    assert scene.collect() == [("proxy", asked(family), b"one")]


@families
@protocols
@pytest.mark.parametrize("mark,before,after", [("0x1/0x1", 0x70, 0x71), ("0x105/0xff", 0x1203, 0x1305),
                                               ("0x9/0xffffffff", 0x70, 0x9)])
def test_mark_formula(scene_of, family, protocol, mark, before, after):
    """(mark & ~mask) ^ value of queued and of carried packets alike."""
    scene = scene_of(family, Target(protocol, PORT, on_port=ON_PORT, mark=mark))
    scene.lab.router.run("nft", "-f", "-", text=f"""
        table inet users {{
            chain before {{ type filter hook prerouting priority raw; iifname "lan0" meta mark set {before}; }}
            chain after {{
                type filter hook prerouting priority dstnat; policy accept;
                iifname "lan0" meta l4proto {protocol} th dport {PORT} jump marked
            }}
            chain marked {{ meta mark {after} counter return; counter; }}
        }}""")
    open_proxy(scene) if protocol == "udp" else scene.open("proxy", protocol, ON_PORT)
    client = scene.ask(protocol, b"one")
    scene.collect(at_least=1)
    for _ in range(5):
        client.send(b"x") if protocol == "tcp" else send(scene, client, b"x")
    wait_until(lambda: carried(scene)[protocol] >= 1, 5, "carried packets")
    scene.collect()
    right, wrong = re.findall(r"counter packets (\d+)", scene.lab.router.run("nft", "list", "chain", "inet", "users",
                                                                             "marked").stdout)
    assert int(right) >= 3 and int(wrong) == 0


@families
def test_marked_packets_that_were_misses_are_not_learned(scene_of, family):
    """With --on-miss accept a packet can leave the queue with the mark that it came with, for nobody."""
    scene = scene_of(family, Target("udp", PORT, on_port=ON_PORT, on_miss="accept"))
    scene.lab.router.run("nft", "-f", "-", text="""
        table inet users {
            chain before { type filter hook prerouting priority raw; iifname "lan0" meta mark set 1; }
        }""")
    scene.open("own", "udp", PORT)
    client = scene.ask("udp", b"one")
    send(scene, client, b"two")
    wait_until(lambda: scene.engine.reason("no_socket") == 2, 5, "two misses")
    assert carried(scene)["udp"] == 0 and sets(scene, "flows").strip() == ""


def test_end_leaves_nothing(lab, make_engine):
    engine = make_engine("divert", lab, UDP)
    ruleset = lab.router.run("nft", "list", "ruleset").stdout
    assert "set flows4" in ruleset and "chain learn" in ruleset
    assert engine.stop() == 0
    assert leftovers(lab.router) == []


def test_users_own_rules_made_anew(lab, utproxy):
    """The sets of listeners are filled again within a second, or strays would reach a listener that the decision ignores."""
    words = ["--fast-path", "divert", "--proto", "tcp", "--iif", "lan0", "--dport", PORT, "--on-port", ON_PORT,
             "--tproxy-mark", "0x1/0x1"]
    lab.router.run(utproxy, "ruleset", "install", *words)
    engine = Utproxy(lab, Target("tcp", PORT, on_port=ON_PORT, options=("--fast-path", "divert")), "none", utproxy)
    engine.launch()
    with contextlib.closing(Scene(lab, engine, 4)) as scene:
        scene.open("exact", "tcp", PORT, bind=ASKED[4])
        for again in (["ruleset", "remove"], None):
            wait_until(lambda: f" {PORT} " in sets(scene, "listeners") + " ", 5, "the set of listeners")
            if again:
                lab.router.run(utproxy, *again)
                lab.router.run(utproxy, "ruleset", "install", *words)
            else:
                lab.router.run("nft", "flush", "set", "inet", "utproxy", "listeners4")
        wait_until(lambda: f" {PORT} " in sets(scene, "listeners") + " ", 5, "the set of listeners")
        scene.segment("A", 40007, 1000, ack=1)
        scene.collect()
        assert scene.answers(40007) == [] and scene.engine.reason("no_socket") == 1
        assert engine.stop() == 0
    lab.router.run(utproxy, "ruleset", "remove")
    assert leftovers(lab.router) == []


@protocols
def test_users_own_rules(lab, make_engine, utproxy, protocol):
    """`ruleset install` and a daemon without --install: the same rules, and the daemon keeps their sets. At its end the
    flows are forgotten."""
    target = Target(protocol, PORT, on_port=ON_PORT, options=("--fast-path", "divert"))
    lab.router.run(utproxy, "ruleset", "install", "--fast-path", "divert", "--proto", protocol, "--iif", "lan0", "--dport",
                   PORT, "--on-port", ON_PORT, "--tproxy-mark", "0x1/0x1")
    engine = Utproxy(lab, target, "none", utproxy)
    engine.launch()
    assert "ruleset install" in engine.process.err() and "socket wildcard 1" in engine.process.err()
    with contextlib.closing(Scene(lab, engine, 4)) as scene:
        open_proxy(scene) if protocol == "udp" else scene.open("proxy", protocol, ON_PORT)
        client = scene.ask(protocol, b"one")
        scene.collect(at_least=1)
        client.send(b"two") if protocol == "tcp" else send(scene, client, b"two")
        wait_until(lambda: carried(scene)[protocol] >= 1, 5, "a carried packet")
        if protocol == "udp":
            assert str(PORT) in sets(scene, "flows")
        assert engine.stop() == 0
        assert sets(scene, "flows").strip() == ""
    lab.router.run(utproxy, "ruleset", "remove")
    assert leftovers(lab.router) == []
