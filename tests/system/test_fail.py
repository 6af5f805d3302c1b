# SPDX-License-Identifier: GPL-3.0-or-later
"""--fail closed and open: what is on the wire when the daemon is killed, and that the next one takes over."""
import signal
import time

import pytest

from engine import Target, leftovers
from failing import Flow
from lab import wait_until

PORT, ON_PORT = 8080, 12345
DOWN_S = 0.4


def target(*options):
    return Target("udp", PORT, on_port=ON_PORT, options=options)


@pytest.fixture
def router(make_lab):
    return make_lab(server=True)


def down_and_up(engine, flow):
    """Kills it, starts it again after a while; what was sent while it was down, as (from, until)."""
    engine.stop(signal.SIGKILL)
    down = time.monotonic()
    time.sleep(DOWN_S)
    up = time.monotonic()
    engine.launch()
    ready = time.monotonic()
    wait_until(lambda: flow.first_proxied_after(ready), 10, "the next daemon to take packets")
    return down, up


@pytest.mark.parametrize("kind", ["install", "divert"])
@pytest.mark.parametrize("family", [4, 6])
def test_closed_leaks_nothing(router, make_engine, kind, family):
    engine = make_engine(kind, router, target("--fail", "closed"))
    with Flow(router, PORT, ON_PORT, family=family) as flow:
        wait_until(lambda: len(flow.proxied) > 50, 10, "packets")
        gaps = [down_and_up(engine, flow) for _ in range(5)]
    assert flow.leaked == {}
    assert len(flow.sent) - len(flow.proxied) >= 5 * DOWN_S / 0.002 * 0.5  # they were dropped, as said
    for down, up in gaps:
        assert flow.between(flow.proxied, down, up) == 0
    assert engine.stop() == 0
    assert leftovers(router.router) == []


@pytest.mark.parametrize("kind", ["install", "divert"])
def test_open_passes_them_unproxied(router, make_engine, kind):
    engine = make_engine(kind, router, target("--fail", "open"))
    with Flow(router, PORT, ON_PORT) as flow:
        wait_until(lambda: len(flow.proxied) > 50, 10, "packets")
        assert flow.leaked == {}
        gaps = [down_and_up(engine, flow) for _ in range(5)]
    for down, up in gaps:
        sent = flow.between(flow.sent, down, up)
        assert sent > 20 and flow.between(flow.leaked, down, up) >= sent - 1, (sent, flow.between(flow.leaked, down, up))
    assert engine.stop() == 0
    assert leftovers(router.router) == []


def test_closed_stays_closed_until_it_is_taken_away(router, make_engine, utproxy):
    engine = make_engine("install", router, target("--fail", "closed"))
    engine.stop(signal.SIGKILL)
    assert "utproxy" in router.router.run("nft", "list", "tables").stdout
    with Flow(router, PORT, ON_PORT) as flow:
        time.sleep(DOWN_S)
    assert (flow.leaked, flow.proxied) == ({}, {}) and len(flow.sent) > 20
    # A start that fails opens nothing either.
    done = router.router.run(*engine.argv(), "--control", "/proc/none/control.sock", check=False)
    assert done.returncode == 1
    assert "utproxy" in router.router.run("nft", "list", "tables").stdout
    router.router.run(utproxy, "ruleset", "remove")
    assert leftovers(router.router) == []
    with Flow(router, PORT, ON_PORT) as flow:
        time.sleep(DOWN_S)
    assert flow.proxied == {} and len(flow.leaked) == len(flow.sent)


@pytest.mark.parametrize("policy, passes", [("closed", False), ("open", True)])
def test_full_queue(router, make_engine, policy, passes):
    """A daemon that stands still, and a queue of ten: what comes beyond is dropped and counted, or passes."""
    engine = make_engine("install", router, target("--fail", policy, "--queue-maxlen", "10"))
    engine.process.popen.send_signal(signal.SIGSTOP)
    try:
        with Flow(router, PORT, ON_PORT) as flow:
            time.sleep(DOWN_S)
            assert len(flow.proxied) == 0
    finally:
        engine.process.popen.send_signal(signal.SIGCONT)
    sent = len(flow.sent)
    if passes:
        assert len(flow.leaked) == sent - 10
        assert engine.stats()["losses"]["queue_full"] == 0
    else:
        assert flow.leaked == {}
        wait_until(lambda: engine.stats()["losses"]["queue_full"] == sent - 10, 5, lambda: str(engine.stats()["losses"]))
    assert engine.stop() == 0
