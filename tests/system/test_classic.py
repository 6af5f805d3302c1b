# SPDX-License-Identifier: GPL-3.0-or-later
"""The set-up that every TPROXY manual shows, word for word, with NFQUEUE and utproxy where it says TPROXY."""
import pytest

from engine import Target, Utproxy
from lab import ASKED, endpoint

CLASSIC = "ip rule add fwmark 1 lookup 100; ip route add local 0.0.0.0/0 dev lo table 100"
DNS = endpoint(ASKED[4], 53)
TPROXY = "iptables -t mangle -A PREROUTING -p udp --dport 53 -j TPROXY --on-port 1090 --tproxy-mark 0x1/0x1"
NFQUEUE = "iptables -t mangle -A PREROUTING -p udp --dport 53 -j NFQUEUE --queue-num 0"
OWN = "iptables -t mangle -A OUTPUT -p udp --dport 53 -j MARK --set-mark 1"


def start_classic(kind, lab, request):
    """Returns what is to be stopped at the end."""
    lab.router.sh(CLASSIC)
    if kind == "kernel":
        lab.router.sh(TPROXY)
        return None
    lab.router.sh(NFQUEUE)
    engine = Utproxy(lab, Target("udp", 53, on_port=1090), "classic", request.getfixturevalue("utproxy"))
    engine.launch()
    return engine


@pytest.mark.parametrize("asker", ["client", "router"])
@pytest.mark.parametrize("kind", ["kernel", "classic"])
def test_dns(make_lab, request, kind, asker):
    """`router`: its own queries, marked in OUTPUT, come back through lo."""
    lab = make_lab(server=True)
    listener = lab.listen("udp", 1090)
    engine = start_classic(kind, lab, request)
    if asker == "router":
        lab.router.sh(OWN)
    answer = lab.ask("udp", DNS, "--count", 50, "--window", 8, "--min", 40, "--max", 500, space=getattr(lab, asker))
    assert (answer["answered"], answer["errors"]) == (50, {})
    seen = listener.summary()
    assert seen["destinations"] == {DNS: 50} and seen["intact"] == 50 and seen["at_reply_sockets"] == 0
    if engine:
        assert engine.stop() == 0


@pytest.mark.parametrize("family", [4, 6])
def test_local_output(make_lab, make_engine, family):
    """--local-output takes what the router itself sends, but for what carries the proxy's own mark."""
    lab = make_lab(server=True)
    dns = endpoint(ASKED[family], 53)
    listener = lab.listen("udp", 1090, "--mark", "0x200", family=family)
    origin = lab.listen("udp", 53, "--opaque", family=family, space=lab.server)
    make_engine("install", lab, Target("udp", 53, on_port=1090, options=("--local-output", "--exclude-mark", "0x200/0x200")))
    for space, number in ((lab.router, 20), (lab.client, 10)):
        answer = lab.ask("udp", dns, "--count", number, space=space)
        assert (answer["answered"], answer["errors"]) == (number, {})
    direct = lab.ask("udp", dns, "--count", 7, "--mark", "0x200", space=lab.router)
    assert (direct["answered"], direct["errors"]) == (7, {})
    assert listener.summary()["destinations"] == {dns: 30}
    assert origin.summary()["received"] == 7


def test_local_output_tcp(make_lab, make_engine):
    lab = make_lab(server=True)
    web = endpoint(ASKED[4], 8080)
    listener = lab.listen("tcp", 12345)
    make_engine("install", lab, Target("tcp", 8080, on_port=12345, options=("--local-output",)))
    answer = lab.ask("tcp", web, "--connections", 20, "--max", 20000, space=lab.router)
    assert (answer["ok"], answer["errors"]) == (20, {})
    assert listener.summary()["locals"] == {web: 20}
