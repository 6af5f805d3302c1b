# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways to break a healthy router, one for each thing that `utproxy doctor` names."""
import dataclasses
import os
import signal
import socket

import pytest

from doctor_router import ON_PORT, PORT
from engine import Target, Utproxy
from lab import ASKED, ROUTER, wait_until


@dataclasses.dataclass
class Fault:
    id: str
    do: object  # of a Router
    kind: str = "xt"
    before: object = None  # in place of Router.set_up
    families: tuple = (4, 6)
    iif: str = "lan0"
    protocol: str = "tcp"
    server: bool = False
    severity: str = "error"
    breaks: bool = True  # traffic does not get through until it is mended
    pairs: bool = True   # can be there together with any other one


def both(command):
    return f"{command.format(ip='ip')}\n{command.format(ip='ip -6')}"


def no_listener(r):
    """The proxy listens on another port than the rules say."""
    r.listener.stop()
    r.listen(port=ON_PORT + 1)


def not_transparent(r):
    r.listener.stop()
    r.listen("--opaque")


def listener_address(r):
    r.listener.stop()
    r.families = (4,)
    r.listen(bind="127.0.0.1", family=4)


def rule_removed(r):
    for family in (4, 6):
        connect(r, ASKED[family], PORT)
    r.sh(both("{ip} rule del fwmark 0x1/0x1 lookup 100"))


def mark_overlap(r):
    r.sh(both("{ip} route add unreachable default table 200\n{ip} rule add fwmark 0x1/0xff lookup 200 priority 50"))


def strict_rp_filter(r):
    """Clients whose packets come in by one interface, while the way back to them is by another."""
    r.lab.know_each_other()  # ARP would be refused, too, since it is this sender that asks
    r.lab.client.sh(f"""
        ip link add lan1 type veth peer name lan1 netns {r.space.name}
        ip address add 10.77.3.2/24 dev lan1
        ip link set lan1 up
        ip address add 198.51.100.9/32 dev lo
        ip route replace default via {ROUTER[4]} src 198.51.100.9
    """)
    r.sh("""
        ip address add 10.77.3.1/24 dev lan1
        ip link set lan1 up
        echo 0 > /proc/sys/net/ipv4/conf/lan1/rp_filter
        ip route add 198.51.100.0/24 via 10.77.3.2
        echo 1 > /proc/sys/net/ipv4/conf/lan0/rp_filter
    """)
    r.works(seconds=1.5)  # refused packets are what doctor sees


def own_services(r):
    process = r.lab.listen("tcp", PORT, "--opaque", family="dual", bind="::", report=False)
    r.service = process


def bridged(r):
    r.sh("""
        ip link add br0 type bridge
        ip address del 10.77.1.1/24 dev lan0
        ip address del fd77:1::1/64 dev lan0
        ip link set lan0 master br0
        ip address add 10.77.1.1/24 dev br0
        ip address add fd77:1::1/64 dev br0 nodad
        ip link set br0 up
        sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0
    """)
    r.iif = "br0"
    r.set_up()
    wait_until(lambda: "state UP" in r.sh("ip link show br0"), 20, "the bridge")
    wait_until(lambda: r.works(seconds=1), 20, "the client")


def connect(r, address, port):
    """A connection of the client's that stays; None where it comes to nothing."""
    with r.lab.client.entered():
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.settimeout(3)
    made.connect((address, port))
    r.busy.append(made)


def descriptors(r):
    return len(os.listdir(f"/proc/{r.listener.pid}/fd"))


def out_of_descriptors(r):
    """As many connections as the proxy may have, and they stay."""
    limit = descriptors(r) + 4
    r.sh(f"prlimit --pid {r.listener.pid} --nofile={limit}:")
    for _ in range(4):
        connect(r, ASKED[4], PORT)
    wait_until(lambda: descriptors(r) == limit, 10, "the proxy's descriptors to be used")


def exposed(r):
    connect(r, ROUTER[4], ON_PORT)
    wait_until(lambda: f":{ON_PORT}" in r.sh("ss -Htn state established"), 10, "the connection")


def keep_local_out(r):
    """The rules leave alone what is for the router itself."""
    for tool in ("iptables", "ip6tables"):
        r.sh(f"{tool} -t mangle -I PREROUTING -m addrtype --dst-type LOCAL -j RETURN")


def without_local(r):
    r.set_up()
    keep_local_out(r)


def socket_match(r):
    """Any listener's packets are diverted, here those to a service of the router's own on the same port."""
    r.service = r.lab.listen("tcp", PORT, "--opaque", family="dual", bind="::", report=False)
    r.sh("iptables -t mangle -N DIVERT\n"
         "iptables -t mangle -A DIVERT -j MARK --set-xmark 0x1/0x1\niptables -t mangle -A DIVERT -j ACCEPT\n"
         "iptables -t mangle -I PREROUTING 2 -p tcp -m socket --nowildcard -j DIVERT")


def reply_bind(r):
    code = "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 8080)); time.sleep(600)"
    r.service = r.space.start("python3", "-c", code, name="resolver")
    wait_until(lambda: "8080" in r.sh("ss -Hlnu"), 10, "the other resolver")


