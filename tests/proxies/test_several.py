# SPDX-License-Identifier: GPL-3.0-or-later
"""Several targets at once, and utproxy beside what else lives on a router."""
import pytest

from lab import ASKED, CLIENT, endpoint
from stock import HaProxy, Nginx, Squid, Unbound, curl, dig, errors_found, example
from test_dns import NOBODY, RECORDS, SERVER

families = pytest.mark.parametrize("family", [4, 6])


def url(family, port=80):
    return f"http://{endpoint(ASKED[family], port)}/hello"


def accepted(stats):
    return {name: target["verdicts"]["marked"] for name, target in stats["targets"].items()}


@families
def test_three_proxies(lab, intercept, family):
    origin = Nginx(lab.server, (80, 8080)).start()
    names = Unbound(lab.server, SERVER, data=RECORDS).start()
    web = HaProxy(lab.router).start()
    squid = Squid(lab.router).start()
    Unbound(lab.router, forward="10.77.2.2").start()
    utproxy = intercept(lab, example("several.toml"))
    assert errors_found(lab, utproxy) == []

    def ask(port, *words):
        return curl(lab.client, "-g", "--interface", CLIENT[family], *words, url(family, port), check=False)

    for port, proxy in ((80, "web"), (8080, "optional")):
        before = accepted(utproxy.stats())
        assert ask(port).stdout == "hello\n"
        assert origin.seen()[-1][0] == CLIENT[family]
        after = accepted(utproxy.stats())
        assert [name for name in after if after[name] > before.get(name, 0)] == [proxy]
    assert dig(lab.client, f"@{NOBODY[family]}", "one.example", "A")
    assert "one.example. A IN" in names.log("log")

    web.process.stop()
    squid.process.stop()
    assert ask(80, "-m", "2").returncode == 28, "HAProxy's target drops what has no listener"
    assert ask(8080).stdout == "hello\n", "Squid's lets it pass"
    assert dig(lab.client, f"@{NOBODY[family]}", "one.example", "A")


def test_two_namespaces(make_lab, intercept):
    """An instance in each, with the same words; one's end is nothing to the other."""
    labs = [make_lab(), make_lab()]
    origins = [Nginx(lab.server).start() for lab in labs]
    for lab in labs:
        HaProxy(lab.router).start()
    both = [intercept(lab, example("haproxy.toml")) for lab in labs]
    for _ in range(3):
        for lab in labs:
            assert curl(lab.client, url(4)).stdout == "hello\n"
    assert [len(origin.seen()) for origin in origins] == [3, 3]
    assert both[0].stop() == 0
    assert curl(labs[1].client, url(4)).stdout == "hello\n"
    assert accepted(both[1].stats())["haproxy"] >= 4


