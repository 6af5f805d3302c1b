# SPDX-License-Identifier: GPL-3.0-or-later
"""Much traffic. Every byte of every connection is checked at both ends."""
import pytest

from engine import KINDS, Target, packet_count
from lab import ASKED, SOURCES, endpoint, source, wait_until

PORT, ON_PORT = 8080, 12345
pytestmark = pytest.mark.load
LOADED = ["kernel", "install"]


def sources(family):
    return ",".join(endpoint(source(family, n), 0) for n in range(SOURCES))


@pytest.mark.parametrize("kind", ["install"])
@pytest.mark.parametrize("family", [4, 6])
def test_in_sequence(lab, make_engine, kind, family):
    """5,000 connections a family, one after the other, 1 KB to 10 MB each way, small ones more often."""
    listener = lab.listen("tcp", ON_PORT, family=family, report=False)
    make_engine(kind, lab, Target("tcp", PORT, on_port=ON_PORT, queues=2))
    to = endpoint(ASKED[family], PORT)
    answer = lab.ask("tcp", to, "--connections", 5000, "--from", sources(family), "--min", 1000, "--max", 10000000,
                     "--skew-percent", 350, seconds=280)
    assert (answer["ok"], answer["errors"]) == (5000, {}), answer
    seen = listener.summary()
    assert seen["locals"] == {to: 5000} and seen["broken"] == 0


@pytest.mark.parametrize("kind", ["install"])
def test_at_once(lab, make_engine, kind):
    """2,000 connections at the same time, 1 KB to 10 MB each way."""
    lab.router.sh("echo 8192 > /proc/sys/net/core/somaxconn; echo 8192 > /proc/sys/net/ipv4/tcp_max_syn_backlog")
    listener = lab.listen("tcp", ON_PORT, report=False)
    make_engine(kind, lab, Target("tcp", PORT, on_port=ON_PORT, queues=2))
    to = endpoint(ASKED[4], PORT)
    answer = lab.ask("tcp", to, "--connections", 2000, "--concurrency", 2000, "--from", sources(4), "--min", 1000,
                     "--max", 10000000, "--timeout-ms", 240000, seconds=280)
    assert (answer["ok"], answer["errors"], answer["most_at_once"]) == (2000, {}, 2000), answer
    seen = listener.summary()
    assert seen["locals"] == {to: 2000} and seen["broken"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_listener_restarted(lab, make_engine, kind):
    """The listener is killed and started again while connections are opened: the next one after it works, in a second."""
    first = lab.listen("tcp", ON_PORT, report=False)
    make_engine(kind, lab, Target("tcp", PORT, on_port=ON_PORT))
    to = endpoint(ASKED[4], PORT)
    crowd = lab.client.start(lab.traffic, "tcp-client", "--to", to, "--from", sources(4), "--connections", 100000,
                             "--concurrency", 20, "--max", 100000, "--timeout-ms", 2000, "--seconds", 60, "--keep-going")
    for _ in range(5):
        wait_until(lambda: first.alive() and lab.router.run("ss", "-Htn", "state", "established").stdout, 10, "connections")
        first.popen.kill()
        first.popen.wait()
        first = lab.listen("tcp", ON_PORT, report=False)
        answer = lab.ask("tcp", to, "--connections", 20, "--timeout-ms", 1000)
        assert (answer["ok"], answer["errors"]) == (20, {}), answer
    assert crowd.summary()["ok"] > 0
    assert first.summary()["ok"] >= 20


@pytest.mark.parametrize("kind", LOADED)
def test_many_datagrams(lab, make_engine, kind):
    listener = lab.listen("udp", ON_PORT, report=False)
    engine = make_engine(kind, lab, Target("udp", PORT, on_port=ON_PORT, queues=2))
    for number in range(4):
        answer = lab.ask("udp", endpoint(ASKED[4], PORT), "--from", endpoint(source(4, number), 0), "--count", 8000,
                         "--window", 64, "--min", 40, "--max", 1400)
        assert (answer["answered"], answer["errors"]) == (8000, {}), answer
    if kind != "kernel":
        wait_until(lambda: packet_count(engine.stats()) >= 32000, 3, engine.stats)
    assert listener.summary()["at_reply_sockets"] == 0
