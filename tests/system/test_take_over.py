# SPDX-License-Identifier: GPL-3.0-or-later
"""One daemon goes on for another: by --take-over, and, where a service manager keeps what it has, after SIGUSR2 and kill -9.
No packet is lost or leaks, whatever the load does meanwhile."""
import json
import os
import signal
import socket
import subprocess
import time

import pytest

from configured import Configured
from engine import Target, leftovers, queued_by_queue
from failing import Flow
from keeper import Keeper
from lab import wait_until

PORT, ON_PORT = 8080, 12345
LOST = ("queue_full", "netlink_overrun", "flushed", "interface_down", "verdict_errors", "verdicts_unsent", "receive_errors", "malformed")


def target(*options, **words):
    return Target("udp", PORT, on_port=ON_PORT, options=options, **words)


@pytest.fixture
def router(make_lab):
    return make_lab(server=True)


@pytest.fixture
def keeper(router):
    made = Keeper(router)
    yield made
    made.close()


def taken_over(engine, *words):
    """Another process in its place; the earlier one must end by itself."""
    before = engine.process
    engine.process = engine.lab.router.start(*engine.argv(), "--take-over", *words, name="utproxy")
    wait_until(engine._is_ready, 20, "the next one to be ready")
    assert before.popen.wait(10) == 0, before.err()
    assert before.err().endswith("utproxy: another utproxy has taken over\n")


def nothing_lost(flow, engine):
    assert flow.leaked == {} and flow.lost() == 0, (len(flow.leaked), flow.lost())
    assert {name: engine.stats()["losses"][name] for name in LOST} == dict.fromkeys(LOST, 0)


@pytest.mark.parametrize("kind", ["rules", "install", "divert"])
@pytest.mark.parametrize("family", [4, 6])
def test_take_over(router, make_engine, kind, family):
    engine = make_engine(kind, router, target(queues=2))
    with Flow(router, PORT, ON_PORT, family=family, interval=0.0005) as flow:
        wait_until(lambda: len(flow.proxied) > 50, 10, "packets")
        for _ in range(4):
            taken_over(engine)
            count = len(flow.proxied)
            wait_until(lambda: len(flow.proxied) > count + 20, 10, "packets")
    nothing_lost(flow, engine)
    assert engine.stop() == 0
    if kind != "rules":
        assert leftovers(router.router) == []


def test_flow_entries_live_on(router, make_engine):
    """An entry of the first daemon is the second one's to end, and leads packets without a new one."""
    engine = make_engine("install", router, target())
    with Flow(router, PORT, ON_PORT) as flow:
        wait_until(lambda: len(flow.proxied) > 50, 10, "packets")
    before = engine.stats()["steering"]
    assert before["entries"] == 1
    taken_over(engine)
    after = engine.stats()["steering"]
    assert (after["entries"], after["inserted"]) == (1, 0)
    assert after["steered"] >= before["steered"] > 0  # the program's counts are the same ones


def test_metrics_are_served_on(router, make_engine):
    """By the same socket: who connects meanwhile is answered."""
    engine = make_engine("install", router, target("--metrics", "9101"))
    for _ in range(3):
        taken_over(engine)
        with router.router.entered():
            with socket.create_connection(("127.0.0.1", 9101), timeout=5) as s:
                s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                assert b"200 OK" in s.recv(4096)


def test_another_configuration(router, utproxy):
    """Other queues, marks and listeners with the next process: each packet is decided by whose rules queued it."""
    text = '[[target]]\nname = "{}"\ninstall = true\nqueues = {}\non_port = {}\nmark = "{}/0x3"\nqueue_maxlen = {}\n' \
           f'match = {{{{ proto = "udp", dport = {PORT}, iif = "lan0" }}}}\n'
    daemon = Configured(router, utproxy, text.format("a", '"0:1"', ON_PORT, "0x1", 5000))
    with Flow(router, PORT, ON_PORT, interval=0.0005) as flow, Flow(router, PORT + 1, ON_PORT + 1):
        wait_until(lambda: len(flow.proxied) > 50, 10, "packets")
        before = daemon.process
        daemon.path.write_text(text.format("b", '"1:2"', ON_PORT, "0x2", 6000))
        daemon.process = router.router.start(utproxy, "run", "--config", daemon.path, "--control", daemon.control,
                                             "--take-over", name="utproxy")
        wait_until(lambda: daemon.said("utproxy: ready"), 20, lambda: daemon.process.err())
        assert before.popen.wait(10) == 0
        count = len(flow.proxied)
        wait_until(lambda: len(flow.proxied) > count + 50, 10, "packets")
    assert (flow.leaked, flow.lost()) == ({}, 0)
    assert sorted(queued_by_queue(router.router)) == [1, 2]
    assert list(daemon.stats()["targets"]) == ["b"]
    assert daemon.stop() == 0
    assert leftovers(router.router) == []


