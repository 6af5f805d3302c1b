# SPDX-License-Identifier: GPL-3.0-or-later
"""Each guide of utproxy-guides(7) is typed as it is printed, block by block, and what it promises is looked at: what clients
get, whom the server sees, what doctor says. The text is read from the page's source; no command stands here."""
import json
import os
import re

import pytest

from lab import wait_until
from place import CLIENTS, SHARED
from printed import guides
from stock import EXAMPLES, need

GUIDES = guides()
CLIENT, ROUTER, WORLD = "192.168.1.7", "198.51.100.2", "203.0.113.80"


class Session:
    """What was typed: the results of blocks in their order, and the terminals by their line."""

    def __init__(self, place, blocks):
        self.place, self.blocks, self.done, self.terminals = place, blocks, [], {}

    def play(self, between=None):
        """`between(session)` is called in front of each block."""
        for block in self.blocks:
            if between:
                between(self)
            if block.where == "printed":
                assert self.done[-1].stdout == block.text
            elif block.status is None:
                for line in block.lines():
                    self.terminals[line] = self.place.space(block.where).terminal(line)
            else:
                done = self.place.space(block.where).type(block.text)
                assert done.returncode == block.status, f"{block.text}{done.stdout}{done.stderr}"
                self.done.append(done)
        return self

    def said(self):
        """By the commands that end."""
        return "".join(done.stdout for done in self.done)

    def terminal(self, word):
        return next(process for line, process in self.terminals.items() if word in line)

    def stats(self):
        return json.loads(self.place.router.type("utproxy stats -j").stdout)

    def new_flows(self):
        return sum(target["reasons"]["listener"] for target in self.stats()["targets"].values())

    def curl(self, *words):
        return self.place.client.run(need("curl"), "-sS", "-m", "5", "http://example.org/", *words, check=False)


def needs(*programs):
    for program in programs:
        need(program)


def dns(place, session):
    assert place.client.run("dig", "+short", "+tries=1", "+time=1", "@192.0.2.1", "example.org", "AAAA").stdout == "2001:db8:99::80\n"
    assert session.new_flows() >= 3
    assert len(re.findall(r"accept +listener", session.said())) >= 2


def haproxy(place, session):
    assert [words[0] for words in place.web.seen()] == [CLIENT]
    assert "hello" in session.said() and session.new_flows() >= 1
    assert re.search(rf"accept +listener +tcp S +{CLIENT}:\d+ +> {WORLD}:80", session.done[-1].stdout)


def squid(place, session):
    assert [words[0] for words in place.web.seen()] == [CLIENT]
    assert "ORIGINAL_DST" in session.done[-1].stdout and session.new_flows() >= 1


def own_traffic(place, session):
    assert session.done[1].stdout.startswith("203.0.113.80\n")
    assert session.new_flows() == 1
    question = session.blocks[-1].lines()[0]
    assert place.client.type(question).stdout == "203.0.113.80\n"
    assert session.new_flows() == 2
    session.terminal("unbound -d").stop()
    assert place.router.type(f"{question} +tries=1 +time=1").returncode != 0, "nobody answers in its place"


def containers(place, session):
    switches = dict(line.split(" = ") for line in session.done[0].stdout.splitlines())
    assert set(switches.values()) <= {place.calls_iptables} and len(switches) in (0, 2)
    assert [(words[0], words[-1]) for words in place.web.seen()] == [(ROUTER, "10.88.0.2")]
    assert "accept" in session.done[-1].stdout


def debugging(place, session):
    broken = session.done[1].stdout
    assert "no_fwmark_rule" in broken and session.done[2].stdout
    [fix] = re.findall(r"fix: (ip rule .*)", broken)
    mended = next(block.text for block in session.blocks if block.text.startswith("ip rule"))
    assert fix == mended.splitlines()[0], "the guide's remedy is the one that doctor prints"
    assert place.web.seen()[-1][-1] == CLIENT
    trace = session.terminal("trace")
    wait_until(lambda: re.search(rf"accept +(listener|established) +tcp S +{CLIENT}:\d+ +> {WORLD}:80", trace.out()), 10, trace.out)
    assert "NFLOG" not in place.router.type("iptables-save -t mangle").stdout


