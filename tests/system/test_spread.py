# SPDX-License-Identifier: GPL-3.0-or-later
"""One target, several on-ports: shares, what moves when a listener goes and comes back, backups; with real packets."""
import json
import time

import pytest

from configured import Configured
from engine import Target
from lab import ASKED, endpoint, wait_until
from spread import Clients, Listeners, client_address, explain, make_clients, on_ports, shares, wait_for_listeners

ASKED_PORT = 8080
PORTS = [1090, 1091, 1092]
LIST = "1090,1091,1092"


class SpreadTarget(Target):
    """Its on_port is the list."""


def target(protocol, *options, ports=LIST):
    return SpreadTarget(protocol, ASKED_PORT, on_port=ports, queues=2, options=options)


def ipv(family):
    return f"ipv{family}"


def assert_equal_shares(where, ports):
    """Each within 10 % of what it would have if all had the same; of few, as far as chance goes."""
    count = shares(where)
    assert set(count) == set(ports)
    equal = len(where) / len(ports)
    assert all(abs(c - equal) <= max(equal / 10, 5 * equal ** 0.5) for c in count.values()), count


@pytest.mark.parametrize("kind,family,clients", [("install", 4, 30000), ("install", 6, 30000), ("rules", 4, 3000),
                                                 ("divert", 4, 3000)])
def test_datagrams_of_many_clients(lab, make_engine, kind, family, clients):
    make_clients(lab)
    listeners = Listeners(lab, "udp", family).open(*PORTS)
    daemon = make_engine(kind, lab, target("udp"))
    wait_for_listeners(daemon, PORTS, f"udp/{ipv(family)}")
    many = Clients(lab, family, clients, ASKED_PORT)
    before = many.send(listeners)
    assert_equal_shares(before, PORTS)
    if kind == "install":
        # Not those that the fast path carries, and another listener has an entry's packets counted.
        assert {port: each["packets"] for port, each in on_ports(daemon).items()} == shares(before)

    listeners.close(1091)
    # So many a second are decided by the mirror, and the fast path's flows are forgotten a moment after that has heard of it.
    wait_for_listeners(daemon, [1090, 1092], f"udp/{ipv(family)}")
    if kind == "divert":
        some = [a for a, port in before.items() if port == 1091][:1]
        wait_until(lambda: many.sent_to(listeners, some[0]), 5, "the fast path to forget its flows")
    after = many.send(listeners)
    assert {a: port for a, port in after.items() if before[a] != 1091} == {a: p for a, p in before.items() if p != 1091}
    assert_equal_shares({a: port for a, port in after.items() if before[a] == 1091}, [1090, 1092])

    listeners.open(1091)
    wait_for_listeners(daemon, PORTS, f"udp/{ipv(family)}")
    if kind == "divert":
        some = [a for a, port in before.items() if port == 1091][:1]
        wait_until(lambda: many.sent_to(listeners, some[0]) == 1091, 5, "the fast path to forget its flows")
    assert many.send(listeners) == before, "a third moves back, each to where it was"


@pytest.mark.parametrize("family", [4, 6])
def test_no_packet_is_lost_to_a_listener_that_has_just_gone(lab, make_engine, family):
    """Nobody waits for the daemon to hear of it."""
    make_clients(lab)
    listeners = Listeners(lab, "udp", family).open(*PORTS)
    daemon = make_engine("install", lab, target("udp", "--spread", "flow"))
    wait_for_listeners(daemon, PORTS, f"udp/{ipv(family)}")
    for port in PORTS:
        flows = Clients(lab, family, 40, ASKED_PORT, 5000 + port)
        before = flows.send(listeners)
        assert set(before.values()) == set(PORTS)
        listeners.close(port)
        after = flows.send(listeners)
        assert {a: p for a, p in after.items() if before[a] != port} == {a: p for a, p in before.items() if p != port}
        assert port not in after.values()
        # Else the one that has gone would be taken for the new one here, and be missed later.
        wait_for_listeners(daemon, [other for other in PORTS if other != port], f"udp/{ipv(family)}")
        listeners.open(port)
        wait_for_listeners(daemon, PORTS, f"udp/{ipv(family)}")


