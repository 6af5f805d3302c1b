# SPDX-License-Identifier: GPL-3.0-or-later
"""`utproxy trace --nflog` beside the kernel's own TPROXY: what it says of each packet is what the kernel did.

A packet is logged to COPIES before the TPROXY rule; right behind mangle, to HITS with its mark where TPROXY let it pass,
and is dropped, so that no packet changes what the next one meets."""
import json
import random
import select
import socket
import struct

import pytest

from lab import ASKED, CLIENT, OTHER, ROUTER, TRANSPARENT, wait_until
from packets import Injector, Nflog, ip_packet, netlink_attributes, netlink_messages, tcp_segment, transport_of

PACKETS, COPIES, HITS = 10000, 5, 6
ON_PORT, MARK = 12345, "0x11/0x1f"

XT = f"""
for t in iptables ip6tables; do
  for p in tcp udp; do
    $t -t mangle -A PREROUTING -i lan0 -p $p -j TPROXY --on-port {ON_PORT} --tproxy-mark {MARK}
  done
done
"""
NFT = f"""
nft -f - <<END
table inet kernel {{
    chain pre {{
        type filter hook prerouting priority mangle;
        iifname "lan0" meta l4proto {{ tcp, udp }} tproxy to :{ON_PORT} meta mark set meta mark and 0xffffffe0 xor 0x11 accept
        iifname "lan0" drop
    }}
}}
END
"""
AROUND = f"""
nft -f - <<END
table inet oracle {{
    chain copy {{
        type filter hook prerouting priority -200;
        iifname "lan0" ip dscp 1 meta mark set 0xa0
        iifname "lan0" ip6 dscp 1 meta mark set 0xa0
        iifname "lan0" meta l4proto {{ tcp, udp }} log group {COPIES}
    }}
    chain tell {{
        type filter hook prerouting priority -149;
        iifname "lan0" meta l4proto {{ tcp, udp }} log group {HITS}
        iifname "lan0" meta l4proto {{ tcp, udp }} drop
    }}
}}
END
"""


class Hits(Nflog):
    """Of each packet its bytes and its mark."""

    def take(self):
        while select.select([self.socket], [], [], 0)[0]:
            for kind, attributes in netlink_messages(self.socket.recv(1 << 20)):
                if kind != self.NFNL_SUBSYS_ULOG << 8:
                    continue
                values = dict(netlink_attributes(attributes))
                self.packets.append((values[9], struct.unpack("!I", values.get(2, b"\0\0\0\0"))[0]))
        return self.packets


def open_socket(space, family, kind, address, port, transparent=True, connect=None):
    inet = socket.AF_INET if family == 4 else socket.AF_INET6
    with space.entered():
        s = socket.socket(inet, kind)
    if family == 6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(*TRANSPARENT[family], 1)  # to bind; taken back where the socket is not to have it
    s.bind((address, port))
    if connect:
        s.connect(connect)
    elif kind == socket.SOCK_STREAM:
        s.listen()
    if not transparent:
        s.setsockopt(*TRANSPARENT[family], 0)
    return s


def sockets_of(router):
    """Listeners that are transparent and not, at other ports; connected datagram sockets."""
    opened = []
    for family in (4, 6):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            # At ON_PORT a transparent one at the router's address, or one that is not at the wildcard address.
            transparent = (family == 4) == (kind == socket.SOCK_STREAM)
            opened.append(open_socket(router, family, kind, ROUTER[family] if transparent else "", ON_PORT, transparent))
            opened.append(open_socket(router, family, kind, OTHER[family], ON_PORT + 1))
        udp = socket.SOCK_DGRAM
        opened.append(open_socket(router, family, udp, ASKED[family], 7001, connect=(CLIENT[family], 4001)))
        opened.append(open_socket(router, family, udp, ASKED[family], 7002, connect=(CLIENT[family], 4002), transparent=False))
        # In the listener's place for one sender: shadows it.
        opened.append(open_socket(router, family, udp, ROUTER[family], ON_PORT, connect=(CLIENT[family], 4003)))
    return opened