def download(session):
    """A client's that began with the kernel's TPROXY and goes on, under the exchange of the rule, to the end of the guide."""
    if session.terminals and not hasattr(session, "download"):
        (session.place.web.root / "big").write_bytes(bytes(2_000_000))
        line = f"{need('curl')} -sS -m 60 -o {session.place.directory}/big http://example.org/slow/big -w done"
        session.download = session.place.client.start("sh", "-c", line)
        wait_until(lambda: session.place.web.process.alive() and connections(session), 10, "the download to begin")


def connections(session):
    return session.place.internet.run("ss", "-Htn", "state", "established", "sport = :80").stdout


def migration(place, session):
    assert session.download.alive(), "the download is still there when the guide is through"
    rules = place.router.type("iptables-save -t mangle").stdout
    assert "-j TPROXY" in rules and "NFQUEUE" not in rules
    assert session.new_flows() == 1, "the client's connection was utproxy's"
    assert session.terminal("utproxy run").stop(2) == 0
    assert session.curl().stdout == "hello\n"
    assert (session.download.popen.wait(60), session.download.out()) == (0, "done")
    assert [words[-1] for words in place.web.seen()] == [CLIENT] * 3


def spread(place, session):
    """All clients get their answers by way of one port each; where that one's proxy ends they go to another, and nobody else."""

    def packets():
        [target] = session.stats()["targets"].values()
        return {each["port"]: each["packets"] for each in target["on_ports"]}

    def port_of(address):
        before = packets()
        assert session.curl("--interface", address).stdout == "hello\n"
        assert place.web.seen()[-1][0] == address
        [port] = [port for port, number in packets().items() if number > before[port]]
        return port

    ports = {address: port_of(address) for address in CLIENTS}
    assert len(set(ports.values())) > 1 and set(ports.values()) <= {1090, 1091, 1092}
    gone = ports[CLIENT]
    session.terminal(f"lan-{gone}").stop()
    for address, port in ports.items():
        assert (port_of(address) == port) == (port != gone)


def sizing(place, session):
    assert len(re.findall(r"^ +[0-3] +\d+ +0 2 ", session.said(), re.MULTILINE)) == 4, session.said()
    descriptors = f"/proc/{session.terminal('utproxy run').pid}/fd"
    assert len(os.listdir(descriptors)) < 100


# What a guide promises, and what it needs.
OUTCOMES = {
    "A ROUTER WITH DNS INTERCEPTION": (dns, ["unbound", "dig"]),
    "HAPROXY IN FRONT OF A LAN": (haproxy, ["haproxy", "curl"]),
    "SQUID IN FRONT OF A LAN": (squid, ["squid", "curl"]),
    "THE GATEWAY'S OWN TRAFFIC": (own_traffic, ["unbound", "dig"]),
    "CONTAINERS BEHIND A BRIDGE": (containers, ["haproxy", "curl"]),
    "DEBUGGING A KERNEL TPROXY": (debugging, ["haproxy", "curl"]),
    "FROM TPROXY RULES TO UTPROXY AND BACK": (migration, ["haproxy", "curl"]),
    "SEVERAL PROXIES FOR ONE TARGET": (spread, ["haproxy", "curl"]),
    "SIZING": (sizing, []),
}


def test_every_guide_is_tried():
    assert list(GUIDES) == list(OUTCOMES)


def test_files_that_guides_name_are_there():
    """And are installed where the page says they are."""
    named = {name for blocks in GUIDES.values() for block in blocks
             for name in block.text.split() if re.fullmatch(r"[\w-]+\.(toml|conf|cfg)", name)}
    assert named >= {"unbound.conf", "haproxy.toml", "squid.conf"}
    assert named <= {path.name for path in EXAMPLES.iterdir()}
    assert SHARED.endswith("share/doc/utproxy/examples")


BRIDGE = "CONTAINERS BEHIND A BRIDGE"  # typed twice: with a bridge that calls iptables, and one that does not


@pytest.mark.parametrize("title,calls_iptables", [*((title, None) for title in GUIDES if title != BRIDGE), (BRIDGE, "0"), (BRIDGE, "1")])
def test_guide(place, title, calls_iptables):
    outcome, programs = OUTCOMES[title]
    needs(*programs)
    if title == BRIDGE:
        place.add_bridge(int(calls_iptables))
        place.calls_iptables = calls_iptables
    session = Session(place, GUIDES[title]).play(download if outcome is migration else None)
    outcome(place, session)
    ended = place.interrupt()
    assert {status for line, status in ended.items() if line.startswith("utproxy run")} <= {0}, ended
