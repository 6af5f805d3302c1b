# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw packets: built by hand, taken from a device, and as netfilter sees them in the INPUT hook."""
import select
import socket
import struct
import time

ETH_P_ALL = 3
PACKET_OUTGOING = 4
PROTOCOLS = {"tcp": 6, "udp": 17}


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address):
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def ip_packet(src, dst, protocol, payload):
    """A whole IPv4 or IPv6 packet; `payload` is taken as it is."""
    if ":" in src:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + packed(src) + packed(dst) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0x1234, 0, 64, protocol, 0) + packed(src) + packed(dst)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def tcp_segment(src, sport, dst, dport, flags, seq=1000, ack=0, options=b""):
    """A TCP header in an IP packet. `flags` are letters of FSRPAU, `options` a multiple of 4 bytes."""
    bits = sum(1 << "FSRPAU".index(letter) for letter in flags)
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset, bits, 65535, 0, 0) + options
    pseudo = packed(src) + packed(dst) + struct.pack("!HH", 6, len(head))
    return ip_packet(src, dst, 6, head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:])


def timestamp_option(value):
    """A TCP timestamp, padded to 12 bytes."""
    return struct.pack("!BBBBII", 1, 1, 8, 10, value & 0xFFFFFFFF, 0)


def transport_of(packet):
    """What follows the IP header, of a packet without extension headers."""
    return packet[40 if packet[0] >> 4 == 6 else (packet[0] & 15) * 4:]


class Segment:
    """The fields of a TCP segment in an IP packet without extension headers."""

    def __init__(self, packet):
        head = transport_of(packet)
        self.sport, self.dport, self.seq, self.ack, _, bits = struct.unpack("!HHIIBB", head[:14])
        self.options = head[20:(head[12] >> 4) * 4]
        self.flags = "".join(letter for i, letter in enumerate("FSRPAU") if bits >> i & 1)


def protocol_of(packet):
    return packet[6] if packet[0] >> 4 == 6 else packet[9]


def source_of(packet):
    if packet[0] >> 4 == 6:
        return socket.inet_ntop(socket.AF_INET6, packet[8:24])
    return socket.inet_ntop(socket.AF_INET, packet[12:16])


def destination_of(packet):
    if packet[0] >> 4 == 6:
        return socket.inet_ntop(socket.AF_INET6, packet[24:40])
    return socket.inet_ntop(socket.AF_INET, packet[16:20])


class Injector:
    """Sends IP packets from a namespace as they are."""

    def __init__(self, space):
        with space.entered():
            self.v4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self.v6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def send(self, packet):
        if packet[0] >> 4 == 6:
            self.v6.sendto(packet, (destination_of(packet), 0))
        else:
            self.v4.sendto(packet, (destination_of(packet), 0))

    def close(self):
        self.v4.close()
        self.v6.close()


class Tap:
    """The IP packets that pass a device of a namespace; `outgoing` says in which direction."""

    def __init__(self, space, device, outgoing):
        with space.entered():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
            self.socket.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
            self.socket.bind((device, ETH_P_ALL))
        self.outgoing = outgoing
        self.packets = []

    def take(self, wanted=lambda packet: True):
        """All packets so far for which `wanted` holds."""
        while select.select([self.socket], [], [], 0)[0]:
            packet, address = self.socket.recvfrom(65535)
            if (address[2] == PACKET_OUTGOING) == self.outgoing and address[1] in (0x0800, 0x86DD):
                self.packets.append(packet)
        return [packet for packet in self.packets if wanted(packet)]

    def wait(self, wanted, seconds=3.0):
        """The first packet for which `wanted` holds, or None."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.take(wanted)
            if found:
                return found[0]
            select.select([self.socket], [], [], 0.05)
        return None

    def close(self):
        self.socket.close()


def netlink_messages(data):
    """(message type, what follows nfgenmsg) of each message in a datagram from nfnetlink."""
    while len(data) >= 16:
        length, kind = struct.unpack("=IH", data[:6])
        yield kind, data[20:length]
        data = data[(length + 3) & ~3:]


def netlink_attributes(data):
    while len(data) >= 4:
        length, kind = struct.unpack("=HH", data[:4])
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3:]


class Held:
    """Packets that an NFQUEUE rule sends to queue `number`, held until they are released."""

    SUBSYSTEM = 3
    VERDICT, CONFIG = 1, 2

    def __init__(self, space, number):
        with space.entered():
            self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.socket.bind((0, 0))
        self.number = number
        self.ids = []
        # CFG_CMD: BIND; CFG_PARAMS: copy the first 128 bytes
        self._send(self.CONFIG, struct.pack("=HHBBH", 8, 1, 1, 0, 0) + struct.pack("=HH", 9, 2) + struct.pack("!IB3x", 128, 2))
        answer = self.socket.recv(65536)
        error = struct.unpack("=i", answer[16:20])[0]
        assert struct.unpack("=H", answer[4:6])[0] == 2 and error == 0, f"nfnetlink_queue: error {error}"

    def _send(self, kind, attributes, flags=5):
        body = struct.pack("!BBH", 0, 0, self.number) + attributes
        self.socket.send(struct.pack("=IHHII", 16 + len(body), self.SUBSYSTEM << 8 | kind, flags, 1, 0) + body)

    def wait(self, count, seconds=5.0):
        """Returns when so many packets are held."""
        self.socket.settimeout(seconds)
        while len(self.ids) < count:
            for kind, attributes in netlink_messages(self.socket.recv(1 << 20)):
                if kind == self.SUBSYSTEM << 8:
                    self.ids += [value[:4] for name, value in netlink_attributes(attributes) if name == 1]

    def release(self):
        for packet_id in self.ids:
            self._send(self.VERDICT, struct.pack("=HH", 12, 2) + struct.pack("!I", 1) + packet_id, flags=1)
        self.ids.clear()

    def close(self):
        self.socket.close()


class Nflog:
    """Whole packets that an `nft ... log group N` rule copies to user space."""

    NFNL_SUBSYS_ULOG = 4

    def __init__(self, space, group):
        with space.entered():
            self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)
        self.socket.bind((0, 0))
        self.group = group
        self.packets = []
        self._config(struct.pack("=HHB3x", 5, 1, 1))  # CFG_CMD: BIND
        self._config(struct.pack("=HH", 10, 2) + struct.pack("!IBB", 0xFFFF, 2, 0) + b"\0\0")  # CFG_MODE: COPY_PACKET
        self._config(struct.pack("=HH", 8, 4) + struct.pack("!I", 1))  # CFG_TIMEOUT: 10 ms

    def _config(self, attribute):
        body = struct.pack("!BBH", 0, 0, self.group) + attribute
        head = struct.pack("=IHHII", 16 + len(body), self.NFNL_SUBSYS_ULOG << 8 | 1, 5, 1, 0)  # REQUEST | ACK
        self.socket.send(head + body)
        answer = self.socket.recv(65536)
        error = struct.unpack("=i", answer[16:20])[0]
        assert struct.unpack("=H", answer[4:6])[0] == 2 and error == 0, f"nfnetlink_log: error {error}"

    def take(self):
        while select.select([self.socket], [], [], 0)[0]:
            for kind, attributes in netlink_messages(self.socket.recv(1 << 20)):
                if kind == self.NFNL_SUBSYS_ULOG << 8:
                    self.packets += [value for name, value in netlink_attributes(attributes) if name == 9]  # NFULA_PAYLOAD
        return self.packets

    def close(self):
        self.socket.close()
