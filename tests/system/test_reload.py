# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGHUP: from one configuration to another with no packet lost, undecided, or decided by half of each."""
import json
import signal

import pytest

from configured import Configured
from engine import leftovers
from lab import ASKED, endpoint, wait_until

FIRST, SECOND, WEB = 8080, 8081, 80  # ports that clients ask for

# Queue 0 serves the first port in A and the second in B, queue 1 another listener in each; queue 2 comes and goes. Their
# marks and the listeners' ports differ, and the second port is only proxied in B. The third target is the same in both.


def table(name, queues, on_port, mark, match, more=""):
    return (f'[[target]]\nname = "{name}"\ninstall = true\nqueues = {queues}\non_port = {on_port}\nmark = "{mark}"\n{more}'
            f'match = {{ {match}, iif = "lan0" }}\n')


COMMON = table("web", 5, 13000, "0x8/0x8", f'proto = "tcp", dport = {WEB}')
A = table("a", '"0:1"', 12345, "0x1/0x7", f'proto = "udp", dport = {FIRST}') + COMMON
B = (table("b", '"1:2"', 12346, "0x2/0x7", f'proto = "udp", dport = {FIRST}', "table = 102\n")
     + table("c", 0, 12347, "0x4/0x7", f'proto = "udp", dport = {SECOND}') + COMMON)

COUNTERS = "table inet tally {\n" + "".join(
    f"""chain {hook} {{ type filter hook {hook} priority {priority};
        iifname "lan0" udp dport {FIRST} counter; iifname "lan0" udp dport {SECOND} counter; }}\n"""
    for hook, priority in (("prerouting", "raw"), ("input", "filter"), ("forward", "filter"))) + "}"


def counted(space):
    """{hook: [first, second]}"""
    text = space.run("nft", "list", "table", "inet", "tally").stdout
    numbers = [int(line.split("packets ")[1].split()[0]) for line in text.splitlines() if "packets" in line]
    return {hook: numbers[2 * i:2 * i + 2] for i, hook in enumerate(("prerouting", "input", "forward"))}


@pytest.fixture
def configured(request, utproxy):
    made = []

    def make(lab, text, *options):
        made.append(Configured(lab, utproxy, text, *options))
        return made[-1]

    yield make
    for daemon in made:
        if daemon.process.alive():
            assert daemon.stop() == 0, daemon.process.err()


def senders(lab):
    return [lab.client.start(lab.traffic, "udp-client", "--to", endpoint(ASKED[4], port), "--no-answer", "--pause-us", "100",
                             "--count", 100000000, "--seconds", 120) for port in (FIRST, SECOND)]


@pytest.mark.load
@pytest.mark.parametrize("fast_path", ["none", "divert"])
def test_twenty_reloads_under_traffic(make_lab, configured, fast_path):
    lab = make_lab(server=True)
    lab.router.run("nft", "-f", "-", text=COUNTERS)
    listeners = {port: lab.listen("udp", port, "--silent", report=False) for port in (12345, 12346, 12347)}
    lab.listen("tcp", 13000, report=False)
    first, second = (f'fast_path = "{fast_path}"\n' + text for text in (A, B))
    daemon = configured(lab, first)
    clients = senders(lab)
    web = lab.client.start(lab.traffic, "tcp-client", "--to", endpoint(ASKED[4], WEB), "--connections", 100000000,
                           "--concurrency", 4, "--keep-going", "--seconds", 120)
    for number in range(20):
        before = counted(lab.router)["prerouting"]
        daemon.reload((second, first)[number % 2])
        assert daemon.stats()["configuration"] == number + 2
        wait_until(lambda: all(now > then + 200 for now, then in zip(counted(lab.router)["prerouting"], before)), 20, "packets")
    for client in clients:
        client.stop()
    connections = web.summary()
    assert connections["ok"] > 100 and connections["failed"] == 0 and connections["errors"] == {}, connections

    def balanced():
        now = counted(lab.router)
        return now["prerouting"] == [i + f for i, f in zip(now["input"], now["forward"])]

    wait_until(balanced, 5, lambda: f"{counted(lab.router)} to balance")
    assert counted(lab.router)["forward"][0] == 0, "the first port is proxied in both"
    assert counted(lab.router)["forward"][1] > 0 and counted(lab.router)["input"][1] > 0
    stats = daemon.stats()
    assert not any(stats["losses"].values()), stats["losses"]
    assert all(queue["depth"] == 0 for queue in stats["queues"]), stats["queues"]
    assert stats["verdicts"]["accept"] == stats["packets"] == sum(stats["reasons"].values()), stats
    if fast_path == "none":
        tcp = stats["targets"]["web"]["packets"]
        assert stats["packets"] - tcp == sum(counted(lab.router)["input"]), stats
    seen = {port: set(listener.summary()["destinations"]) for port, listener in listeners.items()}
    asked = {port: {endpoint(ASKED[4], port)} for port in (FIRST, SECOND)}
    assert seen == {12345: asked[FIRST], 12346: asked[FIRST], 12347: asked[SECOND]}
    assert daemon.stop() == 0 and leftovers(lab.router) == []


