# SPDX-License-Identifier: GPL-3.0-or-later
"""HAProxy and Squid between a LAN and a web server, transparent on both sides."""
import re
import time

import pytest

from engine import leftovers
from lab import ASKED, CLIENT, endpoint, source, wait_until
from stock import Downloads, HaProxy, Nginx, Squid, curl, errors_found, example, intact_downloads, need

PROXIES = {"haproxy": HaProxy, "squid": Squid}
SIZE = 10_000_000
both = pytest.mark.parametrize("kind", PROXIES)
families = pytest.mark.parametrize("family", [4, 6])


def url(family, path, port=80):
    return f"http://{endpoint(ASKED[family], port)}{path}"


@families
@both
def test_the_server_sees_the_client(lab, intercept, kind, family):
    """Each of three clients by its own address, in one connection of two requests; by plain Debian packages."""
    origin = Nginx(lab.server).start()
    PROXIES[kind](lab.router).start()
    utproxy = intercept(lab, example(f"{kind}.toml"))
    assert errors_found(lab, utproxy) == []
    for number in range(3):
        done = curl(lab.client, "-g", "--interface", source(family, number), url(family, "/hello"), url(family, "/hello"),
                    "-w", "%{num_connects}\n")
        assert done.stdout == "hello\n1\nhello\n0\n"
    assert [words[0] for words in origin.seen()] == [source(family, n) for n in range(3) for _ in range(2)]
    assert utproxy.stop() == 0
    assert leftovers(lab.router) == []


@both
def test_it_is_the_proxy(lab, intercept, kind):
    """A server that does not answer is answered for by the proxy, and one the client may not ask by it, too."""
    PROXIES[kind](lab.router).start()
    intercept(lab, example(f"{kind}.toml"))
    done = curl(lab.client, "-o", "/dev/null", "-w", "%{http_code}", url(4, "/hello"), check=False)
    assert done.stdout in ("502", "503"), done


def test_without_divert_replies_answers_are_lost(lab, intercept):
    """The control: what the server sends to the client's address is forwarded to the client, who has no such connection."""
    Nginx(lab.server).start()
    HaProxy(lab.router).start()
    utproxy = intercept(lab, example("haproxy.toml").replace("divert_replies = true", ""))
    assert curl(lab.client, "-m", "3", url(4, "/hello"), check=False).returncode == 28
    utproxy.reload(example("haproxy.toml"))
    assert curl(lab.client, url(4, "/hello")).stdout == "hello\n"


@families
@both
def test_large_downloads(lab, intercept, kind, family):
    origin = Nginx(lab.server).start()
    file = origin.generate("big", SIZE)
    PROXIES[kind](lab.router).start()
    intercept(lab, example(f"{kind}.toml"))
    assert intact_downloads(lab.client, url(family, "/big"), file, 20, 20, CLIENT[family]) == (20, "")
    assert origin.clients() == {CLIENT[family]}


@pytest.mark.load
@both
def test_500_downloads_at_once(lab, intercept, kind):
    """Each of 10 MB, compared byte by byte."""
    origin = Nginx(lab.server).start()
    file = origin.generate("big", SIZE)
    proxy = PROXIES[kind](lab.router).start()
    utproxy = intercept(lab, example(f"{kind}.toml"))
    began = time.monotonic()
    whole, errors = intact_downloads(lab.client, url(4, "/big"), file, 500, 500, CLIENT[4])
    print(f"{kind}: 500 downloads of {SIZE} bytes in {time.monotonic() - began:.1f} s")
    assert (whole, errors) == (500, "")
    assert len(origin.seen()) == 500 and origin.clients() == {CLIENT[4]}
    assert proxy.process.alive() and utproxy.process.alive()


FORWARDED = """
    nft add table inet watch
    nft 'add chain inet watch forward { type filter hook forward priority filter; }'
    nft add rule inet watch forward iifname lan0 tcp dport 80 counter
    nft add rule inet watch forward iifname lan0 tcp dport 81 counter
"""