OWN = """
    table inet own {
        chain out {
            type TYPE hook output priority mangle;
            EXCEPT
            ip daddr 203.0.113.0/24 tcp dport 8080 meta mark set 0x1
        }
    }"""


def own_traffic(r):
    r.sh(f"iptables -t mangle -A PREROUTING -i lo -p tcp --dport {PORT} -j TPROXY --on-port {ON_PORT} --tproxy-mark 0x1/0x1")
    r.sh("ip route add default via 10.77.1.2")
    r.space.run("nft", "-f", "-", text=OWN.replace("TYPE", "filter").replace("EXCEPT", "meta skuid 0 return"))


def loop(r):
    r.space.run("nft", "-f", "-", text=OWN.replace("TYPE", "route").replace("EXCEPT", ""))


def offload(r):
    rules = ("table inet fast { flowtable f { hook ingress priority 0; devices = { lan0 }; }; "
             "chain forward { type filter hook forward priority 0; meta l4proto tcp flow add @f; }; }")
    if r.space.run("nft", "-f", "-", text=rules, check=False).returncode:
        pytest.skip("this kernel has no flowtables")


# utproxy's queues

def queued(*options):
    def set_up(r):
        r.engine = Utproxy(r.lab, Target(r.protocol, PORT, on_port=ON_PORT, options=options), "rules", r.program).start()
        r.listen()
        if r.protocol == "tcp":
            assert r.works()
    return set_up


def end_reader(r):
    r.engine.stop()
    r.words = ["--queue-num", "0", "--on-port", str(ON_PORT), "--tproxy-mark", "0x1/0x1"]


def stopped(r, packets):
    """The reader stands still while the client sends."""
    os.kill(r.engine.process.pid, signal.SIGSTOP)
    with r.lab.client.entered():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(packets):
        made.sendto(b"x" * 100, (ASKED[4], PORT))
    made.close()


def overflow(r):
    stopped(r, 200)
    wait_until(lambda: int(r.space.read("/proc/net/netfilter/nfnetlink_queue").split()[5]) > 0, 10, "packets to be lost")
    os.kill(r.engine.process.pid, signal.SIGCONT)


def reload(r):
    stopped(r, 50)
    wait_until(lambda: int(r.space.read("/proc/net/netfilter/nfnetlink_queue").split()[2]) >= 50, 10, "packets to wait")
    r.sh("nft add table inet t\nnft add chain inet t c '{ type filter hook input priority 0; }'\nnft delete table inet t")
    os.kill(r.engine.process.pid, signal.SIGCONT)
    wait_until(lambda: r.engine.stats()["losses"]["flushed"] > 0, 10, lambda: f"{r.engine.stats()}")


def fragments(r):
    r.size = 5000
    r.works(seconds=1)
    wait_until(lambda: r.engine.reason("fragment") > 0, 10, "fragments to be refused")


FAULTS = [
    Fault("no_fwmark_rule", lambda r: r.sh(both("{ip} rule del fwmark 0x1/0x1 lookup 100"))),
    Fault("no_local_route", lambda r: r.sh(both("{ip} route flush table 100"))),
    Fault("rule_removed", rule_removed),
    Fault("no_listener", no_listener),
    Fault("not_transparent", not_transparent),
    Fault("listener_address", listener_address, families=(4,)),
    Fault("src_valid_mark", lambda r: r.sh("sysctl -qw net.ipv4.conf.lan0.src_valid_mark=1")),
    Fault("input_policy", lambda r: r.sh("iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
                                         "iptables -A INPUT -i lo -j ACCEPT\niptables -P INPUT DROP")),
    Fault("mark_overlap", mark_overlap),
    Fault("ipv6_missing", lambda r: r.sh("ip -6 rule del fwmark 0x1/0x1 lookup 100")),
    Fault("rp_filter", strict_rp_filter),
    Fault("own_services_matched", own_services, breaks=False),
    Fault("br_netfilter", lambda r: r.sh("sysctl -qw net.bridge.bridge-nf-call-iptables=1 "
                                         "net.bridge.bridge-nf-call-ip6tables=1"), before=bridged, iif="br0"),
    Fault("own_traffic_not_proxied", own_traffic, breaks=False),
    Fault("loop", loop, breaks=False),
    Fault("reply_bind_conflict", reply_bind, before=without_local, families=(4,), protocol="udp"),
    Fault("socket_match_hijack", socket_match, before=without_local),
    Fault("fd_limit", out_of_descriptors),
    Fault("flow_offload", offload, breaks=False),
    Fault("listener_on_port_exposed", exposed, breaks=False),
    Fault("queue_unbound", end_reader, before=queued()),
    Fault("queue_overflow", overflow, before=queued("--queue-maxlen", "4"), protocol="udp", breaks=False),
    Fault("ruleset_reload_loss", reload, before=queued(), protocol="udp", breaks=False, severity="warning"),
    Fault("fragments", fragments, before=queued(), protocol="udp"),
]
# What cannot be made to happen in a namespace is tried with a made-up view in tests/diagnose/doctor_test.cc: conntrack_full,
# since nf_conntrack_max can be written in the first namespace alone, and kernel_feature_missing.
FAKED = ["conntrack_full", "kernel_feature_missing"]
