# SPDX-License-Identifier: GPL-3.0-or-later
"""Set-ups that no check of doctor's was written for: it names what keeps packets from the listener, and says nothing of
what works."""
import dataclasses
import json
import os
import signal

import pytest

from doctor_router import ON_PORT, PORT, Router
from engine import Target, Utproxy
from faults import both
from lab import wait_until


TPROXY = f"-p tcp --dport {PORT} -j TPROXY --on-port {ON_PORT}"


def each_tool(command):
    return f"iptables -t mangle {command}\nip6tables -t mangle {command}"


def nft(rules):
    def do(r):
        r.space.run("nft", "-f", "-", text=rules)
    return do


def sh(script):
    return lambda r: r.sh(script)


def listener_elsewhere(r):
    r.listener.stop()
    r.lab.listen("tcp", ON_PORT, space=r.lab.client, report=False)


def bridge_port(r):
    r.sh("ip link add br0 type bridge\nip link set lan0 master br0\nip link set br0 up")


def recreated_interface(r):
    """The rule names the interface by its number, and the number is another one's now."""
    r.space.run("nft", "-f", "-", text=f"flush ruleset\ntable inet users {{ chain pre {{ "
                f"type filter hook prerouting priority mangle; iif lan0 tcp dport {PORT} tproxy to :{ON_PORT} "
                "meta mark set 1 accept; }; }")
    assert r.errors() == [], r.doctor()
    r.sh("ip link del lan0\nip link add lan0 type veth peer name far0\nip address add 10.77.1.1/24 dev lan0\n"
         "ip link set lan0 up\nip link set far0 up")


@dataclasses.dataclass
class Setup:
    name: str
    do: object
    id: str = "not_delivered"
    cause: str = ""  # stands in the cause
    kind: str = "xt"
    server: bool = False
    family: int = 4
    breaks: bool = True  # what works() asks for
    mends: bool = True   # by what doctor proposes
    words: tuple = ()    # what doctor is told


NFT_TARGET = f"tcp dport {PORT} tproxy to :{ON_PORT} meta mark set 0x1 accept"


def in_table(rules):
    return nft(f"flush ruleset\ntable inet users {{ {rules}; }}")