def forwarded(lab):
    """How many of the clients' packets to ports 80 and 81 went past the proxy."""
    return [int(number) for number in re.findall(r"packets (\d+)", lab.router.run("nft", "list", "table", "inet", "watch").stdout)]


def connections(lab, state):
    """How many the client has to port 80 in this state."""
    return len(lab.client.run("ss", "-Htn", "state", state, "dport = :80").stdout.splitlines())


@pytest.mark.load
@families
@both
def test_a_restart_among_500_downloads(lab, intercept, kind, family):
    """1,000 downloads, 500 at a time, of 2 MB that take ten seconds, and five past the proxy. It is killed when most of the first
    500 are on their way (of a slow machine, when a hundred have ended), and started again: those that were open end, at once; all
    others are whole, whether they began while no proxy was there or later, and none of them went past it."""
    origin = Nginx(lab.server, (80, 81)).start()
    file = origin.generate("file", 2_000_000)
    proxy = PROXIES[kind](lab.router).start()
    utproxy = intercept(lab, example(f"{kind}.toml"))
    lab.router.sh(FORWARDED)
    past = Downloads(lab.client, url(family, "/slow/file", 81), file, 15, 5, 100)
    through = Downloads(lab.client, url(family, "/slow/file"), file, 1000, 500, 100)
    wait_until(lambda: connections(lab, "established") >= 450 or len(through.done()) >= 100, 60, "the first downloads to begin")
    opened = connections(lab, "established")
    before = time.time()
    proxy.process.stop(9)
    killed = time.time()
    wait_until(lambda: connections(lab, "syn-sent") >= 50, 30, "others to ask while no proxy is there")
    proxy.start()
    listens = time.time()
    done = through.wait()
    failed = [each for each in done if each.status]
    between = [each for each in done if killed < each.began < listens]
    print(f"{kind}, IPv{family}: away for {listens - killed:.2f} s, {opened} were open, {len(failed)} failed, the last after "
          f"{max(each.ended for each in failed) - killed:.2f} s; {len(between)} began meanwhile, "
          f"{len([each for each in done if each.began > listens])} later; {time.time() - done[0].began:.1f} s in all")
    assert len(failed) >= opened / 2
    assert [each for each in failed if each.began > killed or each.ended < before] == []
    assert [each for each in failed if each.status == 28] == [], "none hangs"
    assert all(each.whole for each in done if not each.status)
    assert between and [each for each in done if each.began > listens]
    assert all(each.whole for each in past.wait())
    direct, control = forwarded(lab)
    assert direct == 0 and control > 15
    assert utproxy.process.alive() and proxy.process.alive()


@both
def test_a_restart_ends_its_own_connections_only(lab, intercept, kind):
    """Five slow downloads by way of the proxy, five past it: when it is killed and started again, the first five end and no
    others; whoever asks meanwhile gets his answer when it is back."""
    origin = Nginx(lab.server, (80, 81)).start()
    file = origin.generate("slow", 2_000_000)
    proxy = PROXIES[kind](lab.router).start()
    intercept(lab, example(f"{kind}.toml"))

    def slowly(port, number=5):
        words = [need("curl"), "-sS", "-m", "100", "--noproxy", "*", url(4, "/slow/slow", port)]
        return [lab.client.start(*words, name="curl") for _ in range(number)]

    through, past = slowly(80), slowly(81)
    wait_until(lambda: all(each.out_path.stat().st_size for each in through + past), 20, "all downloads to begin")
    proxy.process.stop(9)
    wait_until(lambda: not any(each.alive() for each in through), 20, "the proxy's connections to end")
    meanwhile = lab.client.start(need("curl"), "-sS", "-m", "60", "--noproxy", "*", url(4, "/hello"), name="curl")
    time.sleep(0.2)
    assert meanwhile.alive()
    proxy.start()
    assert curl(lab.client, url(4, "/hello")).stdout == "hello\n"
    assert meanwhile.popen.wait(60) == 0 and meanwhile.out() == "hello\n"
    assert all(each.popen.returncode != 0 for each in through)
    assert [each.popen.wait(60) for each in past] == [0] * 5
    assert all(each.out_path.read_bytes() == file.read_bytes() for each in past)


