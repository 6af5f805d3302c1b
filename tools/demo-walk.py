#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk that tools/demo shows: two namespaces, one listener, four conversations, and what became of each packet.

Usage: demo-walk.py UTPROXY [--stay], as root. With --stay it waits before the end, for trying things out by hand. Exit 0 where every conversation went as it should.
"""
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "system"))
import lab  # noqa: E402
import packets  # noqa: E402

WIDTH = 80
ON_PORT = 1090
MARK = "0x1/0x1"
TOPOLOGY = """
    client                         router
   +-------------------+          +------------------------------------------+
   | 10.77.1.2         |   veth   | lan0: 10.77.1.1, fd77:1::1               |
   | fd77:1::2         +----------+   nft queue -> utproxy -> verdict + mark |
   |                   |          |   mark -> ip rule -> local route         |
   | asks 203.0.113.80 |          |                          |               |
   | and 2001:db8::80  |          |       transparent listener [::]:1090     |
   +-------------------+          +------------------------------------------+
"""


@dataclasses.dataclass
class Talk:
    """One conversation: what is asked of whom, and what was seen of it."""
    protocol: str
    family: int
    sport: int
    dport: int
    answered_by: str = ""
    saw: str = ""
    decision: dict = dataclasses.field(default_factory=dict)
    sent: int = 0
    same: bool = False
    echoed: bool = False

    @property
    def source(self):
        return lab.CLIENT[self.family]

    @property
    def asked(self):
        return "203.0.113.80" if self.family == 4 else "2001:db8::80"

    @property
    def title(self):
        return f"{self.protocol.upper()} over IPv{self.family}"

    @property
    def to(self):
        return lab.endpoint(self.asked, self.dport)

    def good(self):
        return self.echoed and self.same and self.answered_by == self.to == self.saw


TALKS = [Talk("tcp", 4, 40001, 80), Talk("tcp", 6, 40002, 80), Talk("udp", 4, 40003, 53), Talk("udp", 6, 40004, 53)]


# ---- what is printed ----

COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text, code):
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


def heading(number, text):
    print("\n" + paint(f"{number}. {text}", 1) + "\n" + paint("-" * WIDTH, 2))


def say(text):
    print(textwrap.fill(" ".join(text.split()), WIDTH))


def fold(line, prefix, width):
    """A line cut at blanks so that it fits; what is cut off goes on, indented."""
    indent = len(line) - len(line.lstrip())
    if indent < 6:  # no paragraph, so what goes on is set off
        indent += 4
    return textwrap.wrap(line, width - len(prefix), subsequent_indent=" " * indent, break_long_words=False,
                         break_on_hyphens=False, drop_whitespace=True) or [""]


def quote(text):
    for line in text.rstrip("\n").splitlines():
        for part in fold(line.replace("\t", "  "), "  | ", WIDTH):
            print("  " + paint("|", 2) + " " + part)


def command(words):
    """Prints a command the way it would be typed."""
    parts = fold(" ".join(words), "  # ", WIDTH - 2)
    for i, part in enumerate(parts):
        print(("  # " if i == 0 else "  ") + paint(part, 36) + (" \\" if i + 1 < len(parts) else ""))


# ---- the listener: what a transparent proxy does, in the fewest lines ----

class Listener:
    """TCP and UDP on [::]:1090, for both families; notes whom each peer meant to reach and echoes what it says."""

    def __init__(self, space):
        self.space = space
        self.saw = {}
        with space.entered():
            self.tcp = self._open(socket.SOCK_STREAM)
            self.udp = self._open(socket.SOCK_DGRAM)
            self.udp.setsockopt(socket.IPPROTO_IP, 20, 1)  # IP_RECVORIGDSTADDR
            self.udp.setsockopt(socket.IPPROTO_IPV6, 74, 1)  # IPV6_RECVORIGDSTADDR
            # The answers' sockets, opened here because a thread could not change its namespace as simply.
            self.replies = {}
            for talk in TALKS:
                if talk.protocol == "udp":
                    self.replies[talk.to] = self._reply(talk)
        self.tcp.listen()
        for loop in (self._serve_tcp, self._serve_udp):
            threading.Thread(target=loop, daemon=True).start()

    @staticmethod
    def _open(kind):
        s = socket.socket(socket.AF_INET6, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        s.setsockopt(*lab.TRANSPARENT[6], 1)
        s.bind(("::", ON_PORT))
        return s

    @staticmethod
    def _reply(talk):
        s = socket.socket(socket.AF_INET if talk.family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(*lab.TRANSPARENT[talk.family], 1)
        s.bind((talk.asked, talk.dport))
        return s

    def _serve_tcp(self):
        while True:
            connection, peer = self.tcp.accept()
            local = connection.getsockname()
            self.saw["tcp", unmapped(peer[0]), peer[1]] = lab.endpoint(unmapped(local[0]), local[1])
            with connection, contextlib.suppress(OSError):  # with --stay anything may be broken
                while data := connection.recv(65536):
                    connection.sendall(data)

    def _serve_udp(self):
        while True:
            data, control, _, peer = self.udp.recvmsg(65536, 256)
            original = next(filter(None, (original_destination(*c) for c in control)), "")
            self.saw["udp", unmapped(peer[0]), peer[1]] = original
            with contextlib.suppress(OSError, KeyError):
                self.replies[original].sendto(data, (unmapped(peer[0]), peer[1]))


def unmapped(address):
    return address.removeprefix("::ffff:")


def original_destination(level, kind, data):
    if (level, kind) == (socket.IPPROTO_IP, 20):
        return lab.endpoint(socket.inet_ntop(socket.AF_INET, data[4:8]), struct.unpack("!H", data[2:4])[0])
    if (level, kind) == (socket.IPPROTO_IPV6, 74):
        address = unmapped(socket.inet_ntop(socket.AF_INET6, data[8:24]))
        return lab.endpoint(address, struct.unpack("!H", data[2:4])[0])
    return ""


# ---- the client ----

def converse(talk, client):
    """Sends, takes the echo, and notes from whom it came."""
    said = os.urandom(900)
    inet = socket.AF_INET if talk.family == 4 else socket.AF_INET6
    with client.entered():
        s = socket.socket(inet, socket.SOCK_STREAM if talk.protocol == "tcp" else socket.SOCK_DGRAM)
    with s:
        s.settimeout(5)
        s.bind((talk.source, talk.sport))
        if talk.protocol == "tcp":
            s.connect((talk.asked, talk.dport))
            talk.answered_by = lab.endpoint(*s.getpeername()[:2])
            s.sendall(said)
            s.shutdown(socket.SHUT_WR)
            heard = b""
            while data := s.recv(65536):
                heard += data
        else:
            s.sendto(said, (talk.asked, talk.dport))
            heard, sender = s.recvfrom(65536)
            talk.answered_by = lab.endpoint(*sender[:2])
    talk.echoed = heard == said


# ---- the walk ----

class Walk:
    def __init__(self, binary, stay=False):
        self.binary = binary
        self.stay = stay
        self.directory = tempfile.mkdtemp(prefix=f"utp-{os.getpid()}-")
        self.made_netns_directory = not os.path.exists("/run/netns")
        self.spaces = []
        self.daemon = None
        self.control = f"{self.directory}/control.sock"

    def space(self, role):
        self.spaces.append(lab.Netns(f"utp-{os.getpid()}-{role}", self.directory))
        return self.spaces[-1].create()

    def topology(self):
        heading(1, "Two network namespaces")
        print(TOPOLOGY.strip("\n"))
        say("""The client asks for addresses that no machine here has. The router should hand each of these packets, its
            headers untouched, to one listener on another port. This machine's own network is not touched.""")
        self.client, self.router = self.space("client"), self.space("router")
        self.client.sh(f"""
            ip link set lo up
            ip link add lan0 type veth peer name lan0 netns {self.router.name}
            ip address add 10.77.1.2/24 dev lan0; ip address add fd77:1::2/64 dev lan0 nodad
            ip link set lan0 up
        """)
        self.router.sh("""
            ip link set lo up
            ip address add 10.77.1.1/24 dev lan0; ip address add fd77:1::1/64 dev lan0 nodad
            ip link set lan0 up
            for d in all default lan0; do
              echo 0 > /proc/sys/net/ipv4/conf/$d/rp_filter
              echo 0 > /proc/sys/net/ipv4/conf/$d/src_valid_mark
            done
        """)
        self.client.sh("ip route add default via 10.77.1.1; ip -6 route add default via fd77:1::1")
        for space in (self.client, self.router):  # whole packets with whole checksums, so that bytes can be compared
            with space.entered():
                lab.offloads_off("lan0")

    def rules(self):
        heading(2, "A transparent listener, utproxy, and the rules it sets")
        say(f"""The listener is this demo's own: TCP and UDP sockets on [::]:{ON_PORT} with IP_TRANSPARENT, for IPv4 too.
            utproxy runs in the router with:""")
        self.listener = Listener(self.router)
        words = ["utproxy", "run", "--install", "--proto", "tcp", "--proto", "udp", "--dport", "53,80", "--iif", "lan0",
                 "--on-port", str(ON_PORT), "--tproxy-mark", MARK]
        command(words)
        self.daemon = self.router.start(self.binary, *words[1:], "--control", self.control, name="utproxy")
        self._wait_ready()
        quote(self.daemon.err())
        print("\nWhat that put into the router, and will take away at its end:")
        self.show("nft", "list", "table", "inet", "utproxy")
        for family in ("-4", "-6"):
            self.show("ip", family, "rule", keep=lambda line: "fwmark" in line)
            self.show("ip", family, "route", "show", "table", "100")

    def _wait_ready(self):
        end = time.monotonic() + 20
        while "utproxy: ready" not in self.daemon.err():
            if not self.daemon.alive() or time.monotonic() > end:
                raise SystemExit(f"utproxy did not start:\n{self.daemon.err()}")
            time.sleep(0.02)

    def show(self, *words, keep=lambda line: True):
        command(words)
        text = self.router.run(*words).stdout
        quote("\n".join(line for line in text.splitlines() if keep(line)))

    def watch(self):
        """Copies of packets on the client's device and in the router's INPUT hook, to compare."""
        self.router.run("nft", "-f", "-", text="""
            table inet witness {
                chain input { type filter hook input priority 300; iifname "lan0" log group 7 snaplen 65535; }
            }""")
        self.tap = packets.Tap(self.client, "lan0", outgoing=True)
        self.log = packets.Nflog(self.router, 7)

    def talk(self, number, talk):
        heading(number, f"{talk.title}: {lab.endpoint(talk.source, talk.sport)} asks {talk.to}")
        words = ["explain", talk.protocol, lab.endpoint(talk.source, talk.sport), talk.to, "--iif", "lan0",
                 "--on-port", str(ON_PORT), "--tproxy-mark", MARK]
        in_full = talk.family == 4
        print("The decision about its first packet, step by step:" if in_full
              else "The decision about its first packet (the reasons are those of IPv4, left out):")
        command(["utproxy", *words])
        lines = self.router.run(self.binary, *words).stdout.splitlines()
        quote("\n".join(line for line in lines if in_full or not line.startswith(" " * 6)))
        talk.decision = json.loads(self.router.run(self.binary, words[0], "-j", *words[1:]).stdout)
        try:
            converse(talk, self.client)
        except OSError as problem:
            print(paint(f"\n  The client got no answer: {problem}", 31))
        talk.saw = self.listener.saw.get((talk.protocol, talk.source, talk.sport), "nothing")
        self.compare(talk)
        print("\nThen the client really sent it:")
        print(f"  the listener saw as original destination  {talk.saw}")
        print(f"  the client got its answer from            {talk.answered_by or 'nobody'}")
        print(f"  packets whose bytes arrived as sent       {'all ' if talk.same else 'NOT ALL of '}{talk.sent}")
        sample = next(iter(self.of(talk, self.log.take())), b"")
        print(f"  the first, at the listener's side:        {sample[:16].hex(' ', 4)} ...")

    @staticmethod
    def of(talk, found):
        offset = 20 if talk.family == 4 else 40
        sport = talk.sport.to_bytes(2, "big")
        return [p for p in found if (p[0] >> 4) == talk.family and p[offset:offset + 2] == sport]

    def compare(self, talk):
        end = time.monotonic() + 2
        while True:
            sent, arrived = self.of(talk, self.tap.take()), self.of(talk, self.log.take())
            talk.sent = len(sent)
            talk.same = bool(sent) and collections.Counter(sent) == collections.Counter(arrived)
            if talk.same or time.monotonic() > end:
                return
            time.sleep(0.02)

    def wait(self):
        heading(7, "Yours")
        say("The router stays until you press Enter. In another terminal, as root, enter it:")
        command(["nsenter", f"--net={self.router.path}", "env", f"PATH={pathlib.Path(self.binary).parent}:$PATH", "bash"])
        # As wg-quick does. A policy rule that is deleted, utproxy puts back.
        print("\nBreak something there, such as")
        command(["echo", "1", ">/proc/sys/net/ipv4/conf/lan0/src_valid_mark"])
        print("\nand ask what is wrong, what becomes of a packet, what utproxy decided:")
        words = ["tcp", "10.77.1.2:40009", "203.0.113.80:80", "--iif", "lan0", "--on-port", str(ON_PORT), "--tproxy-mark", MARK]
        command(["utproxy", "doctor"])
        command(["utproxy", "explain", *words])
        command(["utproxy", "trace", "--last", "20", "--control", self.control])
        command(["utproxy", "stats", "--control", self.control])
        print()
        say("To have the client ask once more, by TCP or UDP (it prints 'hello' where it gets its answer):")
        for kind, port in (("tcp", 80), ("udp", 53)):
            command(["nsenter", f"--net={self.client.path}", "timeout", "2", "bash", "-c",
                     f"'exec 3<>/dev/{kind}/203.0.113.80/{port}; echo hello >&3; head -1 <&3'"])
        sys.stdout.flush()
        sys.stdin.readline()

    def end(self):
        heading(8 if self.stay else 7, "What utproxy counted, and its end")
        command(["utproxy", "stats"])
        if self.stay:  # it may have been stopped, or ended
            with contextlib.suppress(ProcessLookupError):
                self.daemon.popen.send_signal(signal.SIGCONT)
        stats = self.router.run(self.binary, "stats", "--control", self.control, check=not self.stay)
        quote(stats.stdout or stats.stderr)
        status = self.daemon.stop()
        self.router.run("nft", "delete", "table", "inet", "witness", check=not self.stay)
        left = self.router.run("nft", "list", "ruleset").stdout
        if self.stay:  # what else is there somebody put there by hand
            left = "".join(line for line in self.router.run("nft", "list", "tables").stdout.splitlines() if "utproxy" in line)
        for family in ("-4", "-6"):
            left += "".join(line + "\n" for line in self.router.run("ip", family, "rule").stdout.splitlines()
                            if "fwmark" in line)
            left += self.router.run("ip", family, "route", "show", "table", "100", check=False).stdout
        print(f"\nAfter SIGTERM: exit status {status}; left in nft, ip rule and ip route: {left.strip() or 'nothing'}")
        return status == 0 and not left.strip()

    def summary(self, clean):
        heading(9 if self.stay else 8, "Summary")
        row = "{:<14} {:<20} {:<20} {:<9} {:>4} {}"
        print(row.format("conversation", "asked", "listener saw", "reason", "pkts", "bytes"))
        for talk in TALKS:
            word = paint("same", 32) if talk.same else paint("DIFFERENT", 31)
            print(row.format(talk.title, talk.to, talk.saw, talk.decision.get("reason", "?"), talk.sent, word))
        fine = all(talk.good() for talk in TALKS) and clean
        print()
        say("Every client got its answer from the address it asked, and nothing is left behind." if fine
            else "Something above is not as it should be.")
        return fine

    def run(self):
        self.topology()
        self.rules()
        self.watch()
        for number, talk in enumerate(TALKS, 3):
            self.talk(number, talk)
        if self.stay:
            self.wait()
        return self.summary(self.end())

    def close(self):
        for space in reversed(self.spaces):
            space.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.made_netns_directory:  # `ip netns` makes it a mount point; both go if nobody else uses it
            subprocess.run(["umount", "/run/netns"], stderr=subprocess.DEVNULL, check=False)
            try:
                os.rmdir("/run/netns")
            except OSError:
                pass


ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupted(number, frame):
    del frame
    for ending in ENDINGS:  # a second one must not cut the tidying short
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main():
    words = [word for word in sys.argv[1:] if word != "--stay"]
    if len(words) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    for number in ENDINGS:
        signal.signal(number, interrupted)
    walk = Walk(os.path.abspath(words[0]), stay="--stay" in sys.argv)
    try:
        return 0 if walk.run() else 1
    except AssertionError as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    finally:
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)
        walk.close()


if __name__ == "__main__":
    sys.exit(main())
