# SPDX-License-Identifier: GPL-3.0-or-later
"""A UDP forwarder, transparent on both sides, as no package of Debian's is one: to the server that was asked, from the client's
address; to the client from the server's. Arguments: the port, and for how many datagrams."""
import socket
import sys

RECVORIGDSTADDR = {socket.AF_INET: (socket.IPPROTO_IP, 20), socket.AF_INET6: (socket.IPPROTO_IPV6, 74)}
TRANSPARENT = {socket.AF_INET: (socket.IPPROTO_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}


def transparent(family, address):
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.setsockopt(*TRANSPARENT[family], 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(30)
    made.bind(address)
    return made


def original(family, control):
    """The address and port in a struct sockaddr_in or _in6."""
    data = next(data for level, kind, data in control if (level, kind) == RECVORIGDSTADDR[family])
    host = data[4:8] if family == socket.AF_INET else data[8:24]
    return socket.inet_ntop(family, host), int.from_bytes(data[2:4], "big")


def main():
    family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    listener = transparent(family, (sys.argv[1], int(sys.argv[2])))
    listener.setsockopt(*RECVORIGDSTADDR[family], 1)
    for _ in range(int(sys.argv[3])):
        query, control, _, client = listener.recvmsg(4096, 256)
        asked = original(family, control)
        with transparent(family, client[:2]) as up, transparent(family, asked) as down:
            up.connect(asked)
            up.send(query)
            down.sendto(up.recv(4096), client)


main()