def test_a_reload_ends_no_connection(lab, intercept):
    """HAProxy's own way: the new process takes over the port, the old one ends with its last connection."""
    origin = Nginx(lab.server).start()
    file = origin.generate("slow", 1_000_000)
    old = HaProxy(lab.router).start()
    intercept(lab, example("haproxy.toml"))
    words = [need("curl"), "-sS", "-m", "60", "--noproxy", "*", url(4, "/slow/slow")]
    downloads = [lab.client.start(*words, name="curl") for _ in range(5)]
    wait_until(lambda: all(each.out_path.stat().st_size for each in downloads), 20, "all downloads to begin")
    lab.router.start(*old.argv(), "-sf", old.process.pid, name="haproxy-new")
    for _ in range(30):
        assert curl(lab.client, url(4, "/hello")).stdout == "hello\n"
    assert [each.popen.wait(60) for each in downloads] == [0] * 5
    assert all(each.out_path.read_bytes() == file.read_bytes() for each in downloads)
    assert old.process.popen.wait(20) == 0


@both
def test_behind_masquerade(lab, intercept, kind):
    """A home router, which translates what leaves by its uplink: the server sees the router's address, and its answers, for
    the router before translation, still come to the proxy."""
    lab.router.sh("""
        nft add table inet nat
        nft 'add chain inet nat post { type nat hook postrouting priority srcnat; }'
        nft add rule inet nat post oifname wan0 masquerade
    """)
    origin = Nginx(lab.server).start()
    PROXIES[kind](lab.router).start()
    intercept(lab, example(f"{kind}.toml"))
    for family, own in ((4, "10.77.2.1"), (6, "fd77:2::1")):
        assert curl(lab.client, "-g", url(family, "/hello")).stdout == "hello\n"
        assert origin.seen()[-1][0] == own


# What the manual page of `utproxy run` says for rules of one's own, and iptables' way.
OWN = {
    "nft": """
        nft add table inet mangle
        nft 'add chain inet mangle prerouting { type filter hook prerouting priority mangle + 1; }'
        nft 'add rule inet mangle prerouting tcp flags & (fin|syn|rst|ack) != syn socket wildcard 1 return'
        nft 'add rule inet mangle prerouting tcp flags & (fin|syn|rst|ack) != syn socket transparent 1 meta mark set 1'
    """,
    "iptables": """
        for t in iptables ip6tables; do
            $t -t mangle -A PREROUTING -p tcp -m socket --transparent -j MARK --set-mark 1
        done
    """,
}


@pytest.mark.parametrize("way", OWN)
@both
def test_rules_of_ones_own(lab, intercept, kind, way):
    """Without --install, in the classic words."""
    origin = Nginx(lab.server).start()
    proxy = PROXIES[kind](lab.router).start()
    lab.router.sh("""
        for t in iptables ip6tables; do $t -t mangle -A PREROUTING -i lan0 -p tcp --dport 80 -j NFQUEUE --queue-num 0; done
        for f in -4 -6; do
            ip $f rule add fwmark 1 lookup 100
            ip $f route add local default dev lo table 100
        done
    """ + OWN[way])
    intercept(lab, f"[[target]]\nname = 'web'\non_port = {proxy.ports[0]}\nmark = 1\n")
    for family in (4, 6):
        for number in range(3):
            done = curl(lab.client, "-g", "--interface", source(family, number), url(family, "/hello"))
            assert (done.stdout, origin.seen()[-1][0]) == ("hello\n", source(family, number))