def test_one_that_fails_leaves_the_other_as_it_was(router, make_engine, utproxy):
    engine = make_engine("install", router, target())
    with Flow(router, PORT, ON_PORT, interval=0.0005) as flow:
        wait_until(lambda: len(flow.proxied) > 50, 10, "packets")
        words = engine.argv()
        # Before it has asked, and with the queues paused: a queue that another program holds can't be bound.
        wrong = router.router.run(*words, "--take-over", "--metrics", "192.0.2.1:9101", check=False)
        assert wrong.returncode == 1 and "192.0.2.1" in wrong.stderr
        # Gone between "go" and "done".
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(engine.control)
            s.sendall(b'{"command": "take_over"}\n')
            lines, fds, _, _ = socket.recv_fds(s, 65536, 64)
            while b"estate" not in lines:
                more, got, _, _ = socket.recv_fds(s, 65536, 64)
                lines, fds = lines + more, fds + got
            # Nobody else may meanwhile.
            other = router.router.run(*words, "--take-over", check=False)
            assert other.returncode == 1 and "another one is about to take over" in other.stderr
            s.sendall(b'{"go": true}\n')
            while b"paused" not in lines:
                lines += s.recv(4096)
        for fd in fds:
            socket.close(fd)
        count = len(flow.proxied)
        wait_until(lambda: len(flow.proxied) > count + 50, 10, "packets")
    nothing_lost(flow, engine)
    taken_over(engine)


def test_where_none_runs(router, utproxy, make_engine):
    none = router.router.run(utproxy, "run", "--on-port", "1", "--tproxy-mark", "1", "--take-over", "--control",
                             f"{router.directory}/none.sock", check=False)
    assert none.returncode == 1 and "none runs there" in none.stderr
    # One of another network namespace.
    engine = make_engine("install", router, target())
    other = router.client.run(*engine.argv(), "--take-over", check=False)
    assert other.returncode == 1 and "another network namespace" in other.stderr


def test_only_for_root_and_the_daemons_user(router, make_engine):
    """The group may read, and no more."""
    os.chmod(router.directory, 0o755)
    engine = make_engine("install", router, target("--control-group", "65534"))
    ask = 'import socket; s = socket.socket(socket.AF_UNIX); s.connect("{}"); s.sendall(b\'{{"command": "take_over"}}\\n\'); ' \
          'd = b""\nwhile b"error" not in d and b"estate" not in d: d += s.recv(4096)\nprint(d.decode())'
    done = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c",
                           ask.format(engine.control)], capture_output=True, text=True, timeout=20)
    assert "for root and the daemon's own user" in done.stdout, (done.stdout, done.stderr)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGKILL])
@pytest.mark.parametrize("kind, options", [("rules", ()), ("install", ()), ("install", ("--fail", "closed")),
                                           ("install", ("--fail", "open")), ("divert", ())])
def test_kept_by_the_service_manager(router, make_engine, keeper, utproxy, number, kind, options):
    engine = make_engine(kind, router, target(*options))
    assert engine.stop() == 0
    keeper.launch(engine)
    assert {"queue-0", "control", "words", "link", "flows", "listeners", "counters"} <= set(keeper.kept)
    with Flow(router, PORT, ON_PORT, interval=0.0005) as flow:
        wait_until(lambda: len(flow.proxied) > 50, 10, "packets")
        for _ in range(4):
            status = engine.process.stop(number)
            assert status == (0 if number == signal.SIGUSR2 else -signal.SIGKILL)
            count = len(flow.proxied)
            keeper.launch(engine)
            wait_until(lambda: len(flow.proxied) > count + 20, 10, "packets")
    nothing_lost(flow, engine)
    assert engine.stop() == 0
    wait_until(lambda: not keeper.kept, 10, lambda: f"nothing to be kept: {keeper.kept}")
    if kind != "rules":
        assert leftovers(router.router) == []


def test_a_service_manager_that_gives_up(router, make_engine, keeper):
    """Nobody restarts it: what is kept is closed, and --fail says what becomes of packets."""
    engine = make_engine("install", router, target("--fail", "open"))
    assert engine.stop() == 0
    keeper.launch(engine)
    engine.process.stop(signal.SIGKILL)
    with Flow(router, PORT, ON_PORT) as flow:
        time.sleep(0.2)
        assert flow.leaked == {} and flow.proxied == {}
        keeper.forget()
        wait_until(lambda: len(flow.leaked) > 20, 10, "packets to pass")
    assert flow.proxied == {}


def test_without_a_service_manager_sigusr2_is_the_end(router, make_engine):
    engine = make_engine("install", router, target())
    assert engine.process.stop(signal.SIGUSR2) == 0
    assert "no service manager keeps the queues" in engine.process.err()
    assert leftovers(router.router) == []


@pytest.mark.parametrize("names", ["control", "queue-0:words:rules:control:link:metrics:flows:listeners"])
def test_descriptors_that_are_not_open(router, utproxy, tmp_path, names):
    """What LISTEN_FDNAMES names is left out where it is not there: by its number the daemon would take one of its own."""
    count, control = names.count(":") + 1, tmp_path / "control.sock"
    script = f'LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names} exec "$@"'
    process = router.router.start("bash", "-c", script, "bash", utproxy, "run", "--queue-num", 9, "--on-port", 1,
                                  "--control", control, name="made-up")
    wait_until(lambda: "utproxy: ready" in process.err(), 20, process.err)
    said = [line for line in process.err().splitlines() if "LISTEN_FDNAMES" in line]
    assert len(said) == count and all("is not open: left out" in line for line in said), process.err()
    assert json.loads(router.router.run(utproxy, "stats", "-j", "--control", control).stdout)["packets"] == 0
    assert process.stop(signal.SIGTERM) == 0
