# SPDX-License-Identifier: GPL-3.0-or-later
"""What others take away of what --install made is put back within a second, and told."""
import json
import os

import pytest

from engine import Target, leftovers
from failing import Flow
from lab import wait_until

PORT, ON_PORT = 8080, 12345
WORD = "what --install had made was gone in part"
FLUSHES = ["nft flush ruleset", "nft flush table inet utproxy", "nft delete table inet utproxy"]


def proxied_again(flow, since):
    wait_until(lambda: len(flow.proxied) > since + 100, 10, "packets at the proxy again")


@pytest.mark.parametrize("kind", ["install", "divert"])
@pytest.mark.parametrize("family,taken", [(4, "ip rule del priority 117"), (4, "ip route flush table 100"),
                                          (6, "ip -6 rule del priority 117"), (6, "ip -6 route flush table 100")])
def test_routing(make_lab, make_engine, kind, family, taken):
    router = make_lab(server=True)
    engine = make_engine(kind, router, Target("udp", PORT, on_port=ON_PORT))
    with Flow(router, PORT, ON_PORT, family=family) as flow:
        wait_until(lambda: len(flow.proxied) > 50, 10, "packets")
        router.router.run(*taken.split())
        wait_until(lambda: WORD in engine.process.err(), 10, "a word about it")
        proxied_again(flow, len(flow.proxied))
    assert f"{taken.split(' ')[0]} " in engine.process.err().split(WORD)[1]
    assert engine.process.err().count(WORD) == 1
    assert engine.stop() == 0
    assert leftovers(router.router) == []


@pytest.mark.parametrize("kind", ["install", "divert"])
@pytest.mark.parametrize("taken", FLUSHES)
def test_table_that_fails_closed(make_lab, make_engine, kind, taken):
    router = make_lab(server=True)
    engine = make_engine(kind, router, Target("udp", PORT, on_port=ON_PORT, options=("--fail", "closed")))
    with Flow(router, PORT, ON_PORT) as flow:
        wait_until(lambda: len(flow.proxied) > 500, 10, "packets")  # the rules have been counted
        router.router.run(*taken.split())
        wait_until(lambda: WORD in engine.process.err(), 10, "a word about it")
        proxied_again(flow, len(flow.proxied))
        leaked = len(flow.leaked)
        proxied_again(flow, len(flow.proxied))
        assert len(flow.leaked) == leaked  # and no more go past it
    assert engine.stop() == 0
    assert leftovers(router.router) == []


def test_who_takes_it_away_again_and_again_is_told_of_once_a_minute(make_lab, make_engine):
    router = make_lab(server=True)
    engine = make_engine("install", router, Target("udp", PORT, on_port=ON_PORT))
    for _ in range(3):
        router.router.run("ip", "rule", "del", "priority", "117")
        wait_until(lambda: "117:" in router.router.run("ip", "rule").stdout, 10, "the rule")
    assert engine.process.err().count(WORD) == 1
    assert engine.stop() == 0


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_doctors_fix_where_nobody_listens_lets_traffic_go(make_lab, make_engine, fail):
    """It has to end the daemon, which would put its rules back."""
    router = make_lab(server=True)
    engine = make_engine("install", router, Target("udp", PORT, on_port=ON_PORT, options=("--fail", fail)))
    found = json.loads(router.router.run(engine.binary, "doctor", "-j", check=False).stdout)
    fixes = {each["fix"] for each in found["findings"] if each["id"] == "no_listener"}
    assert len(fixes) == 1, found
    router.router.sh(f"PATH={os.path.dirname(engine.binary)}:$PATH; {fixes.pop()}")
    assert not engine.process.alive() and leftovers(router.router) == []


def test_an_end_right_after_a_flush_is_clean(make_lab, make_engine):
    router = make_lab(server=True)
    engine = make_engine("install", router, Target("udp", PORT, on_port=ON_PORT, options=("--fail", "closed")))
    router.router.run("nft", "flush", "ruleset")
    assert engine.stop() == 0
    assert leftovers(router.router) == []


def test_what_goes_at_once_after_the_start_is_put_back_too(make_lab, make_engine):
    """What stands is compared with what was made, and not with what a first look finds."""
    router = make_lab(server=True)
    engine = make_engine("install", router, Target("udp", PORT, on_port=ON_PORT, options=("--fail", "closed")))
    rules = router.router.run("nft", "list", "chain", "inet", "utproxy", "prerouting").stdout
    router.router.run("nft", "flush", "chain", "inet", "utproxy", "prerouting")
    wait_until(lambda: router.router.run("nft", "list", "chain", "inet", "utproxy", "prerouting").stdout == rules, 10, "the rules")
    assert engine.stop() == 0


def test_another_route_in_its_place_is_told_of(make_lab, make_engine):
    router = make_lab(server=True)
    engine = make_engine("install", router, Target("udp", PORT, on_port=ON_PORT))
    router.router.sh("ip route del local default table 100; ip route add unreachable default table 100")
    wait_until(lambda: "can't be put back" in engine.process.err(), 10, "a word about it")
    assert "another default route" in engine.process.err()
    router.router.run("ip", "route", "del", "unreachable", "default", "table", "100")
    wait_until(lambda: WORD in engine.process.err(), 10, "a word about it")
    assert "local default dev lo" in router.router.run("ip", "route", "show", "table", "100").stdout
    assert engine.stop() == 0
    assert leftovers(router.router) == []


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_a_running_daemons_rules_are_nobody_elses(make_lab, make_engine, utproxy, tmp_path, fail):
    """Neither another daemon's, which would redirect other packets, nor `ruleset remove`'s, whether the kernel knows of the
    table's owner or, as the table is to stay, of none."""
    router = make_lab(server=True)
    engine = make_engine("install", router, Target("udp", PORT, on_port=ON_PORT, options=("--fail", fail)))
    before = leftovers(router.router)
    for words in (["run", "--install", "--proto", "udp", "--dport", "54", "--on-port", "1091", "--tproxy-mark", "2/2",
                   "--queue-num", "77", "--control", tmp_path / "control"], ["ruleset", "remove"]):
        refused = router.router.run(utproxy, *words, check=False)
        assert refused.returncode == 1 and "a running utproxy holds it" in refused.stderr, refused
    assert leftovers(router.router) == before
    assert engine.stop() == 0
    assert leftovers(router.router) == []
