# SPDX-License-Identifier: GPL-3.0-or-later
"""A scene with sockets in the router and packets from the client, and what was seen of it: which socket got what, and
which answers came back over the wire. The same scene is played with the kernel's TPROXY and with utproxy."""
import contextlib
import dataclasses
import select
import socket
import struct
import time

from engine import packet_count, queued_by_queue
from lab import ASKED, CLIENT, ROUTER, TRANSPARENT, endpoint, wait_until
from packets import (Injector, Segment, Tap, checksum, ip_packet, packed, protocol_of, source_of, tcp_segment,
                     transport_of)

PORT, ON_PORT = 8080, 12345
INET = {4: socket.AF_INET, 6: socket.AF_INET6}
TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
# The level and option that make a UDP socket tell the original destination, and the size of a sockaddr in its answer.
ORIGINAL = {4: (socket.IPPROTO_IP, 20), 6: (socket.IPPROTO_IPV6, 74)}
ICMP = {4: 1, 6: 58}
UNREACHABLE = {4: 3, 6: 1}


@dataclasses.dataclass
class Seen:
    """`sockets`: what each socket of the router got, as (its name, what it was told). `wire`: the answers that came to the
    client, as (TCP flags or "unreachable", from where, acknowledged bytes)."""
    sockets: list
    wire: list = dataclasses.field(default_factory=list)


def address_of(sockaddr):
    """"address:port" of a raw sockaddr_in or sockaddr_in6; v4-mapped ones as IPv4."""
    family, port = struct.unpack("=H", sockaddr[:2])[0], struct.unpack("!H", sockaddr[2:4])[0]
    if family == socket.AF_INET:
        return endpoint(socket.inet_ntop(family, sockaddr[4:8]), port)
    return plain(socket.inet_ntop(family, sockaddr[8:24]), port)


def plain(address, port):
    return endpoint(address.removeprefix("::ffff:"), port)