WITHOUT_MARK = each_tool("-F PREROUTING") + "\n" + each_tool(f"-A PREROUTING -i lan0 {TPROXY}")
LATE = "table inet late {{ chain pre {{ type filter hook prerouting priority filter; {}; }}; }}"
NO_ACCEPT = f"tcp dport {PORT} tproxy to :{ON_PORT} meta mark set 0x1"
CHAIN = "chain pre { type filter hook prerouting priority PRIORITY; POLICY }"
BROKEN = [
    Setup("blackhole in front", sh(both("{ip} rule add blackhole priority 50")), cause="`ip rule` 50 (blackhole)"),
    Setup("prohibit for the interface in front", sh(both("{ip} rule add iif lan0 prohibit priority 60")), cause="`ip rule` 60"),
    Setup("unreachable for the mark in front", sh(both("{ip} rule add fwmark 0x1/0x1 unreachable priority 60")),
          "mark_overlap", "refuses"),
    Setup("the mark's rule behind main", sh(both("{ip} rule del fwmark 0x1/0x1 lookup 100\n"
                                                 "{ip} rule add fwmark 0x1/0x1 lookup 100 priority 40000")),
          "mark_overlap", "is looked at after", server=True),
    Setup("the sender's rule in front", sh("ip route add default via 10.77.1.2 table 200\n"
                                           "ip rule add from 10.77.1.0/24 lookup 200 priority 10"),
          "mark_overlap", "from 10.77.1.0/24"),
    Setup("wrong mask", sh(both("{ip} rule del fwmark 0x1/0x1 lookup 100\n{ip} rule add fwmark 0x1/0x3 lookup 100\n") +
                           each_tool("-F PREROUTING") + "\n" + each_tool(f"-A PREROUTING {TPROXY} --tproxy-mark 2/2")),
          "no_fwmark_rule"),
    Setup("wrong table", sh(both("{ip} rule del fwmark 0x1/0x1 lookup 100\n{ip} rule add fwmark 0x1/0x1 lookup 101")),
          "no_local_route"),
    Setup("route is not local", sh("ip route flush table 100\nip route add default dev lo table 100"), "no_local_route"),
    Setup("rule for another interface", sh(both("{ip} rule del fwmark 0x1/0x1 lookup 100\n"
                                                "{ip} rule add iif wan9 fwmark 0x1/0x1 lookup 100")), "no_fwmark_rule"),
    Setup("no mark", sh(WITHOUT_MARK), cause="sets no mark"),
    Setup("no mark, with a way out", sh(WITHOUT_MARK), cause="forwards them by wan0", server=True),
    Setup("no mark, nft", nft(f"flush ruleset\ntable inet users {{ chain pre {{ type filter hook prerouting priority mangle; "
                              f"tcp dport {PORT} tproxy to :{ON_PORT} accept; }}; }}"), cause="sets no mark", kind="nft"),
    Setup("ACCEPT in front", sh(each_tool("-I PREROUTING -i lan0 -j ACCEPT")), cause="Rule 1 of chain PREROUTING"),
    Setup("ACCEPT of the port's range in front", sh(each_tool("-I PREROUTING -p tcp --dport 8000:9000 -j ACCEPT")),
          cause="Rule 1 of chain PREROUTING"),
    Setup("RETURN in a chain in front", sh(each_tool("-N first") + "\n" + each_tool("-A first -p tcp -j DROP") + "\n" +
                                           each_tool("-I PREROUTING -j first")), cause="chain first"),
    Setup("DROP in raw", sh("iptables -t raw -A PREROUTING -i lan0 -p tcp -j DROP"), cause="table raw"),
    Setup("IPv6 alone accepted in front", sh("ip6tables -t mangle -I PREROUTING -j ACCEPT"), cause="Rule 1", family=6),
    Setup("policy drop of an earlier chain", nft("table inet early { " + CHAIN.replace("PRIORITY", "raw").replace(
        "POLICY", "policy drop; iifname wan0 accept;") + "; }"), cause="policy of chain pre", kind="nft"),
    Setup("a later chain drops", nft("table inet late { " + CHAIN.replace("PRIORITY", "filter").replace(
        "POLICY", "policy drop; tcp dport 22 accept;") + "; }"), cause="behind it", kind="nft"),
    Setup("destination changed before", nft(f"table ip early {{ chain pre {{ type nat hook prerouting priority -175; "
                                            f"tcp dport {PORT} dnat to 10.77.1.1:99; }}; }}"),
          cause="changes the destination", kind="nft"),
    Setup("an interface that is not there", sh(each_tool("-F PREROUTING") + "\n" + each_tool(
        f"-A PREROUTING -i lan9 {TPROXY} --tproxy-mark 1/1")), cause="lan9, which does not exist", mends=False),
    Setup("an interface made anew", recreated_interface, cause="which does not exist", kind="nft", mends=False),
    Setup("interface down", sh("ip link set lan0 down"), cause="is down", mends=False),
    Setup("interface put into a bridge", bridge_port, cause="port of the bridge br0"),
    Setup("REDIRECT instead", sh(each_tool("-F PREROUTING") + f"\niptables -t nat -A PREROUTING -p tcp --dport {PORT} "
                                 f"-j REDIRECT --to-ports {ON_PORT}"), cause="nothing to look at", breaks=False, mends=False),
    Setup("listener in another namespace", listener_elsewhere, "no_listener", mends=False),
    Setup("destination changed behind", sh(f"iptables -t nat -A PREROUTING -i lan0 -p tcp --dport {PORT} ! -d 10.0.0.0/8 -j DNAT "
                                           "--to 10.77.1.2:99\niptables -t nat -A PREROUTING -i lan0 -p tcp -j DNAT --to 10.77.1.2:99\n"
                                           "iptables -t mangle -I PREROUTING -d 10.77.1.1 -j RETURN"),
          cause="changes their destination"),
    Setup("mark cleared behind", nft(LATE.format("meta mark set 0")), cause="rule 1 of chain pre of table late makes that 0x0"),
    Setup("mark changed behind, nft", nft(LATE.format("iifname lan0 meta mark set 0x80")), cause="makes that 0x80", kind="nft"),
    Setup("mark cleared behind tproxy without accept", in_table(
        f"chain pre {{ type filter hook prerouting priority mangle; {NO_ACCEPT}; meta mark set 0x20; }}"),
        cause="rule 2 of chain pre", kind="nft"),
    Setup("drop behind tproxy without accept", in_table(
        f"chain pre {{ type filter hook prerouting priority mangle; {NO_ACCEPT}; iifname lan0 tcp dport {PORT} drop; }}"),
        cause="nft's tproxy accepts nothing by itself", kind="nft"),
    Setup("policy behind tproxy without accept", in_table(
        "chain pre { type filter hook prerouting priority mangle; policy drop; icmpv6 type { nd-neighbor-solicit, "
        f"nd-neighbor-advert }} accept; {NO_ACCEPT}; }}"), cause="the policy of chain pre", kind="nft"),
    Setup("came with a mark", sh(both("{ip} rule del fwmark 0x1/0x1 lookup 100\n{ip} rule add fwmark 0x1/0x3 lookup 100") +
                                 "\n" + each_tool("-I PREROUTING -j MARK --set-mark 2")), "no_fwmark_rule", "They carry 0x3"),
    Setup("DROP on the device", nft("table netdev early { chain in { type filter hook ingress device lan0 priority 0; "
                                    f"tcp dport {PORT} drop; }}; }}"), cause="Rule 1 of chain in of table early drops"),
    Setup("DROP in raw, legacy", sh(f"iptables-legacy -t raw -A PREROUTING -p tcp --dport {PORT} -j DROP"),
          cause="Rule 1 of chain PREROUTING of table legacy raw drops"),
    Setup("INPUT of legacy", sh("iptables-legacy -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n"
                                "iptables-legacy -P INPUT DROP"), "input_policy", "table legacy filter"),
    Setup("chains of legacy", sh("iptables-legacy -t mangle -N some\niptables-legacy -t mangle -A some -s 192.0.2.1 -j RETURN\n"
                                 "iptables-legacy -t mangle -A some -i lan+ -p tcp -m multiport --dports 80,8000:8100 -j DROP\n"
                                 "iptables-legacy -t mangle -A PREROUTING -s 10.0.0.0/8 -j some"),
          cause="of chain some of table legacy mangle", words=("--on-port", ON_PORT, "--tproxy-mark", "1/1", "--src", "10.77.1.2")),
    Setup("answers dropped", sh("iptables -A OUTPUT -o lo -j ACCEPT\niptables -P OUTPUT DROP"), cause="dropped on its way out"),
    Setup("answers dropped last", nft("table inet o { chain post { type filter hook postrouting priority 0; "
                                      f"tcp sport {PORT} drop; }}; }}"), cause="chain post"),
    Setup("proxy stopped", lambda r: os.kill(r.listener.pid, signal.SIGSTOP), cause="is stopped"),
    Setup("port forward", sh(f"iptables -t nat -A PREROUTING -i lan0 -d 10.77.1.1 -p tcp --dport {PORT} -j DNAT --to 10.77.1.2:80"),
          "own_services_matched", breaks=False),
    Setup("port forward, nft", nft(f"table ip fw {{ chain pre {{ type nat hook prerouting priority dstnat; "
                                   f"fib daddr type local tcp dport {{ 22, {PORT} }} dnat to 10.77.1.2:80; }}; }}"),
          "own_services_matched", kind="nft", breaks=False),
]


