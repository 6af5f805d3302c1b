# SPDX-License-Identifier: GPL-3.0-or-later
"""Losses are never silent: what senders lost is what the daemon counts, by cause, and says in its log."""
import signal
import time

import pytest

from engine import Target
from failing import Flow
from lab import wait_until

PORT, ON_PORT = 8080, 12345
OTHERS = """
    table inet other {
        chain c { type filter hook prerouting priority -300; policy accept; }
    }
"""
AGAIN = """
    delete chain inet other c
    add chain inet other c { type filter hook prerouting priority -300; policy accept; }
"""


@pytest.fixture
def router(make_lab):
    return make_lab(server=True)


def counted(engine):
    return {cause: count for cause, count in engine.stats()["losses"].items() if count}


def stop_for(engine, seconds):
    """Meanwhile packets wait in the queue, as under a load that is a little too much."""
    engine.process.popen.send_signal(signal.SIGSTOP)
    time.sleep(seconds)


def go_on(engine):
    engine.process.popen.send_signal(signal.SIGCONT)


def test_another_program_replaces_its_chain_once_a_second(router, make_engine):
    """At each removal of a base chain the kernel drops what waits in any queue of the namespace."""
    router.router.run("nft", "-f", "-", text=OTHERS)
    engine = make_engine("install", router, Target("udp", PORT, on_port=ON_PORT))
    with Flow(router, PORT, ON_PORT, interval=0.0005) as flow:
        wait_until(lambda: len(flow.proxied) > 100, 10, "packets")
        for round_number in range(10):
            began = time.monotonic()
            if round_number % 2:
                stop_for(engine, 0.1)
            router.router.run("nft", "-f", "-", text=AGAIN)
            go_on(engine)
            time.sleep(max(0, began + 1 - time.monotonic()))
        moment = time.monotonic()
        wait_until(lambda: flow.first_proxied_after(moment), 5, "traffic to go on")
    assert flow.leaked == {}
    lost = flow.lost()
    assert lost > 100, "nothing was put to the test"
    losses = counted(engine)
    assert set(losses) == {"flushed"} and abs(losses["flushed"] - lost) <= lost / 100, (losses, lost)
    said = engine.process.err().count("packets were dropped by the kernel while they were being decided")
    assert 1 <= said <= 2, engine.process.err()  # ten times in ten seconds it happened
    # The kernel itself loses one now and then that is on its way into the queue when a chain goes.
    wait_until(lambda: 0 <= len(flow.sent) - engine.stats()["packets"] <= 10, 5, "every packet to be counted")


def test_interface_goes_down(router, make_engine):
    """The kernel drops what waits in a queue and came in by it."""
    engine = make_engine("install", router, Target("udp", PORT, on_port=ON_PORT))
    with Flow(router, PORT, ON_PORT) as flow:
        wait_until(lambda: len(flow.proxied) > 20, 10, "packets")
        stop_for(engine, 0.2)
        router.router.run("ip", "link", "set", "lan0", "down")
        before = len(flow.sent)
        go_on(engine)
    losses = counted(engine)
    assert set(losses) == {"interface_down"} and losses["interface_down"] >= 20, losses
    # What is sent from then on does not come in, and is no loss of ours.
    assert engine.stats()["packets"] <= before + 2
    assert engine.stats()["packets"] == len(flow.proxied) + losses["interface_down"]
    wait_until(lambda: "came in by went down" in engine.process.err(), 3, "the log to say so")


def test_queue_full_is_counted_to_the_packet(router, make_engine):
    engine = make_engine("install", router, Target("udp", PORT, on_port=ON_PORT, options=("--queue-maxlen", "16")))
    with Flow(router, PORT, ON_PORT) as flow:
        wait_until(lambda: len(flow.proxied) > 20, 10, "packets")
        for _ in range(3):
            stop_for(engine, 0.2)
            go_on(engine)
            time.sleep(0.1)
    assert flow.leaked == {}
    losses = counted(engine)
    assert losses == {"queue_full": flow.lost()} and flow.lost() > 100
    wait_until(lambda: "dropped as the queue was full" in engine.process.err(), 3, "the log to say so")


def test_socket_buffer_full_is_counted_to_the_packet(router, make_engine):
    engine = make_engine("install", router, Target("udp", PORT, on_port=ON_PORT, options=("--rcvbuf", "8192")))
    with Flow(router, PORT, ON_PORT) as flow:
        wait_until(lambda: len(flow.proxied) > 20, 10, "packets")
        for _ in range(3):
            stop_for(engine, 0.2)
            go_on(engine)
            time.sleep(0.1)
    losses = counted(engine)
    assert losses == {"netlink_overrun": flow.lost()} and flow.lost() > 100


def test_queued_twice_is_noticed(router, make_engine):
    """A second rule queues what the first one's verdict has marked."""
    # Of chains with the same priority the younger one comes first.
    router.router.run("iptables", "-t", "mangle", "-A", "PREROUTING", "-m", "mark", "--mark", "1/1", "-j", "NFQUEUE")
    engine = make_engine("install", router, Target("udp", PORT, on_port=ON_PORT))
    with Flow(router, PORT, ON_PORT) as flow:
        wait_until(lambda: len(flow.proxied) > 20, 10, "packets")
    stats = engine.stats()
    again = stats["verdicts"]["marked_before"]
    assert again == len(flow.sent) and stats["packets"] == 2 * again
    wait_until(lambda: "packets come with the target's mark already" in engine.process.err(), 3, "the log to say so")
    assert counted(engine) == {} and flow.lost() == 0
