# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway's own traffic, through proxies on the gateway whose own traffic is left alone, by user, cgroup and mark."""
import os
import pathlib

import pytest

from lab import ASKED, endpoint, wait_until
from stock import HaProxy, Nginx, Squid, Unbound, curl, dig, example
from test_dns import RECORDS, SERVER

OWN = {4: "10.77.2.1", 6: "fd77:2::1"}  # the router's address towards the server
HAPROXY_CGROUP = "system.slice/haproxy.service"
WORDS = ["unbound", "haproxy", "squid"]
each_proxy = pytest.mark.parametrize("kind", WORDS)


class Cgroup:
    """One of its own below the root of the cgroup v2 tree, made and removed by the test."""

    def __init__(self):
        mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        roots = [words[1] for words in mounts if words[2] == "cgroup2"]
        if not roots:
            pytest.skip("no cgroup v2 is mounted")
        self.name = f"utp-{os.getpid()}"
        self.path = pathlib.Path(roots[0]) / self.name

    def make(self):
        try:
            self.path.mkdir()
        except OSError as error:
            pytest.skip(f"no cgroup can be made here: {error}")
        return self

    def prefix(self):
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"]

    def remove(self):
        if self.path.exists():
            wait_until(lambda: not (self.path / "cgroup.procs").read_text(), 10, "the cgroup to be empty")
            self.path.rmdir()


@pytest.fixture
def cgroup():
    made = Cgroup()
    yield made
    made.remove()


class Gateway:
    """The lab's router with one of the proxies, and what the server saw of it."""

    def __init__(self, kind, lab, intercept, cgroup):
        self.kind, self.lab, self.intercept, self.cgroup = kind, lab, intercept, cgroup
        self.web = Nginx(lab.server, (80, 8080)).start()
        self.names = Unbound(lab.server, SERVER, data=RECORDS).start()
        self.config = example("own-traffic.toml").replace(HAPROXY_CGROUP, cgroup.name)
        self.proxy = self.utproxy = None

    def start_proxy(self):
        if self.proxy is not None:
            self.proxy.start()
        elif self.kind == "unbound":
            self.proxy = Unbound(self.lab.router, forward="10.77.2.2").start()
        elif self.kind == "squid":
            text = example("squid.conf") + "tcp_outgoing_mark 0x200\n"
            self.proxy = Squid(self.lab.router, text).start()
        else:
            self.proxy = HaProxy(self.lab.router, prefix=self.cgroup.prefix()).start()

    def start_utproxy(self):
        self.utproxy = self.intercept(self.lab, self.config)

    def ask(self, space, family=4):
        """Once; whether it was answered, and by way of the proxy."""
        if self.kind == "unbound":
            asked = {4: "198.51.100.1", 6: "2001:db8:1::1"}[family]  # where no server is
            return len(dig(space, f"@{asked}", "one.example", "A", check=False)) == 1
        port = 80 if self.kind == "squid" else 8080
        return curl(space, "-g", f"http://{endpoint(ASKED[family], port)}/hello", check=False).stdout == "hello\n"

    def seen(self):
        """How many requests came to the server."""
        if self.kind == "unbound":
            return self.names.log("log").count(" one.example. A IN")
        return len(self.web.seen())

    def new_flows(self):
        """How many first packets were led to the proxy."""
        target = "dns" if self.kind == "unbound" else self.kind
        return self.utproxy.stats()["targets"][target]["reasons"]["listener"]


@pytest.fixture
def gateway(cgroup, lab, intercept):
    return lambda kind: Gateway(kind, lab, intercept, cgroup.make())


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("first", ["proxy", "utproxy"])
@each_proxy
def test_no_loop_whatever_starts_first(gateway, kind, first, family):
    made = gateway(kind)
    for step in ([made.start_proxy, made.start_utproxy] if first == "proxy" else [made.start_utproxy, made.start_proxy]):
        step()
    asked = 10
    for _ in range(asked):
        assert made.ask(made.lab.router, family)
    assert made.new_flows() == asked
    assert made.ask(made.lab.client, family)
    assert made.new_flows() == asked + 1
    if kind == "unbound":
        assert 1 <= made.seen() <= 2  # it remembers the answer, for each view of its own
    else:
        seen = [words[0] for words in made.web.seen()]
        assert seen[:asked] == [OWN[family]] * asked and len(seen) == asked + 1
        assert seen[asked].startswith("10.77.1." if family == 4 else "fd77:1:")


@each_proxy
def test_either_restarted(gateway, kind):
    """Each three times, and asked after each. What is asked while the proxy is away is not answered, and does no harm."""
    made = gateway(kind)
    made.start_utproxy()
    made.start_proxy()
    for _ in range(3):
        made.proxy.process.stop(9)
        made.start_proxy()
        before = made.new_flows()
        assert made.ask(made.lab.router)
        assert made.new_flows() == before + 1
        assert made.utproxy.stop() == 0
        made.start_utproxy()
        assert made.ask(made.lab.router)
        assert made.new_flows() == 1


def test_a_service_manager_makes_the_cgroup_anew(gateway):
    """With each start, as systemd does: a rule that goes by the id of the one before would hand HAProxy its own packets. Also
    where there is none yet when utproxy starts."""
    made = gateway("haproxy")
    made.cgroup.remove()
    made.start_utproxy()
    assert made.utproxy.said(f"excluded cgroup {made.cgroup.name}: there is none now") == 1
    for asked in range(1, 5):
        made.cgroup.make()
        made.start_proxy()
        assert made.ask(made.lab.router)
        assert made.new_flows() == asked
        made.proxy.process.stop(9)
        made.cgroup.remove()
