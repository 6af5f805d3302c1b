# SPDX-License-Identifier: GPL-3.0-or-later
"""What does the transparent proxying in a test's router, behind one interface.

    kernel   the kernel's xt_TPROXY: the control, which every comparison is made with
    rules    utproxy with the user's own queue rule, ip rule and ip route; nft's `queue` where the kernel has it, else
             iptables' NFQUEUE
    install  utproxy run --install
    divert   the same with --fast-path divert
"""
import dataclasses
import ipaddress
import json
import pathlib
import signal
import subprocess

from lab import wait_until

KINDS = ["kernel", "rules", "install", "divert"]
OURS = ["rules", "install"]
USERS_TABLE = "users"  # of the nft rule of `rules`


@dataclasses.dataclass
class Target:
    protocol: str
    dport: int
    on_port: int = 0
    on_ip: tuple = ()
    mark: str = "0x1/0x1"
    on_miss: str = ""
    queues: int = 1
    options: tuple = ()  # further words for `utproxy run`
    iif: str = "lan0"

    def words(self):
        """The options that utproxy and TPROXY's rule have in common."""
        words = ["--tproxy-mark", self.mark]
        if self.on_port:
            words += ["--on-port", str(self.on_port)]
        return words

    def match(self):
        """The condition of an iptables rule; dport 0 stands for any port."""
        words = ["-i", self.iif, "-p", self.protocol]
        return words + ["--dport", self.dport] if self.dport else words

    def nft_match(self):
        """The same condition in nft's words."""
        port = f"{self.protocol} dport {self.dport}" if self.dport else f"meta l4proto {self.protocol}"
        return f'iifname "{self.iif}" {port}'

    def queue_words(self):
        return ["--queue-num", "0"] if self.queues == 1 else ["--queue-balance", f"0:{self.queues - 1}"]


def of_family(addresses, version):
    return [a for a in addresses if ipaddress.ip_address(a).version == version]


class Kernel:
    kind = "kernel"

    def __init__(self, lab, target):
        self.lab, self.target = lab, target

    def start(self):
        route_by_mark(self.lab.router, self.target.mark)
        for tool, version in (("iptables", 4), ("ip6tables", 6)):
            words = self.target.words() + (["--on-port", "0"] if not self.target.on_port else [])
            for address in of_family(self.target.on_ip, version):
                words += ["--on-ip", address]
            self.lab.router.run(tool, "-t", "mangle", "-A", "PREROUTING", *self.target.match(), "-j", "TPROXY", *words)
        return self

    def stop(self):
        for tool in ("iptables", "ip6tables"):
            self.lab.router.run(tool, "-t", "mangle", "-F")
        return 0


class Utproxy:
    """The daemon in the router's namespace, as `rules`, `install` or `divert`."""

    def __init__(self, lab, target, kind, binary):
        self.lab, self.target, self.kind, self.binary = lab, target, kind, binary
        self.control = str(pathlib.Path(lab.directory) / "control.sock")
        self.process = None

    def argv(self):
        words = [self.binary, "run", *self.target.queue_words(), *self.target.words(), "--control", self.control]
        for address in self.target.on_ip:
            words += ["--on-ip", address]
        if self.target.on_miss:
            words += ["--on-miss", self.target.on_miss]
        if self.kind == "divert":
            words += ["--fast-path", "divert"]
        if self.kind in ("install", "divert"):
            words += ["--install", "--proto", self.target.protocol, "--iif", self.target.iif]
            words += ["--dport", str(self.target.dport)] if self.target.dport else []
        return words + list(self.target.options)

    def start(self):
        if self.kind == "rules":
            route_by_mark(self.lab.router, self.target.mark)
            self._queue_rules()
        self.launch()
        return self

    def launch(self):
        self.process = self.lab.router.start(*self.argv(), name="utproxy")
        wait_until(self._is_ready, 20, "utproxy: ready")

    def _is_ready(self):
        if not self.process.alive():
            raise AssertionError(f"{' '.join(self.argv())}: exit {self.process.popen.returncode}: {self.process.err()}")
        return any(line.startswith("utproxy: ready") for line in self.process.err().splitlines())

    def _queue_rules(self):
        if has_nft_queue(self.lab.router):
            last = f"-{self.target.queues - 1}" if self.target.queues > 1 else ""
            self.lab.router.run("nft", "-f", "-", text=f"""
                table inet {USERS_TABLE} {{
                    chain pre {{
                        type filter hook prerouting priority mangle;
                        {self.target.nft_match()} queue num 0{last}
                    }}
                }}""")
            return
        for tool in ("iptables", "ip6tables"):
            self.lab.router.run(tool, "-t", "mangle", "-A", "PREROUTING", *self.target.match(), "-j", "NFQUEUE",
                                *self.target.queue_words())

    def remove_queue_rules(self):
        """Those of the user."""
        if has_nft_queue(self.lab.router):
            self.lab.router.run("nft", "delete", "table", "inet", USERS_TABLE)
            return
        for tool in ("iptables", "ip6tables"):
            self.lab.router.run(tool, "-t", "mangle", "-F")

    def stop(self, number=signal.SIGTERM):
        return self.process.stop(number)

    def stats(self):
        done = self.lab.router.run(self.binary, "stats", "-j", "--control", self.control)
        return json.loads(done.stdout)

    def reason(self, name):
        return reason_count(self.stats(), name)

    def explain(self, *words, check=True):
        options = self.target.words()
        for address in self.target.on_ip:
            options += ["--on-ip", address]
        if self.target.on_miss:
            options += ["--on-miss", self.target.on_miss]
        done = self.lab.router.run(self.binary, "explain", "-j", *words, *options, check=check)
        return json.loads(done.stdout)


def has_nft_queue(space):
    """Whether this kernel has nft's queue expression; asks without changing a rule."""
    rule = "add table inet t; add chain inet t c; add rule inet t c queue num 0"
    return space.run("nft", "-c", rule, check=False).returncode == 0


def reason_count(stats, name):
    """The one place that knows the shape of `stats -j`: totals by reason at the top level, or summed over targets."""
    if "reasons" in stats:
        return stats["reasons"].get(name, 0)
    return sum(target.get("reasons", {}).get(name, 0) for target in stats.get("targets", []))


def packet_count(stats):
    if "packets" in stats:
        return stats["packets"]
    return sum(target.get("packets", 0) for target in stats.get("targets", []))


def route_by_mark(space, mark):
    space.sh(f"""
        ip rule add fwmark {mark} lookup 100
        ip route add local 0.0.0.0/0 dev lo table 100
        ip -6 rule add fwmark {mark} lookup 100
        ip -6 route add local ::/0 dev lo table 100
    """)


def queued_by_queue(space):
    """{queue number: packets queued so far} from the kernel."""
    rows = [line.split() for line in space.read("/proc/net/netfilter/nfnetlink_queue").splitlines()]
    return {int(row[0]): int(row[7]) for row in rows}


def leftovers(space):
    """What a run must not leave: tables, rules and routes of its own, as lines."""
    found = [line for line in space.run("nft", "list", "ruleset").stdout.splitlines() if "utproxy" in line]
    for family in ("-4", "-6"):
        rules = space.run("ip", family, "rule").stdout.splitlines()
        found += [line for line in rules if line.split(":")[0] not in ("0", "32766", "32767")]
        routes = subprocess.run(space.wrap(["ip", family, "route", "show", "table", "100"]), capture_output=True, text=True)
        found += routes.stdout.splitlines()
    return found