@pytest.mark.parametrize("setup", BROKEN, ids=lambda s: s.name.replace(" ", "_"))
def test_broken(make_router, setup):
    router = make_router(kind=setup.kind, server=setup.server).set_up()
    assert router.errors() == [], router.doctor()
    router.words = list(setup.words)
    setup.do(router)
    findings = [f for f in router.doctor() if f["severity"] == "error"]
    assert {f["id"] for f in findings} == {setup.id}, findings
    assert any(setup.cause in f["cause"] for f in findings), findings
    if setup.breaks:
        assert not router.works(setup.family, seconds=1.5), "nothing is broken"
    if setup.mends:
        router.mend()
        assert router.works(setup.family), router.doctor()


HEALTHY = [
    Setup("another target", sh(each_tool(f"-I PREROUTING -p tcp --dport 99 -j TPROXY --on-port {ON_PORT} --tproxy-mark 1/1"))),
    Setup("rules of others for marks", sh(both("{ip} rule add fwmark 0x80000/0xff0000 lookup main priority 5210\n"
                                               "{ip} rule add fwmark 0x80000/0xff0000 unreachable priority 5250"))),
    Setup("a mask of many bits", sh(each_tool("-F PREROUTING") + "\n" + each_tool(
        f"-A PREROUTING {TPROXY} --tproxy-mark 0x2100/0xff00") + "\n" + both("{ip} rule add fwmark 0x2100/0xff00 lookup 100"))),
    Setup("without IPv6", sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")),
    Setup("port forwards of containers", sh(
        "iptables -t nat -N DOCKER\niptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n"
        "iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport 8443 -j DNAT --to 172.17.0.2:443\n"
        "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE")),
    Setup("addresses left out", sh("\n".join(f"iptables -t mangle -I PREROUTING -d {net} -j RETURN" for net in (
        "10.0.0.0/8", "192.168.0.0/16", "198.51.100.0/24", "240.0.0.0/4")))),
    Setup("own addresses left out", sh(each_tool("-I PREROUTING -m addrtype --dst-type LOCAL -j RETURN"))),
    Setup("only what comes from one side", in_table(
        f"chain pre {{ type filter hook prerouting priority mangle; iifname != lan0 return; {NFT_TARGET}; }}"), server=True),
    Setup("established first", sh(each_tool("-N DIVERT") + "\n" + each_tool("-A DIVERT -j MARK --set-mark 1") + "\n" +
                                  each_tool("-A DIVERT -j ACCEPT") + "\n" +
                                  each_tool("-I PREROUTING -p tcp -m socket --transparent -j DIVERT"))),
    Setup("mark set before", sh(each_tool("-F PREROUTING") + "\n" + each_tool(
        f"-A PREROUTING -p tcp --dport {PORT} -j MARK --set-mark 1") + "\n" + each_tool(f"-A PREROUTING {TPROXY}"))),
    Setup("no mark, a rule for the interface", sh(WITHOUT_MARK + "\n" + both("{ip} rule add iif lan0 lookup 100"))),
    Setup("mark from the connection", sh(each_tool("-I PREROUTING -j CONNMARK --restore-mark"))),
    Setup("forward policy drop", sh("iptables -P FORWARD DROP\nip6tables -P FORWARD DROP")),
    Setup("rules of legacy", sh(each_tool("-F PREROUTING") + "\n" + each_tool(
        f"-A PREROUTING -i lan+ {TPROXY} --tproxy-mark 1/1").replace("tables", "tables-legacy"))),
    Setup("some of legacy", sh("iptables-legacy -t mangle -A PREROUTING -s 192.0.2.0/24 -j DROP\n"
                               "iptables-legacy -A INPUT -p udp -j DROP\niptables-legacy -A INPUT -m state --state INVALID -j DROP")),
    Setup("policy in front with exceptions", nft(
        "table inet early { chain pre { type filter hook prerouting priority raw; policy drop; ip saddr 10.0.0.0/8 accept; "
        "ip6 saddr fd00::/8 accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }; }")),
    Setup("mark kept behind", nft(LATE.format("meta mark set meta mark or 0x100")), kind="nft"),
    Setup("tproxy without accept", in_table(
        f"chain pre {{ type filter hook prerouting priority mangle; {NO_ACCEPT}; meta mark 0x40 drop; }}"), kind="nft"),
    Setup("answers to the LAN", sh("iptables -A OUTPUT -o lan0 -j ACCEPT\niptables -A OUTPUT -o lo -j ACCEPT\n"
                                   "iptables -P OUTPUT DROP")),
    Setup("strict rp_filter", sh("echo 1 > /proc/sys/net/ipv4/conf/lan0/rp_filter")),
    Setup("zones", nft("table inet zones { chain pre { type filter hook prerouting priority raw; iifname lan0 ct zone set 5; }; }")),
    Setup("input by state and mark", nft("table inet fw { chain in { type filter hook input priority 0; policy drop; ct state "
                                         "vmap { established : accept, related : accept, invalid : drop }; meta mark 1 accept; "
                                         "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }; }")),
    Setup("input by interface", nft("table inet fw { chain in { type filter hook input priority 0; policy drop; "
                                    "iifname vmap { lan0 : accept, lo : accept }; }; }")),
    Setup("chains by interface", in_table(
        f"chain lan {{ {NFT_TARGET}; }}; chain pre {{ type filter hook prerouting priority mangle; iifname vmap {{ lan0 : jump lan, "
        "wan0 : return }; }"), kind="nft"),
    Setup("interface by number", in_table(
        f"chain pre {{ type filter hook prerouting priority mangle; iif lo accept; iif lan0 {NFT_TARGET}; }}"), kind="nft", server=True),
    Setup("both protocols in a set", in_table(
        f"set nets {{ type ipv4_addr; flags interval; elements = {{ 10.0.0.0/8 }}; }}; chain pre {{ type filter hook prerouting "
        f"priority mangle; ip daddr @nets return; meta nfproto ipv6 ip6 daddr fc00::/7 return; {NFT_TARGET}; }}"), kind="nft"),
]


@pytest.mark.parametrize("setup", HEALTHY, ids=lambda s: s.name.replace(" ", "_"))
def test_healthy(make_router, setup):
    router = make_router(kind=setup.kind, server=setup.server)
    router.set_up()
    setup.do(router)
    assert router.errors() == [], router.doctor()
    assert router.works(), "it does not work"
    assert router.errors() == [], router.doctor()


def test_interface_without_an_address(make_router):
    """It goes by another one's, and works."""
    router = make_router(families=(4,)).set_up()
    router.sh("ip -4 address flush dev lan0\nip address add 10.77.1.1/32 dev lo")
    assert router.errors() == ["not_delivered"], router.doctor()  # nothing leads back
    router.sh("ip route replace 10.77.1.0/24 dev lan0")
    assert router.errors() == [], router.doctor()
    assert router.works()


def test_two_targets_without_a_listener(lab, utproxy):
    """Each is named, though one command would take both away."""
    control, config = f"{lab.directory}/c.sock", f"{lab.directory}/c.toml"
    with open(config, "w", encoding="utf-8") as file:
        file.write("install = true\n" + "".join(
            f'[[target]]\nname = "t{n}"\nqueues = {n}\non_port = {1090 + n}\nmark = "0x{n}/0x3"\n'
            f'match = {{ proto = "tcp", dport = {8080 + n}, iif = "lan0" }}\n' for n in (1, 2)))
    process = lab.router.start(utproxy, "run", "--config", config, "--control", control)
    wait_until(lambda: "utproxy: ready" in process.err(), 20, process.err)
    findings = json.loads(lab.router.run(utproxy, "doctor", "-j", "--control", control, check=False).stdout)["findings"]
    where = {f["where"] for f in findings if f["id"] == "no_listener"}
    assert {"IPv4, lan0, tcp port 1091", "IPv4, lan0, tcp port 1092"} <= where, findings
    assert process.stop() == 0


def test_two_ways_out(make_router):
    """Strict rp_filter at the second provider's interface refuses those whom routing would answer by the first."""
    router = make_router(server=True)
    router.iif = "wan1"
    router.sh("""
        ip link add wan1 type veth peer name far1
        ip address add 10.77.8.1/24 dev wan1
        ip link set far1 up
        ip link set wan1 up
        ip route add default via 10.77.8.2 table 200
        ip rule add from 10.77.8.1 lookup 200
        echo 1 > /proc/sys/net/ipv4/conf/wan1/rp_filter
    """)
    router.families = (4,)
    router.set_up()
    assert router.errors() == ["rp_filter"], router.doctor()
    router.mend()
    router.sh("echo 1 > /proc/sys/net/ipv4/conf/wan0/rp_filter")
    assert router.errors() == [], router.doctor()


def test_martians_of_another_cause(make_router):
    """The counter of refused packets has moved, for a sender that is nobody's here."""
    router = make_router().set_up()
    router.lab.know_each_other()
    router.sh("echo 1 > /proc/sys/net/ipv4/conf/lan0/rp_filter")
    router.lab.client.sh("ip address add 192.0.2.7/32 dev lo\nip route replace default via 10.77.1.1 src 192.0.2.7")
    router.works(seconds=1.5)
    counters = router.space.read("/proc/net/netstat").splitlines()
    at = counters[0].split().index("IPReversePathFilter")
    assert int(counters[1].split()[at]) > 0
    assert router.errors() == [], router.doctor()


def test_one_protocol_lacks_its_listener(lab, make_engine, utproxy):
    """What doctor proposes can be pasted while the daemon runs, and leaves the protocol that has no listener alone."""
    lab.listen("tcp", ON_PORT, family="dual")
    engine = Utproxy(lab, Target("tcp", PORT, on_port=ON_PORT, options=("--proto", "udp")), "install", utproxy).start()
    router = Router(lab, utproxy)
    router.engine = engine
    try:
        wrong = [f for f in router.doctor() if f["severity"] == "error"]
        assert {f["id"] for f in wrong} == {"no_listener"}, wrong
        process = lab.router.start("sh", "-c", wrong[0]["fix"], name="fix")
        wait_until(lambda: "utproxy: ready" in process.err(), 20, process.err)
        router.engine = None
        try:
            assert router.errors() == [], router.doctor()
        finally:
            os.killpg(process.popen.pid, signal.SIGTERM)  # the daemon too, which the shell waits for
    finally:
        router.close()


def test_watch_outlives_the_daemon(lab, utproxy):
    lab.listen("tcp", ON_PORT, family="dual")
    engine = Utproxy(lab, Target("tcp", PORT, on_port=ON_PORT), "rules", utproxy).start()
    watch = lab.router.start(utproxy, "doctor", "--watch", "-j", "--control", engine.control, name="watch")
    events = lambda: [json.loads(line).get("event") for line in watch.out().splitlines()]  # noqa: E731
    wait_until(lambda: len(events()) == 1, 10, "the first look")
    assert engine.stop() == 0
    wait_until(lambda: "daemon_gone" in events(), 10, watch.out)
    engine.launch()
    wait_until(lambda: "daemon_back" in events(), 10, watch.out)
    assert watch.alive()
    watch.popen.send_signal(signal.SIGTERM)
    assert engine.stop() == 0
