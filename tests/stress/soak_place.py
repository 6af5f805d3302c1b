# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the soak takes place: client and router with two links, the daemon with its configuration, counters that are not the
daemon's own, and a memory cgroup for it to be short of memory in.

    flood   UDP 53 at lan0, two queues: as fast as goes
    web     TCP 80 at lan0, with the fast path
    ports   TCP and UDP 1000-9000 at lan0; every other configuration gives the upper half to another target, `upper`
    flap    UDP 53 at lan1, a link that goes down and comes up, from random sources
"""
import contextlib
import json
import os
import pathlib
import time

from configured import Configured
from lab import ASKED, ROUTER, SOURCES, Lab, source, wait_until

FLOOD_PORT, WEB_PORT, FIRST_PORT, HALF_PORT, LAST_PORT = 53, 80, 1000, 5000, 9000
ON_PORT = {"flood": 12001, "web": 12002, "ports": 12003, "flap": 12004}
QUEUES = {0: "flood", 1: "flood", 2: "web", 3: "ports", 4: "flap", 5: "ports"}
MATCHES = {
    "flood": f'iifname "lan0" udp dport {FLOOD_PORT}',
    "web": f'iifname "lan0" tcp dport {WEB_PORT}',
    "ports": f'iifname "lan0" meta l4proto {{ tcp, udp }} th dport {FIRST_PORT}-{LAST_PORT}',
    "flap": f'iifname "lan1" udp dport {FLOOD_PORT}',
}
HOOKS = {"came": ("prerouting", "raw"), "in": ("input", "filter"), "leaked": ("forward", "filter")}
ROOM = 192 << 20  # bytes that the cgroup may have more than it had when the daemon was ready


def target(name, queues, on_port, proto, dport, iif="lan0", more=""):
    return f"""
[[target]]
name = "{name}"
install = true
queues = "{queues}"
on_port = {on_port}
mark = "0x1/0x1"
{more}
match = {{ proto = {json.dumps(proto)}, dport = {json.dumps(dport)}, iif = "{iif}" }}
"""


def configuration(halved):
    """With `halved`, the upper half of the ports is another target's, of a queue that the other configuration has not."""
    last = HALF_PORT if halved else LAST_PORT
    text = target("flood", "0:1", ON_PORT["flood"], "udp", FLOOD_PORT)
    text += target("web", 2, ON_PORT["web"], "tcp", WEB_PORT, more='fast_path = "divert"')
    text += target("ports", 3, ON_PORT["ports"], ["tcp", "udp"], f"{FIRST_PORT}-{last}")
    text += target("flap", 4, ON_PORT["flap"], "udp", FLOOD_PORT, iif="lan1")
    if halved:
        text += target("upper", 5, ON_PORT["ports"], ["tcp", "udp"], f"{HALF_PORT + 1}-{LAST_PORT}")
    return text


def tally():
    """The witness's rules: who came in, who was delivered here, who passed through."""
    text = "table inet tally {\n"
    for hook in HOOKS:
        text += "".join(f"counter {name}_{hook} {{ }}\n" for name in MATCHES)
    for hook, (where, priority) in HOOKS.items():
        rules = "\n".join(f"{match} counter name {name}_{hook}" for name, match in MATCHES.items())
        text += f"chain {hook} {{ type filter hook {where} priority {priority}; policy accept;\n{rules}\n}}\n"
    return text + "}"


class Cgroup:
    """A memory cgroup of the daemon and of who presses it. `path` is None where none can be made."""

    def __init__(self, name):
        self.path, self._v1 = None, True
        for top, v1 in (("/sys/fs/cgroup/memory", True), ("/sys/fs/cgroup", False)):
            limit = "memory.limit_in_bytes" if v1 else "memory.max"
            path = pathlib.Path(top) / name
            with contextlib.suppress(OSError):
                path.mkdir()
                if (path / limit).exists():
                    self.path, self._v1 = path, v1
                    return
                path.rmdir()

    def enter(self, pid):
        if self.path:
            (self.path / "cgroup.procs").write_text(str(pid))

    def usage(self):
        return int((self.path / ("memory.usage_in_bytes" if self._v1 else "memory.current")).read_text())

    def limit(self, size):
        (self.path / ("memory.limit_in_bytes" if self._v1 else "memory.max")).write_text(str(size))

    def times_at_limit(self):
        """How often something had to be given up for an allocation."""
        if not self.path:
            return 0
        if self._v1:
            return int((self.path / "memory.failcnt").read_text())
        words = (self.path / "memory.events").read_text().split()
        return int(words[words.index("max") + 1])

    def close(self):
        end = time.monotonic() + 10
        while self.path and time.monotonic() < end:
            try:
                self.path.rmdir()
                self.path = None
            except OSError:
                time.sleep(0.1)


