# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers behind a bridge of the router's, which hides their addresses: intercepted before translation, whether the bridge
calls iptables (br_netfilter) or not."""
import re

import pytest

from lab import ASKED, Netns, endpoint, wait_until
from stock import HaProxy, Nginx, Unbound, curl, dig, errors_found, example
from test_dns import NOBODY, RECORDS, SERVER

BRIDGE = {4: "10.88.0.1", 6: "fd88::1"}
CONTAINERS = [{4: "10.88.0.2", 6: "fd88::2"}, {4: "10.88.0.3", 6: "fd88::3"}]
UPLINK = {4: "10.77.2.1", 6: "fd77:2::1"}
families = pytest.mark.parametrize("family", [4, 6])
calls = pytest.mark.parametrize("br_netfilter", [0, 1], ids=["bridge", "br_netfilter"])


def url(address, port=80):
    return f"http://{endpoint(address, port)}/hello"


def add_container(lab, number):
    space = Netns(f"{lab.stem}-c{number}", lab.directory)
    lab.spaces.append(space)
    own = CONTAINERS[number]
    space.create().sh(f"""
        ip link set lo up
        echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
        ip link add eth0 type veth peer name c{number} netns {lab.router.name}
        ip address add {own[4]}/24 dev eth0
        ip address add {own[6]}/64 dev eth0 nodad
        ip link set eth0 up
    """)
    lab.router.sh(f"ip link set c{number} master br0 up")
    space.sh(f"ip route add default via {BRIDGE[4]}\nip -6 route add default via {BRIDGE[6]}")
    return space


@pytest.fixture
def bridged(lab, br_netfilter):
    """The lab with two containers behind br0."""
    lab.router.sh(f"""
        ip link add br0 type bridge
        ip address add {BRIDGE[4]}/24 dev br0
        ip address add {BRIDGE[6]}/64 dev br0 nodad
        ip link set br0 up
        nft add table inet nat
        nft 'add chain inet nat post {{ type nat hook postrouting priority srcnat; }}'
        nft add rule inet nat post oifname wan0 masquerade
    """)
    calls_iptables = "/proc/sys/net/bridge/bridge-nf-call-ip"
    if lab.router.run("test", "-e", calls_iptables + "tables", check=False).returncode:
        if br_netfilter:
            pytest.skip("br_netfilter is not loaded")
    else:
        for word in ("tables", "6tables"):
            lab.router.sh(f"echo {br_netfilter} > {calls_iptables}{word}")
    lab.containers = [add_container(lab, number) for number in range(2)]
    for space in [lab.router, *lab.containers]:
        wait_until(space.links_ready, 20, "the bridge's links")
    lab.origin = Nginx(lab.server, (80, 81)).start()
    return lab


@families
@calls
def test_intercepted_before_translation(bridged, intercept, family):
    """The proxy sees the container's address and says it; the server sees the host's."""
    HaProxy(bridged.router, example("haproxy-plain.cfg")).start()
    utproxy = intercept(bridged, example("containers.toml"))
    assert errors_found(bridged, utproxy) == []
    for own, space in zip(CONTAINERS, bridged.containers):
        for _ in range(5):
            assert curl(space, "-g", url(ASKED[family])).stdout == "hello\n"
            assert bridged.origin.seen()[-1][0] == UPLINK[family]
            assert bridged.origin.seen()[-1][-1] == own[family]


@families
@calls
def test_from_the_containers_address(bridged, intercept, family):
    """HAProxy connects from the container's address; that is translated, and the answers come back to HAProxy."""
    HaProxy(bridged.router).start()
    intercept(bridged, example("containers.toml").replace("on_port", "divert_replies = true\non_port"))
    assert curl(bridged.containers[0], "-g", url(ASKED[family])).stdout == "hello\n"
    assert bridged.origin.seen()[-1][0] == UPLINK[family]


@pytest.mark.parametrize("words", [[], ["+tcp"]], ids=["udp", "tcp"])
@families
@calls
def test_names(bridged, intercept, family, words):
    """Whichever server a container asks, the host's Unbound answers from that one's address, and asks with its own."""
    Unbound(bridged.server, SERVER, data=RECORDS).start()
    resolver = Unbound(bridged.router, forward="10.77.2.2").start()
    text = example("containers.toml").replace("on_port = 1080", "on_port = 53")
    text = text.replace('proto = "tcp", dport = [80, 8080]', 'proto = ["udp", "tcp"], dport = 53')
    utproxy = intercept(bridged, text)
    assert errors_found(bridged, utproxy) == []
    for own, space in zip(CONTAINERS, bridged.containers):
        [line] = dig(space, "-b", own[family], f"@{NOBODY[family]}", *words, "one.example", "A")
        assert line.split()[-1] == "192.0.2.1"
        assert f"info: {own[family]} one.example. A IN" in resolver.log("log")


@families
@calls
def test_what_is_not_for_the_proxy(bridged, intercept, family):
    """Containers among each other, and other ports, go on as they would, also while no proxy is there."""
    inside = Nginx(bridged.containers[1]).start()
    intercept(bridged, example("containers.toml"))
    assert curl(bridged.containers[0], "-g", url(CONTAINERS[1][family])).stdout == "hello\n"
    assert inside.clients() == {CONTAINERS[0][family]}
    assert curl(bridged.containers[0], "-g", url(ASKED[family], 81)).stdout == "hello\n"
    assert curl(bridged.containers[0], "-g", "-m", "2", url(ASKED[family]), check=False).returncode == 28


@families
@calls
def test_why_containers_networks_are_left_out(bridged, intercept, br_netfilter, family):
    """The control: with `not_dst` away, a bridge that calls iptables queues what containers send each other, too. It goes straight
    on whatever its mark, so that is for nothing, and without a proxy it is dropped."""
    inside = Nginx(bridged.containers[1]).start()
    text = example("containers.toml")
    without = re.sub(r", not_dst = \[[^]]*\]", "", text)
    assert without != text
    utproxy = intercept(bridged, without)
    alone = curl(bridged.containers[0], "-g", "-m", "3", url(CONTAINERS[1][family]), check=False)
    assert alone.returncode == (28 if br_netfilter else 0)
    HaProxy(bridged.router, example("haproxy-plain.cfg")).start()
    assert curl(bridged.containers[0], "-g", url(CONTAINERS[1][family])).stdout == "hello\n"
    assert inside.clients() == {CONTAINERS[0][family]}
    assert (utproxy.stats()["targets"]["containers"]["verdicts"]["marked"] > 0) == bool(br_netfilter)


KERNELS = """
    for t in iptables ip6tables; do
        $t -t mangle -A PREROUTING -i br0 -p tcp --dport 80 -j TPROXY --on-port ON_PORT --tproxy-mark 0x1/0x1
    done
    for f in -4 -6; do
        ip $f rule add fwmark 0x1/0x1 lookup 100
        ip $f route add local default dev lo table 100
    done
"""


@pytest.mark.parametrize("on_port", [80, 1080])
@families
@calls
def test_the_kernels_tproxy(bridged, br_netfilter, family, on_port):
    """The control: called from inside the bridge, TPROXY's socket is lost on the way up; the mark still leads the packet to this
    host, where only a listener on the packet's own port gets it."""
    HaProxy(bridged.router, example("haproxy-plain.cfg").replace(":1080", f":{on_port}"), (on_port,)).start()
    bridged.router.sh(KERNELS.replace("ON_PORT", str(on_port)))
    done = curl(bridged.containers[0], "-g", "-m", "3", url(ASKED[family]), check=False)
    assert (done.returncode == 0) == (on_port == 80 or not br_netfilter)
