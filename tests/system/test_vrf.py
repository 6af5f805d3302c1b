# SPDX-License-Identifier: GPL-3.0-or-later
"""A client behind a VRF's port. Its packets pass PREROUTING twice: as from the port lan0, then as from the VRF's device.
Both times TPROXY looks for sockets by that device alone (sdif 0), so a listener bound to the VRF is found the second time
only. The kernel's TPROXY goes first, then utproxy, in the same router.

Where the two differ, it is the delivery: utproxy's verdict pins no socket to the packet, so the kernel looks once more,
with both devices; and the kernel frees what a queue gives back the second time (vrf_rcv_finish).
"""
import collections
import socket

import pytest

from engine import Target
from lab import ASKED, CLIENT, ROUTER, TRANSPARENT

PORT, ON_PORT = 8080, 12345
VRF = "vrf0"
SECONDS = 2.0  # without a packet, before it counts as lost

# `accept`: the sysctls tcp_l3mdev_accept and udp_l3mdev_accept, which let unbound sockets serve all VRFs.
# `iif`: of the rule. `kernel`, `ours`: what the client sees.
Case = collections.namedtuple("Case", "protocol bound accept iif kernel ours")
CASES = {
    "udp": Case("udp", "", 0, "lan0", "delivered", "delivered"),
    "udp_accept": Case("udp", "", 1, "lan0", "delivered", "delivered"),
    # Established sockets that are bound to no device are found with TPROXY's sdif of 0 only.
    "tcp": Case("tcp", "", 0, "lan0", "delivered", "reset"),
    # And those that the sysctl binds to the VRF are not found by the port, but by the delivery's own lookup.
    "tcp_accept": Case("tcp", "", 1, "lan0", "reset", "delivered"),
    "udp_bound": Case("udp", VRF, 0, "lan0", "lost", "lost"),
    "tcp_bound": Case("tcp", VRF, 0, "lan0", "lost", "lost"),
    "udp_bound_second": Case("udp", VRF, 0, VRF, "delivered", "lost"),
    "tcp_bound_second": Case("tcp", VRF, 0, VRF, "delivered", "lost"),
}


def put_in_vrf(lab, accept):
    """lan0 becomes a port of a VRF; answers of sockets outside of the VRF have a route into it."""
    made = lab.router.run("ip", "link", "add", VRF, "type", "vrf", "table", "77", check=False)
    if made.returncode:
        pytest.skip(f"this kernel has no VRF: {made.stderr.strip()}")
    lab.router.sh(f"""
        echo 0 > /proc/sys/net/ipv4/conf/{VRF}/rp_filter
        echo {accept} > /proc/sys/net/ipv4/tcp_l3mdev_accept
        echo {accept} > /proc/sys/net/ipv4/udp_l3mdev_accept
        ip link set {VRF} up
        ip link set lan0 master {VRF}
        ip -6 address replace {ROUTER[6]}/64 dev lan0 nodad
        ip route add {CLIENT[4]}/32 dev {VRF}
        ip -6 route add {CLIENT[6]}/128 dev {VRF}
    """)


def transparent_listener(lab, case, family):
    kind = socket.SOCK_STREAM if case.protocol == "tcp" else socket.SOCK_DGRAM
    with lab.router.entered():
        listener = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
    listener.setsockopt(*TRANSPARENT[family], 1)
    if case.bound:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, case.bound.encode())
    listener.bind(("0.0.0.0" if family == 4 else "::", ON_PORT))
    listener.settimeout(SECONDS)
    if case.protocol == "tcp":
        listener.listen()
    return listener


def ask(lab, listener, protocol, family):
    """"delivered", "reset" or "lost": what becomes of a datagram, or of a connection and its first bytes."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with lab.client.entered():
        client = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
    with client:
        client.bind((CLIENT[family], 0))
        client.settimeout(SECONDS)
        try:
            client.connect((ASKED[family], PORT))
            client.sendall(b"question")
            return take(listener, client) if protocol == "tcp" else take_datagram(listener, client)
        except TimeoutError:
            return "lost"
        except ConnectionResetError:
            return "reset"


def take_datagram(listener, client):
    data, peer = listener.recvfrom(100)
    assert data == b"question" and peer[:2] == client.getsockname()[:2]
    return "delivered"


def take(listener, client):
    try:
        accepted, _ = listener.accept()
    except TimeoutError:
        client.recv(1)  # raises what has happened to the connection
        raise
    with accepted:
        accepted.settimeout(SECONDS)
        assert accepted.getsockname()[:2] == client.getpeername()[:2]
        assert accepted.recv(100) == b"question"
        accepted.sendall(b"answer")
        assert client.recv(100) == b"answer"
    return "delivered"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_vrf(lab, make_engine, case, family):
    put_in_vrf(lab, case.accept)
    target = Target(case.protocol, PORT, on_port=ON_PORT, iif=case.iif)
    with transparent_listener(lab, case, family) as listener:
        control = make_engine("kernel", lab, target)
        assert ask(lab, listener, case.protocol, family) == case.kernel
        control.stop()
        engine = make_engine("install", lab, target)
        assert ask(lab, listener, case.protocol, family) == case.ours
        decided = "no_socket" if case.bound and case.iif == "lan0" else "listener"
        assert engine.reason(decided) > 0, engine.stats()