@pytest.mark.parametrize("family", [4, 6])
def test_connections(lab, make_engine, family):
    make_clients(lab)
    listeners = Listeners(lab, "tcp", family).open(*PORTS)
    daemon = make_engine("install", lab, target("tcp"))
    wait_for_listeners(daemon, PORTS, f"tcp/{ipv(family)}")
    many = Clients(lab, family, 600, ASKED_PORT)
    first = many.connect(listeners)
    before = {address: port for address, (port, _, _) in first.items()}
    assert_equal_shares(before, PORTS)
    listeners.close(1092)
    second = many.connect(listeners)
    moved = {address for address, (port, _, _) in second.items() if port != before[address]}
    assert moved == {address for address, port in before.items() if port == 1092}
    listeners.open(1092)
    wait_for_listeners(daemon, PORTS, f"tcp/{ipv(family)}")
    third = many.connect(listeners)
    assert {address: port for address, (port, _, _) in third.items()} == before
    # Whatever came and went, what stands stays where it is.
    for connections in (first, second, third):
        for _, client, proxy in connections.values():
            client.send(b"ask")
            proxy.setblocking(True)
            assert proxy.recv(8) == b"ask"
            proxy.send(b"answer")
            client.setblocking(True)
            assert client.recv(8) == b"answer"
            client.close()
            proxy.close()


def test_a_flow_each(lab, make_engine):
    """30,000 flows of one client."""
    make_clients(lab)
    listeners = Listeners(lab, "udp", 4).open(*PORTS)
    daemon = make_engine("install", lab, target("udp", "--spread", "flow"))
    wait_for_listeners(daemon, PORTS, "udp/ipv4")
    where = {}
    for sport in range(2000, 32000, 1000):
        for each in range(sport, sport + 1000):
            where[each] = Clients(lab, 4, 1, ASKED_PORT, each).send(listeners)[client_address(4, 1)]
    assert_equal_shares(where, PORTS)


def test_of_one_client_everything_goes_to_one_port_tcp_and_udp(lab, make_engine):
    make_clients(lab)
    udp, tcp = Listeners(lab, "udp", 4).open(*PORTS), Listeners(lab, "tcp", 4).open(*PORTS)
    daemon = make_engine("install", lab, target("udp", "--proto", "tcp"))
    wait_for_listeners(daemon, PORTS, "udp/ipv4")
    wait_for_listeners(daemon, PORTS, "tcp/ipv4")
    by_udp = Clients(lab, 4, 60, ASKED_PORT).send(udp)
    by_tcp = {address: port for address, (port, _, _) in Clients(lab, 4, 60, ASKED_PORT).connect(tcp).items()}
    assert by_udp == by_tcp
    # One protocol's listener is not the other's.
    tcp.close(1090)
    again = Clients(lab, 4, 60, ASKED_PORT)
    assert again.send(udp) == by_udp
    assert 1090 not in {port for port, _, _ in again.connect(tcp).values()}


def test_a_listener_that_is_not_transparent_takes_nobody_and_one_of_one_family_its_own(lab, make_engine):
    make_clients(lab)
    v4, v6 = Listeners(lab, "udp", 4).open(1090), Listeners(lab, "udp", 6)
    opaque = Listeners(lab, "udp", 4, transparent=False).open(1091)
    daemon = make_engine("install", lab, target("udp"))
    wait_for_listeners(daemon, [1090], "udp/ipv4")
    assert set(Clients(lab, 4, 30, ASKED_PORT).send(v4).values()) == {1090}
    v4.close()
    v6.open(1092)  # dual stack
    wait_for_listeners(daemon, [1092], "udp/ipv6")
    assert set(Clients(lab, 6, 30, ASKED_PORT).send(v6).values()) == {1092}
    opaque.close()


def test_backups(lab, make_engine):
    make_clients(lab)
    listeners = Listeners(lab, "udp", 4).open(1090, 2000)
    daemon = make_engine("install", lab, target("udp", "--backup-port", "2000", ports="1090"))
    wait_for_listeners(daemon, [1090, 2000], "udp/ipv4")
    many = Clients(lab, 4, 300, ASKED_PORT)
    assert shares(many.send(listeners)) == {1090: 300}
    listeners.close(1090)
    assert shares(many.send(listeners)) == {2000: 300}
    listeners.open(1090)
    wait_for_listeners(daemon, [1090, 2000], "udp/ipv4")
    assert shares(many.send(listeners)) == {1090: 300}


