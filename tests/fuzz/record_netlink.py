#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the first inputs of rtnetlink_fuzz and nft_fuzz: a kernel's answers to the questions of their readers.

    unshare -n tests/fuzz/record_netlink.py CORPUS

as root: it sets up the network namespace that it is started in, which has to be one of its own. CORPUS is the folder
of both corpora. Attributes that no reader looks at, and long ones, are left out.
"""

import os
import socket
import struct
import subprocess
import sys

ROUTE, NETFILTER = 0, 12
GETLINK, GETADDR, GETROUTE, GETRULE = 18, 22, 26, 34
GETTABLE, GETCHAIN, GETRULES, GETSETELEM, GETFLOWTABLE = (0xA00 + n for n in (1, 4, 7, 13, 23))
REQUEST, DUMP = 1, 0x300
LONGEST = 300  # bytes of an attribute

RULES = """
table inet t {
  comment "other"
  set ports { type inet_service; flags interval; elements = { 80, 443, 1000-2000 } }
  map verdicts { type inet_service : verdict; elements = { 53 : jump side } }
  chain side { counter; accept comment "a comment"; }
  chain pre {
    type filter hook prerouting priority mangle; policy drop;
    iifname "lan0" tcp dport @ports tproxy to :1090 meta mark set 0x1
    udp dport vmap @verdicts
    ip saddr 10.0.0.0/8 ip daddr != { 10.1.0.0/16, 192.0.2.1 } goto side
    fib daddr type local return
    socket transparent 1 meta mark set meta mark | 0x2 accept
    ct state established drop
  }
}
"""

IPTABLES = """-N UTPROXY
    -A UTPROXY -p tcp -m multiport --dports 80,443 -m mark ! --mark 1/1 -j NFQUEUE --queue-balance 0:1 --queue-bypass
    -A UTPROXY -p udp --dport 53 -j TPROXY --on-port 53 --tproxy-mark 1/1
    -I PREROUTING -i lan0 -j UTPROXY"""


def ask(bus, kind, header, attributes=b"", flags=DUMP):
    """One request's answer as datagrams, their sequence numbers 0."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, bus) as s:
        s.settimeout(2)
        payload = header + attributes
        s.send(struct.pack("=IHHII", 16 + len(payload), kind, REQUEST | flags, 0, 0) + payload)
        while True:
            datagram = s.recv(65536)
            messages = list(split(datagram))
            yield b"".join(shortened(m, len(header)) for m in messages)
            if not flags & DUMP or any(struct.unpack_from("=H", m, 4)[0] in (2, 3) for m in messages):
                return


def split(datagram):
    while len(datagram) >= 16:
        size = struct.unpack_from("=I", datagram)[0]
        yield datagram[:size]
        datagram = datagram[(size + 3) & ~3 :]


def shortened(message, header):
    kind = struct.unpack_from("=H", message, 4)[0]
    if kind in (2, 3):
        return padded(message)
    kept, rest = message[16 : 16 + header], message[16 + header :]
    while len(rest) >= 4:
        size, name = struct.unpack_from("=HH", rest)
        unread = kind == 16 and name not in (3, 10, 18)  # of a link: its name, master and kind
        if size <= LONGEST and not unread:
            kept += padded(rest[:size])
        rest = rest[(size + 3) & ~3 :]
    return struct.pack("=I", 16 + len(kept)) + message[4:8] + bytes(8) + kept


def padded(data):
    return data + bytes(-len(data) % 4)


def attribute(kind, text):
    value = text.encode() + b"\0"
    return padded(struct.pack("=HH", 4 + len(value), kind) + value)


def write(folder, name, reader, *answers):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(bytes([reader]))
        for answer in answers:
            for datagram in answer:
                f.write(struct.pack("<H", len(datagram)) + datagram)


def set_up():
    commands = """link set lo up
        link add lan0 type veth peer name lan1
        link add red type bridge
        link set lan0 master red
        link set red up
        link set lan0 up
        addr add 10.77.1.1/24 dev lan0
        addr add 10.77.1.2/24 dev lan0
        addr add 2001:db8::1/64 dev lan0 nodad
        rule add fwmark 0x1/0x1 lookup 100 priority 1000
        rule add from 10.0.0.0/8 iif lan0 ipproto tcp lookup 7
        -6 rule add fwmark 0x1/0x1 lookup 100
        route add local default dev lo table 100
        -6 route add local default dev lo table 100
        route add default via 10.77.1.9 table 7
        route add 192.0.2.0/24 via 10.77.1.9 table 7"""
    for line in commands.splitlines():
        subprocess.run(["ip", *line.split()], check=True)
    subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
    for line in IPTABLES.splitlines():
        subprocess.run(["iptables-nft", "-t", "mangle", *line.split()], check=True)


def record_rtnetlink(folder):
    links = list(ask(ROUTE, GETLINK, bytes(16)))
    addresses = list(ask(ROUTE, GETADDR, bytes(8)))

    def routes(family):
        return list(ask(ROUTE, GETROUTE, bytes([family]) + bytes(11)))

    def rules(family):
        return list(ask(ROUTE, GETRULE, bytes([family]) + bytes(11)))

    four, six = (rules(2), routes(2)), (rules(10), routes(10))
    write(folder, "mirror", 0, links, addresses)
    write(folder, "doctor", 1, links, addresses, *four, *six)
    write(folder, "delivery", 2, four[1], four[0], six[1], six[0])
    asked = struct.pack("=HH", 8, 1) + socket.inet_aton("10.77.1.7")
    write(folder, "route", 3, ask(ROUTE, GETROUTE, bytes([2, 32]) + bytes(10), asked, 0))
    refused = struct.pack("=HH", 8, 1) + socket.inet_aton("198.51.100.1")
    write(folder, "refused", 3, ask(ROUTE, GETROUTE, bytes([2, 32]) + bytes(10), refused, 0))


def record_nft(folder):
    tables = list(ask(NETFILTER, GETTABLE, bytes(4)))
    chains = list(ask(NETFILTER, GETCHAIN, bytes(4)))
    rules = list(ask(NETFILTER, GETRULES, bytes(4)))
    flows = list(ask(NETFILTER, GETFLOWTABLE, bytes(4)))

    def elements(name):
        return list(ask(NETFILTER, GETSETELEM, b"\1\0\0\0", attribute(1, "t") + attribute(2, name)))

    # Sets are asked for while the rules are read.
    write(folder, "doctor", 0, tables, chains, rules, elements("ports"), elements("verdicts"), flows)
    write(folder, "table", 1, ask(NETFILTER, GETTABLE, b"\1\0\0\0", attribute(1, "t"), 0))
    mangle = list(ask(NETFILTER, GETCHAIN, b"\2\0\0\0"))
    jumps = list(ask(NETFILTER, GETRULES, b"\2\0\0\0"))
    write(folder, "iptables", 2, mangle, jumps)
    write(folder, "counters", 3, rules)
    error = struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -95) + bytes(16)
    last = struct.pack("=IHHIIi", 36, 2, 0, 12, 0, -2) + bytes(16)
    write(folder, "errors", 4, [error + last], [last])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    set_up()
    record_rtnetlink(os.path.join(sys.argv[1], "rtnetlink"))
    record_nft(os.path.join(sys.argv[1], "nft"))