class Scene:
    def __init__(self, lab, engine, family):
        self.lab, self.engine, self.family = lab, engine, family
        self.sockets = {}  # the router's, by name
        self.stack = contextlib.ExitStack()
        self.injector = self.stack.enter_context(contextlib.closing(Injector(lab.client)))
        self.incoming = self.stack.enter_context(contextlib.closing(Tap(lab.client, "lan0", outgoing=False)))
        self.outgoing = self.stack.enter_context(contextlib.closing(Tap(lab.client, "lan0", outgoing=True)))
        self.markers = 0
        self.got = []
        self.accepted = []
        lab.know_each_other()

    def close(self):
        self.stack.close()

    # The router's sockets

    def keep(self, name, made):
        self.sockets[name] = self.stack.enter_context(made)
        return made

    def bound(self, name, protocol, port, bind=None, *, transparent=True, family=None, options=()):
        """A socket of the router's that is bound and does nothing else yet."""
        family = family or self.family
        inet = socket.AF_INET if family == 4 else socket.AF_INET6
        with self.lab.router.entered():
            made = self.keep(name, socket.socket(inet, TYPES[protocol]))
        if family in (6, "dual"):
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(family == 6))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in options:
            made.setsockopt(*option)
        level_family = 4 if family == 4 else 6
        made.setsockopt(*TRANSPARENT[level_family], 1)  # binding to what is not the router's needs it
        if protocol == "udp":
            made.setsockopt(*ORIGINAL[level_family], 1)
            if family == "dual":
                made.setsockopt(*ORIGINAL[4], 1)
        made.bind((bind or ("0.0.0.0" if family == 4 else "::"), port))
        made.setsockopt(*TRANSPARENT[level_family], int(transparent))
        return made

    def open(self, name, protocol, port, bind=None, **options):
        """A listener, or an unconnected UDP socket."""
        made = self.bound(name, protocol, port, bind, **options)
        if protocol == "tcp":
            made.listen(64)
        made.setblocking(False)
        return made

    def established(self, protocol, sport):
        """The client's socket of a connection whose socket in the router is "connection": accepted by "proxy", or a UDP
        socket connected after the first datagram."""
        client = self.ask(protocol, b"first", sport=sport)
        self.collect(at_least=len(self.got) + 1)
        if protocol == "tcp":
            self.sockets["connection"] = self.accepted[-1]
            client.setblocking(True)
        else:
            self.connected("connection", PORT, ASKED[self.family], sport)
            client.connect((ASKED[self.family], PORT))
        return client

    def connected(self, name, port, bind, sport, transparent=True):
        """A UDP socket of the router's that is connected to the client's port."""
        made = self.bound(name, "udp", port, bind)
        made.connect((CLIENT[self.family], sport))
        made.setsockopt(*TRANSPARENT[self.family], int(transparent))
        made.setblocking(False)
        return made

    def transparent(self, name, on):
        self.sockets[name].setsockopt(*TRANSPARENT[self.family], int(on))

    # The client's packets

    def client_socket(self, protocol, sport=0):
        with self.lab.client.entered():
            made = self.stack.enter_context(socket.socket(INET[self.family], TYPES[protocol]))
        made.bind((CLIENT[self.family], sport))
        made.settimeout(5)
        return made

    def ask(self, protocol, data=b"hello", sport=0, port=PORT):
        """One connection, or one datagram, from a new socket of the client's, which is returned."""
        made = self.client_socket(protocol, sport)
        if protocol == "tcp":
            made.setblocking(False)
            made.connect_ex((ASKED[self.family], port))
        else:
            made.sendto(data, (ASKED[self.family], port))
        return made

    def segment(self, flags, sport, seq, ack=0, options=b"", port=PORT):
        self.injector.send(
            tcp_segment(CLIENT[self.family], sport, ASKED[self.family], port, flags, seq, ack, options=options))

    def first_seq(self, sport):
        """The sequence number of the client's SYN from that port."""
        found = self.outgoing.take(lambda p: protocol_of(p) == 6 and Segment(p).sport == sport and Segment(p).flags == "S")
        return Segment(found[0]).seq

    # What was seen

    def marker(self):
        """Waits for the answer to an echo request, which goes the same way after everything sent so far."""
        self.markers += 1
        data = b"marker %d" % self.markers
        self.injector.send(ip_packet(CLIENT[6], ROUTER[6], ICMP[6], echo_request(data)))
        assert self.incoming.wait(lambda p: data in p, 10), "no answer to the echo request"

    def settle(self):
        """Returns when everything that the client has sent has been decided and delivered."""
        self.marker()
        if self.engine.kind != "kernel":
            wait_until(lambda: sum(queued_by_queue(self.lab.router).values()) == packet_count(self.engine.stats()), 10,
                       lambda: f"{queued_by_queue(self.lab.router)} to be decided: {self.engine.stats()}")

    def _read(self, name):
        made = self.sockets[name]
        if made.type == socket.SOCK_DGRAM:
            data, ancillary, _, _ = made.recvmsg(70000, 400)
            told = [address_of(value) for _, kind, value in ancillary if kind in (20, 74)]
            self.got.append((name, told[0] if told else plain(*made.getsockname()[:2]), data))
        elif made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            accepted = self.stack.enter_context(made.accept()[0])
            accepted.setblocking(False)
            self.accepted.append(accepted)
            self.got.append((name, plain(*accepted.getsockname()[:2])))
        else:
            self.got.append((name, made.recv(70000)))

    def collect(self, at_least=0, seconds=10.0):
        """What the router's sockets have got in all; waits for that many events, and then for all that is under way."""
        end = time.monotonic() + seconds
        settled = False
        while True:
            open_ones = {made: name for name, made in self.sockets.items() if made.fileno() >= 0}
            wait = 0.05 if len(self.got) < at_least else 0
            ready = select.select(list(open_ones), [], [], wait)[0]
            for made in ready:
                self._read(open_ones[made])
            if ready:
                continue
            if settled:
                return sorted(self.got)
            if len(self.got) >= at_least or time.monotonic() > end:
                self.settle()
                settled = True

    def answers(self, sport, seq=None):
        """The segments that came to the client's port, and ICMP errors, repetitions left out. With `seq`, which
        acknowledgements are counted from, all segments; without it those with SYN or RST."""
        found = []
        for packet in self.incoming.take():
            answer = None
            if protocol_of(packet) == ICMP[self.family]:
                if transport_of(packet)[0] == UNREACHABLE[self.family]:
                    answer = ("unreachable", source_of(packet), 0)
            elif protocol_of(packet) == 6:
                answer = self._answer(Segment(packet), source_of(packet), sport, seq)
            if answer and answer not in found:
                found.append(answer)
        return found

    @staticmethod
    def _answer(segment, source, sport, seq):
        if segment.dport != sport or (seq is None and not set("SR") & set(segment.flags)):
            return None
        counts = seq is not None and "A" in segment.flags
        return (segment.flags, endpoint(source, segment.sport), (segment.ack - seq) & 0xFFFFFFFF if counts else 0)

    def forget(self):
        """What has come over the wire so far is not looked at again."""
        self.incoming.take()
        self.incoming.packets.clear()

    # Remains of a connection

    def finished(self, client_closes=True):
        """A connection through the listener "proxy" that the proxy's side ended first; returns the client's port and, for
        FIN_WAIT2, its socket, which is still open."""
        listener = self.open("proxy", "tcp", ON_PORT)
        listener.settimeout(5)
        client = self.client_socket("tcp")
        client.connect((ASKED[self.family], PORT))
        sport = client.getsockname()[1]
        accepted, _ = listener.accept()
        client.sendall(b"x" * 100)
        assert len(accepted.recv(1000)) == 100
        accepted.close()
        assert client.recv(10) == b""
        if client_closes:
            client.close()
        listener.setblocking(False)
        self.wait_state("TIME-WAIT" if client_closes else "FIN-WAIT-2", sport)
        self.forget()
        return sport

    def in_state(self, state, sport):
        return f":{sport}" in self.lab.router.run("ss", "-Htan", "state", state.lower()).stdout

    def wait_state(self, state, sport):
        wait_until(lambda: self.in_state(state, sport), 10,
                   lambda: f"{state} of port {sport}: {self.lab.router.run('ss', '-tan').stdout}")


def echo_request(data):
    """An ICMPv6 echo request of the client to the router."""
    body = struct.pack("!BBHHH", 128, 0, 0, 7, 1) + data
    pseudo = packed(CLIENT[6]) + packed(ROUTER[6]) + struct.pack("!II", len(body), 58)
    return body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]


class SideBySide:
    """Plays a scenario with one kind of engine and, where that is ours, with the kernel's TPROXY in a second lab made the
    same way; what they show must be equal. `prepare(lab)` comes before the engine starts."""

    def __init__(self, make_lab, make_engine):
        self.make_lab, self.make_engine = make_lab, make_engine

    def play(self, kind, family, target, scenario, prepare=None):
        lab = self.make_lab()
        if prepare:
            prepare(lab)
        scene = Scene(lab, self.make_engine(kind, lab, target), family)
        with contextlib.closing(scene):
            return scenario(scene)

    def __call__(self, kind, family, target, scenario, prepare=None):
        seen = self.play(kind, family, target, scenario, prepare)
        if kind != "kernel":
            control = self.play("kernel", family, target, scenario, prepare)
            assert seen == control, f"{kind}: {seen}, but the kernel's TPROXY: {control}"
        return seen
