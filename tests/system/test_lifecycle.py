# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, end, sudden end: nothing of ours stays, nothing of the user's goes, no packet is lost on the way out."""
import signal

import pytest

from engine import Target, Utproxy, leftovers
from lab import ASKED, endpoint, wait_until

PORT, ON_PORT = 8080, 12345
TARGET = Target("udp", PORT, on_port=ON_PORT)

USERS_OWN = """
    table inet mine {
        chain input { type filter hook input priority filter; policy accept; udp dport 9 counter drop; }
    }"""


def state_of(space):
    """The namespace's rules and routes, but for counters."""
    parts = [space.run("nft", "-s", "list", "ruleset").stdout]
    for family in ("-4", "-6"):
        parts += [space.run("ip", family, "rule").stdout, space.run("ip", family, "route", "show", "table", "all").stdout]
    return "\n".join(parts)


def exchange(lab, count=10, family=4):
    answer = lab.ask("udp", endpoint(ASKED[family], PORT), "--count", count)
    assert (answer["answered"], answer["errors"]) == (count, {}), answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end_leaves_nothing(lab, make_engine, number):
    lab.router.run("nft", "-f", "-", text=USERS_OWN)
    lab.router.sh("ip rule add fwmark 0x77 lookup 77; ip route add 198.51.100.0/24 dev lan0 table 100")
    before = state_of(lab.router)
    lab.listen("udp", ON_PORT)
    engine = make_engine("install", lab, TARGET)
    assert state_of(lab.router) != before
    exchange(lab)
    assert engine.stop(number) == 0
    assert state_of(lab.router) == before


def test_users_same_rule_and_route_stay(lab, make_engine):
    """The user's own rule and route, equal to those that --install would add, are still there afterwards."""
    lab.router.sh("""
        ip rule add fwmark 0x1/0x1 lookup 100
        ip route add local default dev lo table 100
    """)
    before = state_of(lab.router)
    lab.listen("udp", ON_PORT)
    engine = make_engine("install", lab, TARGET)
    exchange(lab)
    assert engine.stop() == 0
    assert state_of(lab.router) == before


def test_kill_and_next_start(lab, make_engine):
    before = state_of(lab.router)
    lab.listen("udp", ON_PORT)
    engine = make_engine("install", lab, TARGET)
    exchange(lab)
    engine.stop(signal.SIGKILL)
    wait_until(lambda: "utproxy" not in lab.router.run("nft", "list", "ruleset").stdout, 5, "the table to go")
    engine.launch()
    exchange(lab)
    assert engine.stop() == 0
    assert state_of(lab.router) == before and leftovers(lab.router) == []


def test_kill_many_times(lab, make_engine):
    """No start after a sudden end adds a second rule or route."""
    lab.listen("udp", ON_PORT)
    engine = make_engine("install", lab, TARGET)
    once = state_of(lab.router)
    for _ in range(3):
        engine.stop(signal.SIGKILL)
        engine.launch()
    assert state_of(lab.router) == once
    assert engine.stop() == 0
    assert leftovers(lab.router) == []


def test_second_run_is_refused(lab, make_engine, utproxy):
    """A second daemon on the same queue fails with its reason and takes nothing of the first away."""
    lab.listen("udp", ON_PORT)
    make_engine("install", lab, TARGET)
    exchange(lab)
    before = state_of(lab.router)
    second = Utproxy(lab, TARGET, "install", utproxy)
    second.control += ".second"
    done = lab.router.run(*second.argv(), check=False)
    assert done.returncode == 1 and done.stderr.startswith("utproxy: ")
    assert state_of(lab.router) == before
    exchange(lab)


COUNTERS = f"""
    table inet tally {{
        chain pre {{ type filter hook prerouting priority raw; iifname "lan0" udp dport {PORT} counter; }}
        chain input {{ type filter hook input priority filter; iifname "lan0" udp dport {PORT} counter; }}
        chain forward {{ type filter hook forward priority filter; iifname "lan0" udp dport {PORT} counter; }}
    }}"""


def counted(space):
    text = space.run("nft", "list", "table", "inet", "tally").stdout
    return [int(line.split("packets ")[1].split()[0]) for line in text.splitlines() if "packets" in line]


@pytest.mark.parametrize("queues", [1, 2])
@pytest.mark.parametrize("round_number", range(3))
def test_end_under_traffic_loses_no_packet(make_lab, make_engine, queues, round_number):
    """Every datagram that came in was delivered by us or, once the rules had gone, forwarded."""
    lab = make_lab(server=True)
    lab.router.run("nft", "-f", "-", text=COUNTERS)
    lab.listen("udp", ON_PORT, "--silent", report=False)
    engine = make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT, queues=queues))
    flood = lab.client.start(lab.traffic, "udp-client", "--to", endpoint(ASKED[4], PORT), "--no-answer",
                             "--count", 2000000, "--seconds", 60)
    wait_until(lambda: counted(lab.router)[1] > 5000, 20, "packets at the listener")
    assert engine.stop() == 0
    wait_until(lambda: counted(lab.router)[2] > 100, 20, "packets that are forwarded")
    flood.stop()
    wait_until(lambda: counted(lab.router)[0] == sum(counted(lab.router)[1:]), 3, lambda: f"{counted(lab.router)} to balance")
    came, delivered, passed = counted(lab.router)
    assert came == delivered + passed
    assert leftovers(lab.router) == []


def test_out_of_descriptors(lab, utproxy, tmp_path):
    """Whichever open is the first that fails: too low a limit is said to be that, and no fault of the kernel's."""
    words = [utproxy, "run", "--queue-num", 9, "--on-port", 1, "--control", tmp_path / "control.sock"]
    said = {}
    for limit in range(6, 20):
        done = lab.router.run("bash", "-c", f'ulimit -n {limit}; exec timeout 20 "$@"', "bash", *words, check=False)
        assert done.returncode == 1, (limit, done)
        said[limit] = done.stderr.splitlines()[0]
    assert all("Too many open files" in line for line in said.values()), said
    assert any("load the sk_lookup program: " in line for line in said.values()), said