def test_a_port_that_goes_is_said_by_log_stats_explain_and_doctor(lab, make_engine, utproxy):
    make_clients(lab)
    listeners = Listeners(lab, "udp", 4).open(*PORTS)
    daemon = make_engine("install", lab, target("udp"))
    wait_for_listeners(daemon, PORTS, "udp/ipv4")
    address = client_address(4, 9)
    words = ["udp", f"{address}:4000", endpoint(ASKED[4], ASKED_PORT), "--iif", "lan0"]
    told = explain(lab, utproxy, *words, "--on-port", LIST, "--tproxy-mark", "0x1/0x1")
    led_to = Clients(lab, 4, 1, ASKED_PORT).send(listeners, [address])[address]
    assert told["lport"] == led_to and told["reason"] == "listener"
    ports = [step for step in told["steps"] if step["step"] == "laddr"][0]["ports"]
    assert [p["chosen"] for p in ports] == [True, False, False] and {p["state"] for p in ports} == {"takes"}
    heir = ports[1]["port"]

    before = time.monotonic()
    listeners.close(led_to)
    wait_until(lambda: f"port {led_to}: no transparent listener" in daemon.process.err(), 10, "a line in the log")
    print(f"said after {time.monotonic() - before:.2f} s")
    assert on_ports(daemon)[led_to]["listens"] == []
    for live in ([], ["--live", "--control", daemon.control]):
        target_words = [] if live else ["--on-port", LIST, "--tproxy-mark", "0x1/0x1"]
        told = explain(lab, utproxy, *words, *target_words, *live)
        ports = [step for step in told["steps"] if step["step"] == "laddr"][0]["ports"]
        assert [(p["port"], p["state"], p["chosen"]) for p in ports[:2]] == [(led_to, "nobody", False), (heir, "takes", True)]
        assert told["lport"] == heir
    assert Clients(lab, 4, 1, ASKED_PORT).send(listeners, [address]) == {address: heir}
    last = lab.router.run(utproxy, "trace", "--last", "1", "-j", "--control", daemon.control).stdout.splitlines()[0]
    traced = json.loads(last)
    assert traced["lport"] == heir and f"chosen among {LIST}" in json.dumps(traced["steps"])

    done = lab.router.run(utproxy, "doctor", "-j", "--control", daemon.control, "--on-port", LIST, "--queue-balance", "0:1",
                          "--tproxy-mark", "0x1/0x1", "--proto", "udp", "--dport", ASKED_PORT, check=False)
    findings = [f for f in json.loads(done.stdout)["findings"] if f["id"] == "no_listener" and "IPv4" in f["where"]]
    assert [f["severity"] for f in findings] == ["warning"]
    assert f"udp port {led_to}" in findings[0]["where"]
    assert "--on-port " + ",".join(str(p) for p in PORTS if p != led_to) in findings[0]["fix"]

    listeners.open(led_to)
    wait_until(lambda: f"port {led_to}: transparent listeners for udp/ipv4" in daemon.process.err(), 10, "a line in the log")


def configuration(ports, more=""):
    return f"""
[[target]]
name = "dns"
install = true
queues = 0
on_port = {ports}
{more}
mark = "0x1/0x1"
match = {{ proto = "udp", dport = {ASKED_PORT}, iif = "lan0" }}
"""


def test_ports_change_with_a_reload(lab, utproxy):
    make_clients(lab)
    listeners = Listeners(lab, "udp", 4).open(*PORTS, 1093)
    daemon = Configured(lab, utproxy, configuration(PORTS))
    try:
        wait_for_listeners(daemon, PORTS, "udp/ipv4", "dns")
        many = Clients(lab, 4, 2000, ASKED_PORT)
        before = many.send(listeners)
        assert set(before.values()) == set(PORTS)
        daemon.reload(configuration([1093, 1092, 1091, 1090], 'spread = "client"'))
        after = many.send(listeners)
        moved = {address for address in before if after[address] != before[address]}
        assert moved == {address for address, port in after.items() if port == 1093}
        assert 400 < len(moved) < 600
        daemon.reload(configuration(1091))
        assert set(many.send(listeners).values()) == {1091}
        assert "on_ports" not in daemon.stats()["targets"]["dns"]
        said = daemon.refuse(configuration("[1090, 1090]"))
        assert "on_port 1090: port 1090 is named already" in said
        said = daemon.refuse(configuration("[1090, 1091]", "backup_port = [70000]"))
        assert "backup_port 70000" in said
    finally:
        assert daemon.stop() == 0
