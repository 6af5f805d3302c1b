# SPDX-License-Identifier: GPL-3.0-or-later
"""Unbound as the transparent resolver of a LAN: dig accepts an answer only from the address it asked."""
import pathlib
import sys

import pytest

from lab import ASKED, CLIENT, wait_until
from stock import Unbound, dig, errors_found, example, need, sockets

NOBODY = {4: "198.51.100.1", 6: "2001:db8:1::1"}  # no server is there
RECORDS = ["one.example. 60 IN A 192.0.2.1", "one.example. 60 IN AAAA 2001:db8::1"]
SERVER = """
server:
    interface-automatic: yes
    access-control: 0.0.0.0/0 allow
    access-control: ::/0 allow
    local-zone: "example." static
"""
families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def resolver(lab, intercept):
    """Behind it a server at 10.77.2.2 that knows the names."""
    lab.origin = Unbound(lab.server, SERVER, data=RECORDS + [f"n{n}.example. 60 IN A 192.0.2.{n}" for n in range(200)]).start()
    lab.resolver = Unbound(lab.router, forward="10.77.2.2").start()
    lab.utproxy = intercept(lab, example("unbound.toml"))
    return lab


@pytest.mark.parametrize("words", [[], ["+tcp"]], ids=["udp", "tcp"])
@families
def test_it_answers_for_any_server(resolver, family, words):
    for asked in (NOBODY[family], ASKED[family]):
        answer = dig(resolver.client, "-b", CLIENT[family], f"@{asked}", *words, "one.example", "A", "one.example", "AAAA")
        assert [line.split()[-1] for line in answer] == ["192.0.2.1", "2001:db8::1"]
    assert errors_found(resolver, resolver.utproxy) == []
    assert f"info: {CLIENT[family]} one.example. A IN" in resolver.resolver.log("log")
    assert "info: 10.77.2.1 one.example. A IN" in resolver.origin.log("log")
    assert CLIENT[family] not in resolver.origin.log("log")


@families
def test_many_names(resolver, family):
    """200 from as many ports, one process."""
    words = [word for n in range(200) for word in (f"@{NOBODY[family]}", f"n{n}.example", "A")]
    answer = dig(resolver.client, *words)
    assert [line.split()[-1] for line in answer] == [f"192.0.2.{n}" for n in range(200)]


def test_its_own_address_too(resolver):
    """What is for the router itself is answered as ever."""
    assert len(dig(resolver.client, "@10.77.1.1", "one.example", "A")) == 1


def test_restarted(resolver):
    """While it is away, nobody answers in its place; then it does."""
    assert dig(resolver.client, f"@{ASKED[4]}", "one.example", "A")
    resolver.resolver.process.stop()
    assert not dig(resolver.client, f"@{ASKED[4]}", "+time=1", "+tries=1", "n1.example", "A", check=False)
    resolver.resolver.start()
    assert dig(resolver.client, f"@{ASKED[4]}", "n1.example", "A")
    assert f"{CLIENT[4]}" not in resolver.origin.log("log")


BOTH_WAYS = """
install = true
[[target]]
name = "dns"
on_port = 1053
mark = "0x1/0x1"
divert_replies = true
match = { proto = "udp", dport = 53, iif = "lan0" }
"""


def start_forwarder(lab, family, number):
    """For so many datagrams."""
    started = lab.router.start(sys.executable, pathlib.Path(__file__).with_name("forwarder.py"),
                               "0.0.0.0" if family == 4 else "::", 1053, number)
    wait_until(lambda: sockets(lab.router, 1053), 20, "the forwarder to listen")
    return started


@families
def test_from_the_clients_address(lab, intercept, family):
    """UDP, transparent on both sides, by a program of the test's own on another port than the one asked."""
    origin = Unbound(lab.server, SERVER, data=RECORDS).start()
    forwarder = start_forwarder(lab, family, 20)
    intercept(lab, BOTH_WAYS)
    for _ in range(20):
        [line] = dig(lab.client, "-b", CLIENT[family], f"@{ASKED[family]}", "one.example", "A")
        assert line.split()[-1] == "192.0.2.1"
    assert forwarder.popen.wait(20) == 0, forwarder.err()
    assert origin.log("log").count(f"info: {CLIENT[family]} one.example. A IN") == 20


@families
def test_killed_in_the_middle(lab, intercept, family):
    """Of 1,000 questions, one after the other: the one that finds nobody is asked again, and answered when the forwarder is back;
    none goes past it."""
    names = [f"n{n % 200}.example" for n in range(1000)]
    origin = Unbound(lab.server, SERVER, data=[f"n{n}.example. 60 IN A 192.0.2.{n}" for n in range(200)]).start()
    lab.router.sh("""
        nft add table inet watch
        nft 'add chain inet watch forward { type filter hook forward priority filter; }'
        nft add rule inet watch forward iifname lan0 udp dport 53 counter
    """)
    forwarder = start_forwarder(lab, family, 2000)
    utproxy = intercept(lab, BOTH_WAYS)
    questions = [word for name in names for word in (f"@{ASKED[family]}", name, "A")]
    asking = lab.client.start(need("dig"), "+tries=10", "+time=1", "+noall", "+answer", *questions, name="dig")
    wait_until(lambda: origin.log("log").count(" A IN") >= 50, 30, "the first answers")
    forwarder.stop(9)
    wait_until(lambda: utproxy.stats()["targets"]["dns"]["reasons"]["no_socket"], 20, "a question for nobody")
    assert asking.alive()
    start_forwarder(lab, family, 2000)
    assert asking.popen.wait(60) == 0, asking.err()
    answers = [line.split() for line in asking.out().splitlines() if line and not line.startswith(";")]
    assert [words[0].removesuffix(".") for words in answers] == names
    assert [words[-1] for words in answers] == [f"192.0.2.{n % 200}" for n in range(1000)]
    assert "packets 0 " in lab.router.run("nft", "list", "table", "inet", "watch").stdout
