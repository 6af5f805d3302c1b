# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab compares. Each is started with the rules that it needs in the router's namespace, for TCP and UDP at once,
and leaves none when it is stopped."""
import json
import pathlib

from engine import has_nft_queue
from lab import source, wait_until

PORT, ON_PORT = 8080, 12345  # what clients ask for, and where those who can redirect it
NFT_TABLE = "lab"
MAXLEN = 60000  # of queues that are filled; more than 65,536 some kernels don't hold


class Missing(Exception):
    """Why a contestant cannot take part on this machine."""


class Contestant:
    name = ""
    queues = False  # whether packets go through a queue that can be filled
    redirects = True  # to another port than the packet's own
    carried = False  # by rules, all but the first packets of flows: what fills a queue is new flows

    def __init__(self, bench):
        self.bench, self.router, self.process = bench, bench.lab.router, None

    def port(self, steered):
        """Where the server is to listen."""
        return ON_PORT if steered and self.redirects else PORT

    def start(self, steered=True, queues=2, fill=False):
        """`steered`: to ON_PORT, if it can. `fill`: the queues take MAXLEN packets, and the client's address chooses."""
        raise NotImplementedError

    def stop(self):
        self.clear()

    def clear(self):
        self.router.run("iptables", "-t", "mangle", "-F")
        self.router.run("nft", "delete", "table", "ip", NFT_TABLE, check=False)

    def mangle(self, *words):
        done = self.router.run("iptables", "-t", "mangle", "-A", "PREROUTING", "-i", "lan0", *words, check=False)
        if done.returncode != 0:
            self.clear()
            raise Missing(f"iptables {' '.join(map(str, words))}: {(done.stderr.splitlines() or ['refused'])[0]}")

    def pid(self):
        return self.process.pid if self.process else None


class XtTproxy(Contestant):
    name, divert = "xt TPROXY", False

    def start(self, steered=True, queues=2, fill=False):
        for protocol in ("tcp", "udp"):
            if self.divert:
                words = ("-p", protocol, "-m", "socket", "--transparent", "-j")
                self.mangle(*words, "MARK", "--set-mark", 1)
                self.mangle("-p", protocol, "-m", "mark", "--mark", 1, "-j", "ACCEPT")
            self.mangle("-p", protocol, "--dport", PORT, "-j", "TPROXY", "--on-port", self.port(steered), "--tproxy-mark", "1/1")


class XtTproxyDivert(XtTproxy):
    name, divert = "xt TPROXY + socket", True


class NftTproxy(Contestant):
    name, divert = "nft tproxy", ""

    def start(self, steered=True, queues=2, fill=False):
        done = self.router.run("nft", "-f", "-", check=False, text=f"""
            table ip {NFT_TABLE} {{
                chain pre {{
                    type filter hook prerouting priority mangle;
                    {self.divert}
                    iifname lan0 meta l4proto {{ tcp, udp }} th dport {PORT} tproxy to :{self.port(steered)} meta mark set 1 accept
                }}
            }}""")
        if done.returncode != 0:
            raise Missing(f"nft: {(done.stderr.splitlines() or ['refused'])[0]}")


class NftTproxyDivert(NftTproxy):
    name, divert = "nft tproxy + socket", "iifname lan0 socket transparent 1 meta mark set 1 accept"


class Queue(Contestant):
    """The rule is iptables' NFQUEUE where the kernel has no nft queue, the same for all contestants."""
    queues = True

    def start(self, steered=True, queues=2, fill=False):
        for protocol in ("tcp", "udp"):
            match = ("-p", protocol, "--dport", PORT)
            if queues == 1:
                self.mangle(*match, "-j", "NFQUEUE", "--queue-num", 0)
            elif fill:  # the same to each, and not as the kernel's hash happens to have it
                for n in range(queues):
                    self.mangle(*match, "-s", source(4, n), "-j", "NFQUEUE", "--queue-num", n)
            else:
                self.mangle(*match, "-j", "NFQUEUE", "--queue-balance", f"0:{queues - 1}")
        self.launch(steered, queues, fill)

    def launch(self, steered, queues, fill):
        raise NotImplementedError

    def begin(self, argv, ready):
        self.process = self.router.start(*argv)

        def is_ready():
            assert self.process.alive(), f"{self.process.argv}: {self.process.err()}"
            return ready in self.process.out() + self.process.err()

        wait_until(is_ready, 20, f"{self.name} to be ready")

    def stop(self):
        status = self.process.stop()
        error, self.process = self.process.err(), None
        self.clear()
        assert status == 0, f"{self.name}: exit {status}: {error}"


class AcceptAll(Queue):
    """utproxy's own worker and system calls, and no decision: the limit."""
    name, redirects = "accept-all", False

    def launch(self, steered, queues, fill):
        self.begin([self.bench.build / "bench" / "accept_all", queues, 0] + ([MAXLEN] if fill else []), "ready")


class AcceptAllDivert(AcceptAll):
    """The fast path's rules in front of a queue without a decision: the limit of what carries only the first packet of
    each flow to user space."""
    name, carried = "accept-all, fast path", True
    words = ("--fast-path", "divert", "--iif", "lan0", "--dport", PORT, "--tproxy-mark", "1/1")

    def start(self, steered=True, queues=2, fill=False):
        self.router.run(self.bench.utproxy, "ruleset", "install", *self.words, "--queue-balance", f"0:{queues - 1}")
        self.launch(steered, queues, fill)

    def clear(self):
        self.router.run(self.bench.utproxy, "ruleset", "remove", check=False)


class OneByOne(Queue):
    name, redirects = "one recv, one send", False

    def launch(self, steered, queues, fill):
        self.begin([self.bench.build / "bench" / "lab" / "one_by_one", queues] + ([MAXLEN] if fill else []), "ready")


class Utproxy(Queue):
    name, options = "utproxy", ()

    def launch(self, steered, queues, fill):
        self.control = str(pathlib.Path(self.bench.lab.directory) / "control.sock")
        argv = [self.bench.utproxy, "run", "--queue-balance", f"0:{queues - 1}", "--tproxy-mark", "1/1", "--control", self.control]
        argv += ["--on-port", ON_PORT] if steered else []
        argv += ["--queue-maxlen", MAXLEN] if fill else []
        self.begin([*argv, *self.options], "utproxy: ready")

    def stats(self):
        return json.loads(self.router.run(self.bench.utproxy, "stats", "-j", "--control", self.control).stdout)


class UtproxyDivert(Utproxy):
    """With rules of its own, as the fast path is made of rules."""
    name, carried = "utproxy, fast path", True
    options = ("--fast-path", "divert", "--install", "--iif", "lan0", "--dport", PORT)

    def start(self, steered=True, queues=2, fill=False):
        self.launch(steered, queues, fill)


ALL = [XtTproxy, XtTproxyDivert, NftTproxy, NftTproxyDivert, AcceptAll, AcceptAllDivert, OneByOne, Utproxy, UtproxyDivert]


def remarks(lab):
    """What this kernel lacks that the contestants would use otherwise."""
    return [] if has_nft_queue(lab.router) else ["nft queue: not in this kernel; all queues are fed by iptables' NFQUEUE (nft_compat)"]