def test_stats_stay_with_the_target_that_they_are_of(lab, configured):
    for port in (12345, 12346, 12347):
        lab.listen("udp", port, report=False)
    daemon = configured(lab, A)
    lab.ask("udp", endpoint(ASKED[4], FIRST), "--count", 10)
    assert daemon.stats()["targets"]["a"]["packets"] == 10
    daemon.reload(B)
    lab.ask("udp", endpoint(ASKED[4], FIRST), "--count", 5)
    lab.ask("udp", endpoint(ASKED[4], SECOND), "--count", 3)
    stats = daemon.stats()
    assert {name: target["packets"] for name, target in stats["targets"].items()} == {"b": 5, "c": 3, "web": 0}
    assert stats["packets"] == 18 and {q["queue"]: q["target"] for q in stats["queues"]} == {0: "c", 1: "b", 2: "b", 5: "web"}
    daemon.reload(A)
    lab.ask("udp", endpoint(ASKED[4], FIRST), "--count", 1)
    stats = daemon.stats()
    assert {name: target["packets"] for name, target in stats["targets"].items()} == {"a": 1, "web": 0}
    assert stats["packets"] == 19


def test_a_trace_goes_on_with_what_decided(lab, configured, utproxy):
    """Records are explained by the target of their time, also those of queues that came later."""
    for port in (12345, 12346):
        lab.listen("udp", port, report=False)
    daemon = configured(lab, A)
    trace = lab.router.start(utproxy, "trace", "-j", "--count", 6, "--control", daemon.control)
    wait_until(lambda: daemon.said("ready"), 5)
    wait_until(lambda: lab.ask("udp", endpoint(ASKED[4], FIRST)) and trace.out(), 10, "the trace to begin")
    daemon.reload(B)
    while trace.alive():
        lab.ask("udp", endpoint(ASKED[4], FIRST))
    records = [json.loads(line) for line in trace.out().splitlines()]
    assert {(r["target"], r["lport"]) for r in records} == {("a", 12345), ("b", 12346)}
    for record in records:
        [listener] = [step for step in record["steps"] if step["step"] == "listener"]
        assert str(record["lport"]) in listener["why"] or str(record["lport"]) in json.dumps(listener), record
    last = lab.router.run(utproxy, "trace", "-j", "--last", 100, "--control", daemon.control).stdout
    assert {json.loads(line)["target"] for line in last.splitlines()} >= {"b"}


def test_a_queue_of_another_program_refuses_the_reload(lab, configured, utproxy):
    lab.listen("udp", 12345, report=False)
    daemon = configured(lab, A)
    other = lab.router.start(utproxy, "run", "--queue-num", 2, "--on-port", 1, "--control", daemon.control + ".other")
    wait_until(lambda: "ready" in other.err(), 10)
    rules = lab.router.run("nft", "-s", "list", "ruleset").stdout
    assert "queue 2" in daemon.refuse(B)
    assert lab.router.run("nft", "-s", "list", "ruleset").stdout == rules
    assert daemon.stats()["configuration"] == 1
    assert lab.ask("udp", endpoint(ASKED[4], FIRST), "--count", 5)["answered"] == 5
    assert other.stop() == 0
    daemon.reload(B)


def test_rules_come_and_go(lab, configured):
    """To no installed target, and back."""
    lab.listen("udp", 12345, report=False)
    daemon = configured(lab, A.replace("install = true", "install = false"))
    assert leftovers(lab.router) == []
    daemon.reload(A)
    assert lab.ask("udp", endpoint(ASKED[4], FIRST), "--count", 5)["answered"] == 5
    daemon.reload(A.replace("install = true", "install = false"))
    assert "queue" not in lab.router.run("nft", "list", "ruleset").stdout
    assert "fwmark" not in lab.router.run("ip", "rule").stdout
    daemon.reload(A)
    assert lab.ask("udp", endpoint(ASKED[4], FIRST), "--count", 5)["answered"] == 5
    assert daemon.stop() == 0 and leftovers(lab.router) == []


def test_what_waits_for_a_restart_is_said(lab, configured):
    daemon = configured(lab, A)
    said = daemon.reload('steer = "none"\n' + A.replace("on_port = 12345", "on_port = 12345\nqueue_maxlen = 5"))
    assert "utproxy: steer: changes with a restart" in said
    assert "utproxy: target a: queue 0 is open: queue_maxlen" in said


def test_sighup_without_a_file(lab, utproxy):
    process = lab.router.start(utproxy, "run", "--on-port", 1, "--control", lab.directory + "/c.sock")
    wait_until(lambda: "ready" in process.err(), 10)
    process.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: "came from the command line" in process.err(), 10)
    assert process.stop() == 0