class Place:
    def __init__(self, build):
        self.build = pathlib.Path(build).resolve()
        self.utproxy = str(self.build / "tools" / "utproxy")
        self.load = str(self.build / "bench" / "lab" / "load")
        self.lab = Lab(self.build / "tests" / "system" / "traffic" / "traffic")
        os.chmod(self.lab.directory, 0o755)
        self.cgroup = Cgroup(f"utp-{os.getpid()}")
        self.daemon = None
        self._wire()

    def _wire(self):
        """The second link; random sources (RFC 2544's) are at its other end."""
        self.lab.know_each_other()
        self.lab.client.sh(f"""
            ip link add lan1 type veth peer name lan1 netns {self.lab.router.name}
            ip address add 10.78.1.2/24 dev lan1
            ip link set lan1 up
            ip route add blackhole 198.18.0.0/15
        """)
        self.lab.router.sh("""
            ip address add 10.78.1.1/24 dev lan1
            ip link set lan1 up
            echo 8192 > /proc/sys/net/core/somaxconn
        """)
        self.lab.router.run("nft", "-f", "-", text=tally())
        wait_until(self.lab.router.links_ready, 20, "the links to come up")

    def start(self):
        clock = self.build / "tests" / "stress" / "libstepping_clock.so"
        assert clock.exists(), f"{clock} is not built"
        self.daemon = Configured(self.lab, self.utproxy, configuration(False), wrapper=("env", f"LD_PRELOAD={clock}"))
        self.cgroup.enter(self.daemon.process.pid)
        if self.cgroup.path:
            self.cgroup.limit(self.cgroup.usage() + ROOM)

    def listen(self, name):
        """A listener of the target's; what they receive is not answered, but TCP."""
        port = ON_PORT[name]
        if name == "web":
            server = self.lab.router.start(self.load, "serve", "--port", port, "--family", "dual", name="serve")
            server.wait_event("ready")
            return [server]
        made = [self.lab.listen("udp", port, "--silent", family="dual", report=False)]
        if name == "ports":
            made.append(self.lab.listen("tcp", port, family="dual", report=False))
        return made

    def counters(self):
        """{target: {"came": n, "in": n, "leaked": n}}"""
        listed = json.loads(self.lab.router.run("nft", "-j", "list", "counters", "table", "inet", "tally").stdout)
        found = {c["counter"]["name"]: c["counter"]["packets"] for c in listed["nftables"] if "counter" in c}
        return {name: {hook: found[f"{name}_{hook}"] for hook in HOOKS} for name in MATCHES}

    def kernel_queues(self):
        """{queue: {"queued", "dropped", "user_dropped"}} from the kernel: packets that it gave a number."""
        rows = [line.split() for line in self.lab.router.read("/proc/net/netfilter/nfnetlink_queue").splitlines()]
        return {int(row[0]): {"dropped": int(row[5]), "user_dropped": int(row[6]), "queued": int(row[7])} for row in rows}

    def dropped_before(self):
        """Packets that the router's links had to drop before any rule saw them."""
        links = json.loads(self.lab.router.run("ip", "-s", "-j", "link").stdout)
        return {link["ifname"]: link["stats64"]["rx"]["dropped"] for link in links if link["ifname"].startswith("lan")}

    def mac(self, device):
        return json.loads(self.lab.router.run("ip", "-j", "link", "show", device).stdout)[0]["address"]

    def close(self):
        self.lab.close()
        self.cgroup.close()


SOURCE_LIST = ",".join(source(4, n) for n in range(SOURCES))
__all__ = ["ASKED", "ROUTER", "Place", "configuration", "MATCHES", "ON_PORT", "QUEUES", "SOURCE_LIST"]
