# SPDX-License-Identifier: GPL-3.0-or-later
"""Many clients in one namespace, and transparent listeners on several ports of the router."""
import contextlib
import json
import resource
import select
import socket

from lab import ASKED, CLIENT, TRANSPARENT, wait_until

MANY = {4: "10.88.0.0/16", 6: "fd88::/64"}  # every address of these is the client's
KIND = {4: socket.AF_INET, 6: socket.AF_INET6}
BATCH = 250  # unanswered datagrams; few enough for every buffer on the way


def client_address(family, number):
    return f"10.88.{number >> 8}.{number & 255}" if family == 4 else f"fd88::{number:x}"


IPV6_FREEBIND = 78


def make_clients(lab):
    """Two descriptors a connection."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for family, network in MANY.items():
        ip = ["ip", f"-{family}"]
        lab.client.run(*ip, "route", "add", "local", network, "dev", "lo")
        lab.router.run(*ip, "route", "add", network, "via", CLIENT[family])
    lab.know_each_other()


class Listeners:
    """Transparent sockets in the router's namespace, one a port; what comes is only looked at."""

    def __init__(self, lab, protocol, family, transparent=True):
        self.lab, self.protocol, self.family, self.transparent = lab, protocol, family, transparent
        self.sockets = {}

    def open(self, *ports):
        for port in ports:
            with self.lab.router.entered():
                kind = socket.SOCK_STREAM if self.protocol == "tcp" else socket.SOCK_DGRAM
                s = socket.socket(KIND[self.family], kind | socket.SOCK_NONBLOCK)
            s.setsockopt(*TRANSPARENT[self.family], int(self.transparent))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("", port))
            if self.protocol == "tcp":
                s.listen(4096)
            self.sockets[port] = s
        return self

    def close(self, *ports):
        for port in ports or list(self.sockets):
            self.sockets.pop(port).close()

    def take(self, count, seconds=5.0):
        """{(address, port) of the sender: the listener's port} of so many; fewer where no more come. TCP connections are kept
        under "connection"."""
        found = {}
        ready = select.poll()
        for s in self.sockets.values():
            ready.register(s, select.POLLIN)
        while len(found) < count and ready.poll(seconds * 1000):
            for port, s in self.sockets.items():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        if self.protocol == "tcp":
                            connection, sender = s.accept()
                            found[sender[:2]] = port, connection
                        else:
                            found[s.recvfrom(64)[1][:2]] = port, None
        return found


class Clients:
    """Each with an address of its own and one socket, all sending from the same port."""

    def __init__(self, lab, family, count, dport, sport=4000):
        self.lab, self.family, self.dport, self.sport = lab, family, dport, sport
        self.addresses = [client_address(family, number) for number in range(1, count + 1)]

    def _socket(self, address, kind, sport):
        s = socket.socket(KIND[self.family], kind)
        if self.family == 6:
            s.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        s.bind((address, sport))
        return s

    def send(self, listeners, addresses=None):
        """A datagram from each; {address: port it was led to}. All of them must arrive."""
        where = {}
        addresses = addresses or self.addresses
        for start in range(0, len(addresses), BATCH):
            some = addresses[start:start + BATCH]
            with self.lab.client.entered():
                for address in some:
                    with self._socket(address, socket.SOCK_DGRAM, self.sport) as s:
                        s.sendto(b"x", (ASKED[self.family], self.dport))
            found = {sender[0]: port for sender, (port, _) in listeners.take(len(some)).items()}
            assert set(found) == set(some), f"{len(some) - len(found)} of {len(some)} datagrams were lost"
            where.update(found)
        return where

    def sent_to(self, listeners, address):
        """The port that one datagram was led to; None where it did not arrive."""
        with self.lab.client.entered(), self._socket(address, socket.SOCK_DGRAM, self.sport) as s:
            s.sendto(b"x", (ASKED[self.family], self.dport))
        return next((port for port, _ in listeners.take(1, 0.2).values()), None)

    def connect(self, listeners, addresses=None, sport=0):
        """A TCP connection from each; {address: (port, client's end, listener's end)}."""
        ends, result = {}, {}
        addresses = addresses or self.addresses
        for start in range(0, len(addresses), BATCH):
            some = addresses[start:start + BATCH]
            with self.lab.client.entered():
                for address in some:
                    s = self._socket(address, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, sport)
                    s.connect_ex((ASKED[self.family], self.dport))
                    ends[address] = s
            found = {sender[0]: value for sender, value in listeners.take(len(some)).items()}
            assert set(found) == set(some), f"{len(some) - len(found)} of {len(some)} connections were not made"
            result.update({address: (port, ends[address], end) for address, (port, end) in found.items()})
        return result


def on_ports(daemon, target="default"):
    """{port: its object in stats}"""
    return {port["port"]: port for port in daemon.stats()["targets"][target]["on_ports"]}


def wait_for_listeners(daemon, ports, kind, target="default"):
    """Until the daemon knows of exactly these."""
    wait_until(lambda: {p for p, each in on_ports(daemon, target).items() if kind in each["listens"]} == set(ports), 10,
               lambda: f"listeners at {ports}: {json.dumps(on_ports(daemon, target))}")


def shares(where):
    count = {}
    for port in where.values():
        count[port] = count.get(port, 0) + 1
    return count


def explain(lab, binary, *words):
    done = lab.router.run(binary, "explain", "-j", *words)
    return json.loads(done.stdout)
