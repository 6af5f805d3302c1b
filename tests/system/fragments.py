# SPDX-License-Identifier: GPL-3.0-or-later
"""Datagrams, and the fragments that they are cut into by hand."""
import struct

from packets import checksum, ip_packet, packed, protocol_of, transport_of

ID = 0x5555
FRAGMENT_HEADER = 44


def udp_packet(src, sport, dst, dport, data):
    """A datagram with its checksum, in an IP packet."""
    head = struct.pack("!HHHH", sport, dport, 8 + len(data), 0)
    pseudo = packed(src) + packed(dst) + struct.pack("!HH", 17, 8 + len(data))
    return ip_packet(src, dst, 17, head[:6] + struct.pack("!H", checksum(pseudo + head + data)) + data)


def fragment(packet, start, end, more, ident=ID):
    """Bytes start to end of what follows the IP header of `packet`, as a fragment. `start` is a multiple of 8."""
    assert start % 8 == 0
    part = transport_of(packet)[start:end]
    if packet[0] >> 4 == 6:
        header = struct.pack("!BBHI", protocol_of(packet), 0, start | more, ident) + part
        return packet[:4] + struct.pack("!HB", len(header), FRAGMENT_HEADER) + packet[7:40] + header
    head = packet[:2] + struct.pack("!HHH", 20 + len(part), ident, more << 13 | start // 8) + packet[8:10] + b"\0\0"
    head += packet[12:20]
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + part


def cut(packet, *places):
    """The fragments of `packet` that begin at 0 and at the places given, in order."""
    ends = [*places, len(transport_of(packet))]
    return [fragment(packet, start, end, end != ends[-1]) for start, end in zip([0, *places], ends)]


def whole(packet, *places):
    return [packet]


def in_order(packet, *places):
    return cut(packet, *places)


def last_first(packet, *places):
    return cut(packet, *places)[::-1]


def shuffled(packet, *places):
    """Neither the first nor the last one comes first or last, where there are four or more."""
    parts = cut(packet, *places)
    return parts[1::2] + parts[0::2]


def repeated(packet, *places):
    """The second one comes twice, which is no overlap."""
    parts = cut(packet, *places)
    return parts[:2] + parts[1:]


def overlapping(packet, *places):
    """The second one begins eight bytes before the end of the first, or the first ends eight bytes behind the beginning of
    the second: the kernel takes nothing of such a datagram."""
    parts = cut(packet, *places)
    if places[0] == 8:
        return [fragment(packet, 0, 16, True), *parts[1:]]
    end = [*places, len(transport_of(packet))][1]
    return [parts[0], fragment(packet, places[0] - 8, end, len(places) > 1), *parts[2:]]


def incomplete(packet, *places):
    return cut(packet, *places)[:-1]