NEIGHBOURS = {
    # Forwarded ports and masquerade.
    "nat": """
        nft -f - <<'END'
        table inet neighbour {
            chain pre {
                type nat hook prerouting priority dstnat;
                iifname lan0 meta nfproto ipv4 tcp dport 8081 dnat ip to 10.77.2.2:80
                iifname lan0 meta nfproto ipv6 tcp dport 8081 dnat ip6 to [fd77:2::2]:80
            }
            chain post { type nat hook postrouting priority srcnat; oifname wan0 masquerade; }
        }
END
    """,
    # All that comes by either link or is sent has a zone of its own.
    "zones": """
        nft -f - <<'END'
        table inet neighbour {
            chain raw { type filter hook prerouting priority raw; iifname { lan0, wan0 } ct zone set 5; }
            chain own { type filter hook output priority raw; ct zone set 5; }
            chain post { type nat hook postrouting priority srcnat; oifname wan0 masquerade; }
        }
END
    """,
    # wg-quick's: all but what has its mark goes by a table of its own, which here leads to the same uplink.
    "wireguard": """
        for f in -4 -6; do
            ip $f rule add not fwmark 51820 table 51820
            ip $f rule add table main suppress_prefixlength 0
        done
        ip route add default via 10.77.2.2 table 51820
        ip -6 route add default via fd77:2::2 table 51820
    """,
    # mwan3's: connections are assigned to an uplink by bits of the mark, which conntrack keeps.
    "mwan": """
        for t in iptables ip6tables; do
            $t -t mangle -A PREROUTING -j CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00
            $t -t mangle -A PREROUTING -m mark --mark 0x0/0x3f00 -j MARK --set-xmark 0x100/0x3f00
            $t -t mangle -A PREROUTING -j CONNMARK --save-mark --nfmask 0x3f00 --ctmask 0x3f00
        done
        for f in -4 -6; do
            ip $f rule add fwmark 0x100/0x3f00 lookup 11 priority 2001
            ip $f rule add fwmark 0x3f00/0x3f00 unreachable priority 2254
        done
        ip route add default via 10.77.2.2 table 11
        ip -6 route add default via fd77:2::2 table 11
        ip route add 10.77.1.0/24 dev lan0 table 11
        ip -6 route add fd77:1::/64 dev lan0 table 11
    """,
    # The kernel's own TPROXY for another port, to another proxy and with another bit.
    "tproxy": """
        for t in iptables ip6tables; do
            $t -t mangle -A PREROUTING -i lan0 -p tcp --dport 8081 -j TPROXY --on-port 1081 --tproxy-mark 0x2/0x2
        done
        for f in -4 -6; do
            ip $f rule add fwmark 0x2/0x2 lookup 102
            ip $f route add local default dev lo table 102
        done
    """,
}
ADDRESSED = {"nat": {4: "10.77.1.1", 6: "fd77:1::1"}}  # what a forwarded port is asked at


def mend(lab, utproxy):
    """Rules of wg-quick's that come later get the priorities in front of all others, whoever's those are, and would have marked
    packets forwarded. Doctor says so; the mark's rule belongs in front of them."""
    assert {error.partition(":")[0] for error in errors_found(lab, utproxy)} == {"mark_overlap"}
    for family in ("-4", "-6"):
        lab.router.run("ip", family, "rule", "add", "fwmark", "0x1/0x1", "lookup", "100", "priority", "100")


SAYS_SO = "    option transparent\n    http-response set-header x-proxy"


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_beside(lab, intercept, neighbour, order):
    """Ports 80 by utproxy and 8081 by the neighbour, whose rules were there first or come later, in either family."""
    origin = Nginx(lab.server, (80, 8081)).start()
    text = example("haproxy.cfg").replace("    option transparent", f"{SAYS_SO} ours")
    HaProxy(lab.router, text).start()
    if neighbour == "tproxy":
        HaProxy(lab.router, text.replace(":1080", ":1081").replace(" ours", " kernels"), (1081,)).start()
    if order == "before":
        lab.router.sh(NEIGHBOURS[neighbour])
    utproxy = intercept(lab, example("haproxy.toml"))
    if order == "after":
        lab.router.sh(NEIGHBOURS[neighbour])
    if (neighbour, order) == ("wireguard", "after"):
        mend(lab, utproxy)
    assert errors_found(lab, utproxy) == []
    by_whom = ["-w", "%header{x-proxy}"]
    for family in (4, 6):
        own = ["-g", "--interface", CLIENT[family], *by_whom]
        for _ in range(3):
            assert curl(lab.client, *own, url(family)).stdout == "hello\nours"
        hidden = neighbour in ("nat", "zones")
        assert (origin.seen()[-1][0] == CLIENT[family]) != hidden
        asked = ADDRESSED.get(neighbour, ASKED)[family]
        done = curl(lab.client, *own, f"http://{endpoint(asked, 8081)}/hello")
        assert done.stdout == "hello\n" + ("kernels" if neighbour == "tproxy" else "")
    assert accepted(utproxy.stats())["haproxy"] >= 6
    assert "utproxy" in lab.router.run("nft", "list", "ruleset").stdout
    assert utproxy.stop() == 0
    left = lab.router.run("nft", "list", "ruleset").stdout
    assert "utproxy" not in left and ("neighbour" in left) == ("neighbour" in NEIGHBOURS[neighbour])