def random_packet(rng, number):
    """A packet that nobody else sends: its number is in its IPv4 id or IPv6 flow label."""
    family = rng.choice((4, 6))
    src, dst = CLIENT[family], rng.choice((ASKED, ASKED, ROUTER, OTHER))[family]
    sport = rng.choice((4001, 4002, 4003, 4004))
    dport = rng.choice((7001, 7002, 80, ON_PORT, ON_PORT + 1))
    if rng.random() < 0.5:
        flags = rng.choice(("S", "S", "A", "SA", "R", "FA", "PA"))
        packet = tcp_segment(src, sport, dst, dport, flags, seq=rng.getrandbits(32))
    else:
        head = struct.pack("!HHHH", sport, dport, 12, 0) + struct.pack("!I", rng.getrandbits(32))
        packet = ip_packet(src, dst, 17, head)
    if rng.random() < 0.02:  # cut before the ports are whole
        packet = ip_packet(src, dst, packet[6] if family == 6 else packet[9], transport_of(packet)[:7])
    return numbered(bytearray(packet), number, rng.random() < 0.3)


def numbered(packet, number, marked):
    if packet[0] >> 4 == 4:
        packet[1] = 4 if marked else 0  # DSCP 1: gets a mark of its own before
        packet[4:6] = struct.pack("!H", number)
    else:
        packet[0:4] = struct.pack("!I", 6 << 28 | (4 if marked else 0) << 20 | number)
    return bytes(packet)


def number_of(packet):
    if packet[0] >> 4 == 4:
        return struct.unpack("!H", packet[4:6])[0]
    return struct.unpack("!I", packet[0:4])[0] & 0xFFFFF


@pytest.mark.load
@pytest.mark.parametrize("rules", [XT, NFT], ids=["xt", "nft"])
def test_it_says_what_the_kernel_did(lab, utproxy, rules):
    lab.know_each_other()
    lab.router.sh(rules)
    lab.router.sh(AROUND)
    opened = sockets_of(lab.router)
    tracer = lab.router.start(utproxy, "trace", "-j", "--nflog", COPIES, "--count", PACKETS, "--on-port", ON_PORT,
                              "--tproxy-mark", MARK, name="trace")
    hits = Hits(lab.router, HITS)
    wait_until(lambda: group_is_bound(lab.router, COPIES), 10, tracer.err)
    rng = random.Random(20261123)
    injector = Injector(lab.client)
    sent = []
    for number in range(PACKETS):
        packet = random_packet(rng, number + 1)
        sent.append(packet)
        injector.send(packet)
        if number % 200 == 199:
            wait_until(lambda: len(tracer.out().splitlines()) >= number + 1, 30, tracer.err)
            hits.take()
    wait_until(lambda: not tracer.alive(), 60, tracer.err)
    assert tracer.popen.returncode == 0 and tracer.err() == ""
    said = [json.loads(line) for line in tracer.out().splitlines()]
    marks = {number_of(packet): mark for packet, mark in hits.take()}
    assert len(said) == PACKETS
    wrong, seen = [], set()
    for packet, decision in zip(sent, said):
        number = number_of(packet)
        kernel = ("accept", f"{marks[number]:#x}") if number in marks else ("drop", None)
        ours = (decision["verdict"], decision["mark"] if decision["verdict"] == "accept" else None)
        seen.add((decision["verdict"], decision["reason"], decision["packet"]["family"], decision["packet"]["proto"]))
        assert decision["group"] == COPIES and decision["packet"]["iif"] == "lan0"
        if kernel != ours:
            wrong.append((kernel, decision))
    assert not wrong, (len(wrong), wrong[:2])
    for verdict, reason in (("accept", "listener"), ("drop", "not_transparent"), ("drop", "no_socket"), ("drop", "header_truncated")):
        assert any(s[:2] == (verdict, reason) for s in seen), (verdict, reason, seen)
    for s in opened:
        s.close()


def group_is_bound(space, group):
    return any(int(line.split()[0]) == group for line in space.read("/proc/net/netfilter/nfnetlink_log").splitlines())


def test_a_group_that_another_program_reads(lab, utproxy):
    other = Nflog(lab.router, COPIES)
    done = lab.router.run(utproxy, "trace", "--nflog", COPIES, "--on-port", ON_PORT, check=False)
    assert done.returncode == 1 and done.stderr.startswith(f"utproxy: bind NFLOG group {COPIES}: "), done.stderr
    other.close()
